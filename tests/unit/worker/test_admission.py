"""Which messages the worker admits, on real messages and without a broker."""

import json
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from kombu.message import Message

from allocation.contract import registry
from allocation.entrypoints.worker.admission import (
    LONGEST_DELAY,
    Admission,
    Inadmissible,
    UnknownTask,
    check,
)
from allocation.entrypoints.worker.executor import Call
from allocation.messaging.dead_letters import Details
from tests.celery_messages import GOOD_BODY, INVALID, celery_headers
from tests.faults.fuzz import fuzzed

KNOWN = {*registry.COMMANDS, "celery.backend_cleanup"}


class Channel:
    """Records how messages are settled."""

    no_ack_consumers = None

    def __init__(self) -> None:
        self.settled: list[str] = []

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        self.settled.append("acknowledged")

    def basic_reject(self, tag: int, requeue: bool) -> None:
        self.settled.append("requeued" if requeue else "rejected")


def message(body: bytes = GOOD_BODY, channel: Channel | None = None, **properties: Any) -> Message:
    """A delivered one."""
    sent = {
        "headers": celery_headers(),
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "delivery_tag": 1,
    }
    return Message(body, accept={"application/json"}, channel=channel, **{**sent, **properties})


class Broker:
    """Takes copies of messages, or none."""

    def __init__(self, takes: bool = True) -> None:
        self.takes = takes
        self.dead_letters: list[Details] = []
        self.delays: list[float] = []

    def dead_letter(self, _message: Message, facts: Details) -> bool:
        self.dead_letters.append(facts)
        return self.takes

    def postpone(self, _message: Message, delay: float) -> bool:
        self.delays.append(delay)
        return self.takes

    def admission(self) -> Admission:
        return Admission(KNOWN, self.dead_letter, self.postpone, ())


def test_a_command_is_admitted_and_left_unsettled() -> None:
    channel, broker = Channel(), Broker()

    admitted = broker.admission().admit(message(channel=channel))

    assert admitted
    assert (channel.settled, broker.dead_letters) == ([], [])


# kombu itself refuses a compressed body, and reports that to `turn_away`.
@pytest.mark.parametrize("mistake", sorted(INVALID.keys() - {"an unknown compression"}))
def test_an_invalid_message_is_dead_lettered_with_the_reason(mistake: str) -> None:
    channel, broker = Channel(), Broker()
    body, properties = INVALID[mistake]

    admitted = broker.admission().admit(message(body, channel, **properties))

    [facts] = broker.dead_letters
    unknown = mistake in ("an unknown task", "a task of Celery's own")
    assert not admitted
    assert facts["reason"] == ("unknown task" if unknown else "unreadable")
    assert facts["error"]
    assert channel.settled == ["acknowledged"]


def test_an_invalid_message_that_the_broker_takes_no_copy_of_is_rejected() -> None:
    channel = Channel()

    Broker(takes=False).admission().admit(message(b"{", channel))

    assert channel.settled == ["rejected"]


def test_a_message_that_kombu_can_not_read_is_dead_lettered() -> None:
    channel, broker = Channel(), Broker()

    broker.admission().turn_away(message(channel=channel), "it is compressed")

    assert broker.dead_letters == [{"reason": "unreadable", "error": "it is compressed"}]
    assert channel.settled == ["acknowledged"]


def eta(seconds: float) -> dict[str, object]:
    return celery_headers(eta=(datetime.now(UTC) + timedelta(seconds=seconds)).isoformat())


def test_a_command_that_is_due_later_is_postponed_by_the_broker() -> None:
    channel, broker = Channel(), Broker()

    admitted = broker.admission().admit(message(channel=channel, headers=eta(60)))

    assert not admitted
    assert broker.delays == [pytest.approx(60, abs=5)]
    assert channel.settled == ["acknowledged"]


@pytest.mark.parametrize(("seconds", "takes"), [(60, False), (0.5, True), (-60, True)])
def test_a_command_that_is_due_or_that_the_broker_can_not_hold_is_admitted(
    seconds: float, takes: bool
) -> None:
    channel = Channel()

    admitted = Broker(takes).admission().admit(message(channel=channel, headers=eta(seconds)))

    assert admitted
    assert channel.settled == []


def test_an_eta_without_a_time_zone_is_utc() -> None:
    broker = Broker()
    naive = (datetime.now(UTC) + timedelta(seconds=600)).replace(tzinfo=None).isoformat()

    broker.admission().admit(message(channel=Channel(), headers=celery_headers(eta=naive)))

    assert broker.delays == [pytest.approx(600, abs=5)]


def test_an_eta_that_the_broker_can_not_hold_is_invalid() -> None:
    broker = Broker()

    broker.admission().admit(message(channel=Channel(), headers=eta(LONGEST_DELAY + 60)))

    assert [facts["reason"] for facts in broker.dead_letters] == ["unreadable"]


def test_a_task_of_a_newer_worker_is_unknown() -> None:
    with pytest.raises(UnknownTask):
        check(message(headers=celery_headers("allocation.newer")), KNOWN)


def test_random_messages_are_inadmissible_or_commands_and_end_nothing() -> None:
    admitted = refused = 0

    for body, properties in fuzzed(Random(7), 2000):
        one = message(body, **properties)
        if one.errors:  # compressed
            continue
        try:
            check(one, KNOWN)
        except Inadmissible:
            refused += 1
            continue
        args, kwargs, _ = json.loads(body)
        headers = properties["headers"]
        call = Call(headers["task"], headers["id"], {**headers, "args": args, "kwargs": kwargs})
        assert call.message().id
        assert call.names()["command"] == headers["task"]
        admitted += 1

    assert admitted > 300
    assert refused > 300
