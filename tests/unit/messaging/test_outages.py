"""Work over one connection after the other, on kombu's broker in memory."""

import threading
from typing import Any

import pytest
from kombu import Connection

from allocation.messaging.outages import is_missing, work_through_outages


class DatabaseDown(Exception):
    pass


class Missing(OSError):
    reply_code = 404


def test_an_outage_is_reported_and_the_work_tried_again_on_a_new_connection() -> None:
    stop, outages, used = threading.Event(), list[tuple[Exception, bool]](), list[Connection]()
    errors = [Missing("no queue"), DatabaseDown("down")]

    def work(connection: Connection) -> float:
        used.append(connection)
        if errors:
            raise errors.pop(0)
        stop.set()
        return 60.0

    work_through_outages(
        *(stop, lambda: Connection("memory://"), work),
        on_outage=lambda error, seconds: outages.append((error, 0 < seconds < 1)),
        outages=[DatabaseDown],
    )

    assert len({id(each) for each in used}) == 3
    assert [(str(error), short, is_missing(error)) for error, short in outages] == [
        ("no queue", True, True),
        ("down", True, False),
    ]


def test_a_fault_of_ours_ends_the_work() -> None:
    def work(_: Connection) -> float:
        raise KeyError("a bug")

    outages: list[Any] = []
    with pytest.raises(KeyError):
        work_through_outages(
            *(threading.Event(), lambda: Connection("memory://"), work),
            on_outage=lambda *outage: outages.append(outage),
            outages=[DatabaseDown],
        )

    assert outages == []
