"""Untrusted text can't begin a log line of its own."""

import structlog

from allocation.messaging.telemetry import escaping, logs
from tests.unit.messaging.telemetry.test_escaping import EVIL


def test_a_log_line_stays_one_line() -> None:
    line: structlog.types.EventDict = {"event": "told", "reason": f"x\n{EVIL}", "count": 3}

    shown = logs._escape(None, "", dict(line))

    assert shown == {
        "event": "told",
        "reason": r"x\n" + escaping.escaped(EVIL),
        "count": 3,
    }
