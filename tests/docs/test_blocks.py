"""What counts as the stated result of a block, and how a page's blocks are found."""

from pathlib import Path

import pytest

from tests.docs.blocks import Block, blocks, says


def text(stated: str) -> Block:
    return Block(0, "text", stated)


@pytest.mark.parametrize(
    ("stated", "said", "holds"),
    [
        ("one\ntwo\n", "one  \ntwo\n\n", True),
        ("one\ntwo\n", "one\n", False),
        ("id ... sent", "id 7 sent", True),
        ("id ... sent", "id 7\n8 sent", False),
        ("one\n...", "one", True),
        ("one\n...", "one\ntwo\nthree", True),
        ("one\n...", "ones", False),
        ("one\n...\nfour", "one\ntwo\nthree\nfour", True),
        ("a.c", "abc", False),
    ],
)
def test_a_text_is_what_was_said_but_for_the_dots(stated: str, said: str, holds: bool) -> None:
    """Within a line they are any text, alone on one any lines, also none."""
    assert says(text(stated), said) is holds


@pytest.mark.parametrize(
    ("stated", "said", "holds"),
    [
        ('{"a": 1, "b": [2]}', '{"b": [2], "a": 1}', True),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": 1}', '{"a": 1, "b": 2}', False),
        ('{"a": 1, "...": "..."}', '{"a": 1, "b": 2}', True),
        ('{"a": 1, "...": "..."}', '{"b": 2}', False),
        ('{"a": "b-..."}', '{"a": "b-7"}', True),
        ('{"a": ["b", "..."]}', '{"a": ["b", "c", "d"]}', True),
        ('{"a": ["b", "..."]}', '{"a": []}', False),
        ('{"a": 1}', "no JSON", False),
    ],
)
def test_json_is_the_same_values_but_for_the_dots(stated: str, said: str, holds: bool) -> None:
    """In whatever order an object's names come."""
    assert says(Block(0, "json", stated), said) is holds


def test_blocks_are_fenced_or_indented_and_carry_the_note_before_them(tmp_path: Path) -> None:
    """A note that stands further away is another one's."""
    page = tmp_path / "page.md"
    page.write_text("<!-- a -->\n```sh\none\n```\n\n<!-- b -->\n\n    two\n\n    three\n\nend\n")

    assert blocks(page) == [Block(2, "sh", "one\n", "a"), Block(8, "", "two\n\nthree\n")]
