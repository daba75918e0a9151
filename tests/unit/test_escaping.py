"""Untrusted text can't control a terminal or begin a log line of its own."""

from types import ModuleType

import pytest
import structlog

import workers.escaping
import workers.logs
from allocation.messaging.telemetry import escaping, logs

EVIL = "a\x1b[2Jb\nc\td\x9be\u202ef\ud800g\u2028 [red]żółw"


@pytest.mark.parametrize("module", [escaping, workers.escaping])
def test_every_character_that_is_not_printable_is_escaped(module: ModuleType) -> None:
    one_line = module.escaped(EVIL)
    lines = module.escaped(EVIL, lines=True)

    assert one_line == r"a\x1b[2Jb\nc\td\x9be\u202ef\ud800g\u2028 [red]żółw"
    assert lines == "a\\x1b[2Jb\nc\td\\x9be\\u202ef\\ud800g\\u2028 [red]żółw"


def test_a_log_line_stays_one_line() -> None:
    line: structlog.types.EventDict = {"event": "told", "reason": f"x\n{EVIL}", "count": 3}

    shown = logs._escape(None, "", dict(line))
    by_workers = workers.logs._escape(None, "", dict(line))

    expected = {
        "event": "told",
        "reason": r"x\n" + escaping.escaped(EVIL),
        "count": 3,
    }
    assert shown == by_workers == expected
