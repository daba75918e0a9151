"""What becomes of order lines, from the events of a preview."""

from collections.abc import Sequence
from datetime import date

import pytest

from allocation.domain.commands import (
    BlockBatch,
    CancelOrder,
    ChangeBatchEta,
    ChangeLineQuantity,
    Command,
)
from allocation.domain.events import (
    Allocated,
    BatchBlocked,
    Deallocated,
    Event,
    LineQuantityChanged,
    OutOfStock,
    PromiseChanged,
)
from allocation.entrypoints.api.pages.effects import Effect, effects

TODAY = date(2030, 1, 10)
PAST, SOON, LATE = date(2030, 1, 1), date(2030, 2, 1), date(2030, 3, 1)
DAYS = {"shelf": None, "shelf-2": None, "late": LATE, "soon": SOON, "overdue": PAST}
BLOCK = BlockBatch("any", "recall")


@pytest.mark.parametrize(
    ("command", "events", "effect"),
    [
        pytest.param(
            BLOCK,
            [
                BatchBlocked("shelf", "BED", 5, "recall"),
                Deallocated("o", "BED", 5, "shelf"),
                OutOfStock("o", "BED", 5),
            ],
            Effect("o", "BED", "waits", {"shelf": 5}, {}, waiting=5),
            id="it waits",
        ),
        pytest.param(
            BLOCK,
            [Deallocated("o", "BED", 5, "shelf"), Allocated("o", "BED", 3, "soon", SOON)],
            Effect("o", "BED", "waits", {"shelf": 5}, {"soon": 3}, waiting=2, new=SOON),
            id="a part of it waits",
        ),
        pytest.param(
            BLOCK,
            [Deallocated("o", "BED", 5, "shelf"), Allocated("o", "BED", 5, "soon", SOON)],
            Effect("o", "BED", "later", {"shelf": 5}, {"soon": 5}, new=SOON),
            id="it comes later",
        ),
        pytest.param(
            BLOCK,
            [Deallocated("o", "BED", 5, "shelf"), Allocated("o", "BED", 5, "shelf-2")],
            Effect("o", "BED", "moved", {"shelf": 5}, {"shelf-2": 5}),
            id="it moves",
        ),
        pytest.param(
            BLOCK,
            [
                Deallocated("o", "BED", 5, "late"),
                Allocated("o", "BED", 5, "soon", SOON),
                PromiseChanged("o", "BED", 5, "soon", LATE, SOON),
            ],
            Effect("o", "BED", "earlier", {"late": 5}, {"soon": 5}, old=LATE, new=SOON),
            id="it comes earlier",
        ),
        pytest.param(
            BLOCK,
            [Deallocated("o", "BED", 5, "overdue"), Allocated("o", "BED", 5, "soon", SOON)],
            Effect("o", "BED", "earlier", {"overdue": 5}, {"soon": 5}, old=PAST, new=SOON),
            id="any known day is earlier than an overdue one",
        ),
        pytest.param(
            ChangeBatchEta("soon", LATE),
            [PromiseChanged("o", "BED", 5, "soon", SOON, LATE)],
            Effect("o", "BED", "later", {}, {}, old=SOON, new=LATE),
            id="its batch comes later",
        ),
        pytest.param(
            BLOCK,
            [Allocated("o", "BED", 5, "shelf")],
            Effect("o", "BED", "served", {}, {"shelf": 5}),
            id="it is served",
        ),
        pytest.param(
            CancelOrder("o"),
            [Deallocated("o", "BED", 3, "shelf"), Deallocated("o", "BED", 2, None)],
            Effect("o", "BED", "given up", {"shelf": 3}, {}, given_up=5),
            id="it is given up",
        ),
        pytest.param(
            ChangeLineQuantity("o", "BED", 2),
            [
                LineQuantityChanged("o", "BED", 5, 2),
                Deallocated("o", "BED", 5, "shelf"),
                Allocated("o", "BED", 2, "shelf"),
            ],
            Effect("o", "BED", "given up", {"shelf": 3}, {}, given_up=3),
            id="some of it is given up",
        ),
        pytest.param(
            ChangeLineQuantity("o", "BED", 7),
            [
                LineQuantityChanged("o", "BED", 5, 7),
                Deallocated("o", "BED", 5, "shelf"),
                Allocated("o", "BED", 7, "soon", SOON),
                PromiseChanged("o", "BED", 7, "soon", None, SOON),
            ],
            Effect("o", "BED", "later", {"shelf": 5}, {"soon": 7}, new=SOON),
            id="it gets more, from another batch",
        ),
    ],
)
def test_what_becomes_of_a_line(command: Command, events: Sequence[Event], effect: Effect) -> None:
    assert effects(command, events, DAYS, TODAY) == [effect]


def test_a_line_that_gets_back_what_it_lost_is_not_told_of() -> None:
    events = [Deallocated("o", "BED", 5, "shelf"), Allocated("o", "BED", 5, "shelf")]

    assert effects(BLOCK, events, DAYS, TODAY) == []


def test_the_worst_comes_first() -> None:
    events = [
        Allocated("served", "BED", 5, "shelf"),
        Deallocated("later", "BED", 5, "shelf"),
        Allocated("later", "BED", 5, "soon", SOON),
        Deallocated("waits", "BED", 5, "shelf"),
    ]

    found = effects(BLOCK, events, DAYS, TODAY)

    assert [each.orderid for each in found] == ["waits", "later", "served"]
