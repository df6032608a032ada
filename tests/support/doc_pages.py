"""The pages of the documentation: their code blocks, the commands in these, and their headings as anchors."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^ *```([^\n]*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A code block. *language* is what follows the backticks, often nothing."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """What follows "$ "."""
        return [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]


def pages() -> list[Path]:
    """Return the README and every page of docs/, also those that come later."""
    return [ROOT / "README.md", ROOT / "sample_project" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: str | None = None, language: str | None = None) -> list[Block]:
    """Return the code blocks of *page* (``docs/state.md``; None: of all pages) in *language* (None: in any)."""
    found = []
    for path in pages():
        name, text = str(path.relative_to(ROOT)), path.read_text()
        if page in (None, name):
            for match in _BLOCK.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(name, line, match[1].strip(), textwrap.dedent(match[2])))
    return [block for block in found if language in (None, block.language)]


def block(page: str, contains: str) -> str:
    """Return the one block of *page* that contains that text."""
    [found] = [each.text for each in blocks(page) if contains in each.text]
    return found


def state_commands(text: str) -> list[list[str]]:
    """Return the ``scrapy state …`` command lines in a line of shell, each as its arguments after "state"."""
    found = []
    for part in re.split(r"\||&&|;|\$\(|\)\"", text):
        words = shlex.split(re.sub(r"\s\d?>.*|\"$", "", part), comments=True) if "scrapy state " in part else []
        while words and words[:2] != ["scrapy", "state"]:
            words.pop(0)
        found += [words[2:]] if words else []
    return found


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of *page*, as GitHub and the site make them."""
    headings = _HEADING.findall(_BLOCK.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
