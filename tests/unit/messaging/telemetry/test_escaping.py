"""Untrusted text can't control a terminal or begin a line of its own."""

from allocation.messaging.telemetry.escaping import escaped

EVIL = "a\x1b[2Jb\nc\td\x9be\u202ef\ud800g\u2028 [red]żółw"


def test_every_character_that_is_not_printable_is_escaped() -> None:
    one_line = escaped(EVIL)
    lines = escaped(EVIL, lines=True)

    assert one_line == r"a\x1b[2Jb\nc\td\x9be\u202ef\ud800g\u2028 [red]żółw"
    assert lines == "a\\x1b[2Jb\nc\td\\x9be\\u202ef\\ud800g\\u2028 [red]żółw"
