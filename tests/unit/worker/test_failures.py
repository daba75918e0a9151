"""Whether a failed command is dead-lettered or redelivered, without Celery's machinery."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest
from celery.exceptions import Reject
from kombu.message import Message

from allocation.contract.codec import UnknownFields
from allocation.entrypoints.worker.failures import Failure, Failures, details_of
from allocation.messaging.dead_letters import Details

BROKEN = Failure(ValueError("no such column\nSELECT secret"), "Traceback ...")


class Delivery:
    """Records how it is settled."""

    def __init__(self, acknowledged: bool = False, **request: Any) -> None:
        self.acknowledged = acknowledged
        self.message = Message("", delivery_tag=1, channel=None)
        self.request_dict: Mapping[str, Any] = request
        self.settled: list[str] = []

    def acknowledge(self) -> None:
        self.settled.append("acknowledged")

    def reject_message(self, requeue: bool) -> None:
        self.settled.append("redelivered" if requeue else "rejected")


class DeadLetters:
    """Takes each dead letter, or none."""

    def __init__(self, takes: bool = True) -> None:
        self.takes = takes
        self.facts: list[Details] = []

    def __call__(self, _message: Message, facts: Details) -> bool:
        self.facts.append(facts)
        return self.takes

    def reasons(self) -> list[object]:
        return [facts["reason"] for facts in self.facts]


def test_a_failed_command_is_dead_lettered_and_then_acknowledged() -> None:
    delivery, dead_letters = Delivery(), DeadLetters()

    Failures(dead_letters).rejected(delivery, BROKEN, requeue=False)

    assert dead_letters.reasons() == ["failed"]
    assert delivery.settled == ["acknowledged"]


def test_a_command_that_the_broker_takes_no_dead_letter_of_is_rejected() -> None:
    delivery = Delivery()

    Failures(DeadLetters(takes=False)).rejected(delivery, BROKEN, requeue=False)

    assert delivery.settled == ["rejected"]


@pytest.mark.parametrize("failure", [BROKEN, Failure(None), Failure(Reject("later", True))])
def test_a_command_that_is_to_be_requeued_is_redelivered(failure: Failure) -> None:
    delivery, dead_letters = Delivery(), DeadLetters()

    Failures(dead_letters).rejected(delivery, failure, requeue=True)

    assert dead_letters.reasons() == []
    assert delivery.settled == ["redelivered"]


def test_a_command_that_is_settled_already_becomes_no_second_dead_letter() -> None:
    delivery, dead_letters = Delivery(acknowledged=True), DeadLetters()

    Failures(dead_letters).rejected(delivery, BROKEN, requeue=False)
    Failures(dead_letters).revoked(delivery, "terminated")

    assert dead_letters.reasons() == []


@pytest.mark.parametrize("reason", ["revoked", "expired", "terminated"])
def test_a_revoked_command_is_dead_lettered_and_left_for_celery_to_acknowledge(
    reason: str,
) -> None:
    delivery, dead_letters = Delivery(), DeadLetters()

    Failures(dead_letters).revoked(delivery, reason)

    error = f"the command was {reason} before it was decided"
    assert dead_letters.facts == [{"reason": reason, "error": error}]
    assert delivery.settled == []


def test_a_revoked_command_that_the_broker_takes_no_dead_letter_of_is_rejected() -> None:
    delivery = Delivery()

    Failures(DeadLetters(takes=False)).revoked(delivery, "expired")

    assert delivery.settled == ["rejected"]


def test_a_dead_letter_tells_the_error_without_its_values_and_the_attempts() -> None:
    facts = dict(details_of(BROKEN, {"retries": 3, "first_failed_at": "2030-01-01"}))

    assert datetime.fromisoformat(str(facts.pop("last"))).tzinfo is not None
    assert facts == {
        "reason": "failed",
        "error": "ValueError: no such column",
        "traceback": "Traceback ...",
        "attempts": 4,
        "first": "2030-01-01",
    }


def test_a_command_with_fields_of_a_newer_contract_has_a_reason_of_its_own() -> None:
    facts = details_of(Failure(UnknownFields("colour")), {})

    assert (facts["reason"], facts["first"]) == ("unknown field", facts["last"])
