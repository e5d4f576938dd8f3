"""Rules over several fields: the CEL text that the API server evaluates, beside the same check in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """cel: over the spec; field: path under spec that is at fault; message: the fix; check: (new, old or None) -> ok.

    transition: the rule looks at the old object, so it holds for changes only.
    """

    cel: str
    field: str
    message: str
    check: Callable[[Any, Any], bool]
    transition: bool = False
