"""Makes this folder's modules importable by name."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:  # at the end: nothing of ours may hide a library
    sys.path.append(str(ROOT))
