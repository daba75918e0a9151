"""What a command would do, before it does it."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from allocation.domain.commands import (
    Allocate,
    BlockBatch,
    CancelOrder,
    ChangeBestBefore,
    ChangeLineQuantity,
    Command,
    CreateBatch,
    Receive,
    UnblockBatch,
    WriteOff,
)
from allocation.domain.events import (
    Allocated,
    BatchBlocked,
    BatchExpired,
    BatchQuantityChanged,
    BestBeforeChanged,
    Deallocated,
    OutOfStock,
    PromiseChanged,
    Received,
)
from allocation.domain.outcomes import Refused, Succeeded
from allocation.service_layer.execution import execute
from allocation.service_layer.preview import Preview, preview
from tests.storage.conftest import Storage, memory_storage, message

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
SHIP = date(2030, 2, 1)


@pytest.fixture
def storage() -> Storage:
    return memory_storage(now=lambda: NOON)


def played(storage: Storage, *commands: Command) -> None:
    """Execute the commands, one after another."""
    for number, each in enumerate(commands, start=1):
        execute(message(each, number), storage.unit_of_work())


def test_a_preview_has_the_outcome_and_events_of_the_command_and_its_follow_ups(
    storage: Storage,
) -> None:
    played(
        storage,
        CreateBatch("shelf", "LAMP", 5),
        CreateBatch("ship", "LAMP", 5, SHIP),
        Allocate("o1", "LAMP", 3),
        Allocate("o2", "LAMP", 2),
        Allocate("o3", "LAMP", 4),
    )

    seen = preview(BlockBatch("shelf", "recall"), storage.unit_of_work())

    # The ship has one free piece, for none of the two lines that lose the shelf.
    assert seen == Preview(
        Succeeded(status="blocked", batchref="shelf"),
        (
            BatchBlocked("shelf", "LAMP", 5, "recall"),
            Deallocated("o2", "LAMP", 2, "shelf"),
            Deallocated("o1", "LAMP", 3, "shelf"),
            OutOfStock("o1", "LAMP", 3),
            OutOfStock("o2", "LAMP", 2),
        ),
    )


def test_lines_that_wait_are_served_in_the_preview_as_they_would_be(storage: Storage) -> None:
    played(storage, CreateBatch("shelf", "LAMP", 1), Allocate("o1", "LAMP", 3))

    seen = preview(Receive("shelf", 2), storage.unit_of_work())

    assert seen.events == (
        Received("shelf", "LAMP", 2),
        BatchQuantityChanged("shelf", "LAMP", 3),
        Allocated("o1", "LAMP", 3, "shelf"),
    )


def test_a_promise_that_gets_earlier_shows_its_old_day(storage: Storage) -> None:
    played(
        storage,
        CreateBatch("ship", "LAMP", 5, SHIP),
        Allocate("o1", "LAMP", 3),
        CreateBatch("shelf", "LAMP", 1),
    )

    seen = preview(Receive("shelf", 2), storage.unit_of_work())

    assert seen.events[-1] == PromiseChanged("o1", "LAMP", 3, "shelf", SHIP, None)


def test_what_is_due_by_the_day_is_played_too(storage: Storage) -> None:
    played(storage, CreateBatch("shelf", "LAMP", 5, best_before=date(2030, 6, 1)))
    yesterday = NOON.date() - timedelta(days=1)

    seen = preview(ChangeBestBefore("shelf", yesterday), storage.unit_of_work())

    assert seen.events == (
        BestBeforeChanged("shelf", "LAMP", yesterday),
        BatchExpired("shelf", "LAMP", 5, yesterday),
    )


@pytest.mark.parametrize(
    "command",
    [
        BlockBatch("shelf", "recall"),
        Receive("shelf", 4),
        WriteOff("shelf", 5, "wet"),
        ChangeLineQuantity("o1", "LAMP", 5),
        CancelOrder("o1"),
        CreateBatch("new", "SOFA", 1),
    ],
    ids=lambda command: type(command).__name__,
)
def test_a_preview_saves_nothing(command: Command, storage: Storage) -> None:
    played(storage, CreateBatch("shelf", "LAMP", 5), Allocate("o1", "LAMP", 3))
    outbox = storage.outbox()
    first = preview(command, storage.unit_of_work())

    again = preview(command, storage.unit_of_work())

    assert isinstance(first.outcome, Succeeded)
    assert first.events != ()
    assert again == first
    assert storage.outbox() == outbox


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        (
            WriteOff("shelf", 6, "wet"),
            Refused("quantity too large", field="qty", qty=6, known_qty=5),
        ),
        (
            UnblockBatch("nope"),
            Refused("unknown batchref", field="batchref", batchref="nope"),
        ),
        (
            ChangeLineQuantity("o1", "LAMP", 6),
            Refused("not enough stock", field="qty", qty=6, known_qty=3),
        ),
    ],
)
def test_a_refusal_is_seen_before(command: Command, refusal: Any, storage: Storage) -> None:
    played(storage, CreateBatch("shelf", "LAMP", 5), Allocate("o1", "LAMP", 3))

    assert preview(command, storage.unit_of_work()) == Preview(refusal, ())


def test_a_preview_that_ends_early_says_so(storage: Storage) -> None:
    played(storage, CreateBatch("shelf", "LAMP", 1), Allocate("o1", "LAMP", 3))

    seen = preview(Receive("shelf", 2), storage.unit_of_work(), follow_ups=0)

    assert (len(seen.events), seen.complete) == (2, False)
