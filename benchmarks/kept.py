"""What a run knows so far, in a file that is whole at every moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def keep(value: Mapping[str, Any], target: Path) -> None:
    """Write the value as JSON; who is stopped meanwhile leaves what stood there before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(target)
