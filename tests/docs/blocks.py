"""The blocks of a Markdown page, and whether an output is what a block states."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

ANYTHING = "..."
"""In a stated result: any text within a line; alone on a line, or as a JSON list's last item or an
object's name, any more of them."""

_COMMENT = re.compile(r"<!-- (.*) -->")
_FENCE = re.compile(r"```(\w*)")


@dataclass(frozen=True, slots=True)
class Block:
    """One block: fenced, or indented by four columns, which has no language.

    `note` is the comment on the line before it, which readers of the page don't see.
    """

    line: int
    language: str
    text: str
    note: str = ""

    @property
    def is_result(self) -> bool:
        """Whether it states what the block before it says."""
        return self.language in ("text", "json")


def blocks(page: Path) -> list[Block]:
    """Every block, in order."""
    found: list[Block] = []
    lines = page.read_text().splitlines()
    number, note = 0, ""
    while number < len(lines):
        first, line = number, lines[number]
        number += 1
        if comment := _COMMENT.fullmatch(line):
            note = comment[1]
            continue
        if fence := _FENCE.fullmatch(line):
            end = lines.index("```", number)
            inside, number = lines[number:end], end + 1
            found.append(Block(first + 1, fence[1], "\n".join(inside) + "\n", note))
        elif line.startswith("    "):
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number]):
                number += 1
            inside = [each[4:] for each in lines[first:number]]
            found.append(Block(first + 1, "", "\n".join(inside).rstrip() + "\n", note))
        note = ""
    return found


def beginning(page: Path, words: str) -> Block:
    """The page's one block that begins with these words."""
    [found] = [block for block in blocks(page) if block.text.startswith(words)]
    return found


def says(block: Block, said: str) -> bool:
    """Whether `said` is what the result states."""
    if block.language == "json":
        try:
            return _is(json.loads(block.text), json.loads(said))
        except ValueError:
            return False
    lines = [line.rstrip() for line in block.text.strip().splitlines()]
    pattern = ""
    for number, line in enumerate(lines):
        if line == ANYTHING:
            pattern += r"(?s:(\n.*)?)" if number else "(?s:.*)"
        else:
            pattern += "\n" * bool(number) + ".*".join(map(re.escape, line.split(ANYTHING)))
    heard = "\n".join(line.rstrip() for line in said.strip().splitlines())
    return re.fullmatch(pattern, heard) is not None


def _is(stated: object, said: object) -> bool:
    match stated, said:
        case dict(), dict():
            more = ANYTHING in stated
            wanted = {name: value for name, value in stated.items() if name != ANYTHING}
            return (more or wanted.keys() == said.keys()) and all(
                name in said and _is(value, said[name]) for name, value in wanted.items()
            )
        case list(), list():
            if stated and stated[-1] == ANYTHING:
                stated, said = stated[:-1], said[: len(stated) - 1]
            return len(stated) == len(said) and all(map(_is, stated, said))
        case str(), _ if ANYTHING in stated:
            pattern = re.escape(stated).replace(re.escape(ANYTHING), ".*")
            return re.fullmatch(pattern, str(said), re.DOTALL) is not None
        case _:
            return type(stated) is type(said) and stated == said
