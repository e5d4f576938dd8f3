"""The pages of the project, and the fenced blocks in them.

The word after the language says what a block is: a file name (`python hello/counter.py`), or, of `sh` blocks, nothing
(run as it stands), `terminal` (runs until it is stopped) or anything else (each command has a test of its own).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(?P<language>\w*)[ \t]*(?P<about>[^\n`]*)\n(?P<text>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<to>[^)\s]+)\)|!\[[^\]]*\]\((?P<image>[^)\s]+)\)")
SKIPPED = {".venv", ".git", ".cache", "build", "node_modules", "requirements"}


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. line: of its first line of text; about: what stands behind the language."""

    page: Path
    line: int
    language: str
    about: str
    text: str

    @property
    def file(self) -> str:
        """The file that the block is, empty for none."""
        return self.about if self.language != "sh" and "." in self.about else ""

    @property
    def commands(self) -> list[str]:
        """The commands of a `sh` block: comments gone, continued lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        stripped = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in lines)
        return [re.sub(r"\s+", " ", line) for line in stripped if line]


def pages() -> list[Path]:
    """Return the Markdown files that people read, sorted; the requirement tables are not among them."""
    found = (path for path in ROOT.rglob("*.md") if not SKIPPED & set(path.relative_to(ROOT).parts))
    return sorted(found)


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start("text")) + 1, found["language"], found["about"], found["text"])
        for found in FENCE.finditer(text)
    ]


def links(page: Path) -> Iterator[str]:
    """Yield the targets of links and pictures outside fenced blocks."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for found in LINK.finditer(text):
        yield found["to"] or found["image"]
