"""The fenced blocks of a Markdown page, and how a page is run from top to bottom."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

RUN = ("python", "sh")
# What is shown and not run. cpp is compiled elsewhere: it quotes files of a tested example.
SHOWN = ("text", "math", "mermaid", "cpp", "json", "yaml", "toml")

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+|~~~+) *(?P<language>[^ `]*).*$")
LIST_ITEM = re.compile(r"^ *(?:[-*+]|\d+[.)]) ")
HOLDS_INDENTED = re.compile(r"^ *(?:!!!|\?\?\?\+?|===) ")  # an admonition, tabs
QUOTED = re.compile(r'^ *--8<-- "(?P<path>[^":]+)(?::(?P<section>[^"]+))?" *$')


class BadPage(AssertionError):
    """Says page, line and what is wrong there."""


class Block(NamedTuple):
    page: Path
    line: int  # of its first line of content, from 1
    language: str
    text: str

    def bad(self, what: str, line: int | None = None) -> BadPage:
        return BadPage(f"{self.page}:{line or self.line}: {what}")


class Command(NamedTuple):
    line: int
    words: list[str]


def blocks(page: Path) -> list[Block]:
    """All fenced blocks; BadPage where code is not in one, or its language is none of ours."""
    found, start, in_list, blank = [], None, False, True
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        fence = FENCE.match(line)
        if start is not None:
            opened, first = start
            if fence and not fence["language"] and fence["ticks"].startswith(opened["ticks"]):
                indent = len(opened["indent"])
                text = "\n".join(each[indent:] for each in lines[first : number - 1])
                found.append(Block(page, first + 1, opened["language"], text))
                start = None
        elif fence:
            start = fence, number
            if fence["language"] not in RUN + SHOWN:
                raise BadPage(
                    f"{page}:{number}: a fence of language {fence['language']!r}; expected one of "
                    f"{', '.join(RUN + SHOWN)}"
                )
        elif line.startswith(("    ", "\t")) and blank and not in_list:
            raise BadPage(f"{page}:{number}: an indented code block; expected a fence")
        elif line.strip() and not line.startswith(" "):
            in_list = bool(LIST_ITEM.match(line) or HOLDS_INDENTED.match(line))
        blank = not line.strip()
    if start is not None:
        raise BadPage(f"{page}:{start[1]}: a fence without an end")
    return found


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block of sh: lines joined by \\, and parted by &&, without comments."""
    text, first = "", None
    for number, line in enumerate(block.text.splitlines(), block.line):
        first = first or number
        text += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        try:
            words = shlex.split(text, comments=True)
        except ValueError as error:
            raise block.bad(f"{error}: {text}", first) from error
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield Command(first, words[:end])
            words = words[end + 1 :]
        text, first = "", None
    if text:
        raise block.bad("a command without an end")


def quotations(block: Block, root: Path) -> bool:
    """Whether the block quotes files by snippets: they are there, and tested where they stand."""
    quoted = [QUOTED.match(line) for line in block.text.splitlines() if "--8<--" in line]
    for number, match in enumerate(quoted):
        if match is None:
            raise block.bad(f'snippet {number + 1}: expected --8<-- "path" or "path:section"')
        file = root / match["path"]
        if not file.is_file():
            raise block.bad(f"there is no {match['path']} to quote")
        if match["section"] and f"--8<-- [start:{match['section']}]" not in file.read_text():
            raise block.bad(f"{match['path']} has no section {match['section']}")
    return bool(quoted)


def run_page(page: Path, root: Path, run_command: Callable[[list[str]], None]) -> dict[str, Any]:
    """Runs a page's blocks in order: python in one namespace, which is returned, sh by command.

    A traceback points at the page's own lines.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if quotations(block, root):
            continue
        if block.language == "python":
            source = "\n" * (block.line - 1) + block.text
            exec(compile(source, str(page), "exec"), namespace)
        elif block.language == "sh":
            for command in commands(block):
                try:
                    run_command(command.words)
                except AssertionError as error:
                    raise block.bad(f"{shlex.join(command.words)}\n{error}", command.line) from None
    return namespace
