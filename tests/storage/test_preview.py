"""A preview is what happens, on every storage."""

from datetime import UTC, datetime, timedelta

import pytest

from allocation.contract import codec, registry
from allocation.domain.commands import (
    Allocate,
    AllocateWaiting,
    BlockBatch,
    CancelOrder,
    ChangeBatchEta,
    ChangeLineQuantity,
    Command,
    CreateBatch,
    Receive,
    ReviewPromises,
)
from allocation.service_layer.execution import execute
from allocation.service_layer.preview import preview
from tests.storage.conftest import Storage, message

TODAY = datetime.now(UTC).date()
SOON, LATER = TODAY + timedelta(days=5), TODAY + timedelta(days=50)
STOCK = [
    CreateBatch("shelf", "LAMP", 5),
    CreateBatch("soon", "LAMP", 6, SOON),
    CreateBatch("later", "LAMP", 9, LATER),
    Allocate("o1", "LAMP", 3),
    Allocate("o2", "LAMP", 2),
    Allocate("o3", "LAMP", 4),
    Allocate("o4", "LAMP", 8),
    Allocate("o5", "LAMP", 7, split=True),
]


@pytest.mark.parametrize(
    "command",
    [
        BlockBatch("shelf", "recall"),
        BlockBatch("later", "recall"),
        Receive("shelf", 9),
        ChangeBatchEta("later", None),
        ChangeBatchEta("soon", LATER),
        ChangeLineQuantity("o4", "LAMP", 1),
        CancelOrder("o1"),
    ],
    ids=lambda command: type(command).__name__,
)
def test_what_a_preview_shows_is_what_happens(command: Command, storage: Storage) -> None:
    for number, each in enumerate(STOCK):
        execute(message(each, number), storage.unit_of_work())
    before = len(storage.outbox())

    seen = preview(command, storage.unit_of_work())

    assert len(storage.outbox()) == before
    outcome = execute(message(command, 100), storage.unit_of_work())
    done = before
    while new := storage.outbox()[done:]:
        done += len(new)
        for name, body in new:
            if name in ("allocation.allocate_waiting", "allocation.review_promises"):
                follow_up = codec.parse_command(name, body)
                assert isinstance(follow_up, AllocateWaiting | ReviewPromises)
                execute(message(follow_up, 100 + done), storage.unit_of_work())
    happened = [(name, body["sequence"]) for name, body in storage.outbox() if "sequence" in body]
    shown = [(registry.NAMES[type(each)], each.sequence) for each in seen.events]
    assert shown
    assert shown == happened[-len(shown) :]
    assert (seen.outcome, seen.complete) == (outcome, True)
