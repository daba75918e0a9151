"""No story breaks a promise; without one of the mechanisms a short story does."""

from dataclasses import fields

import pytest

from tests.model.guarantees import AT_THE_END, GUARANTEES
from tests.model.protocol import Protocol
from tests.model.search import every_story_ends, search
from tests.model.state import Bounds
from tests.model.variants import (
    A1,
    CONTROLS,
    HOLDING,
    RELAY,
    REQUEST,
    RESENDING,
    SERVICE,
    Control,
    Variant,
)


@pytest.mark.parametrize("variant", HOLDING, ids=str)
def test_no_story_breaks_a_promise(variant: Variant) -> None:
    verdict = variant.search()

    assert verdict.broken is None, f"{variant} [{variant.bounds}]: {verdict}"


@pytest.mark.parametrize("control", CONTROLS, ids=str)
def test_a_story_breaks_the_promise_that_the_mechanism_keeps(control: Control) -> None:
    verdict = control.search()

    assert verdict.broken == control.breaks.__name__, f"{control} [{control.bounds}]: {verdict}"


@pytest.mark.parametrize(
    "control", [each for each in CONTROLS if each.whole != each.protocol], ids=str
)
def test_with_the_mechanism_no_story_within_the_same_bounds_does(control: Control) -> None:
    verdict = search(control.whole, control.bounds, control.promises)

    assert verdict.broken is None, f"{control} [{control.bounds}]: {verdict}"


@pytest.mark.parametrize("mechanism", [field.name for field in fields(Protocol)])
def test_each_mechanism_has_a_control(mechanism: str) -> None:
    without = [
        control
        for control in CONTROLS
        if getattr(control.protocol, mechanism) != getattr(control.whole, mechanism)
    ]

    assert without


def test_each_promise_is_broken_by_a_control() -> None:
    assert {control.breaks for control in CONTROLS} >= {*GUARANTEES, *AT_THE_END}


@pytest.mark.parametrize(
    ("protocol", "bounds"),
    [
        (RELAY, Bounds((REQUEST,), faults=2)),
        (RESENDING, Bounds((REQUEST,), faults=1, purges=1)),
        (SERVICE, Bounds((A1,), faults=1, repeats=1)),
    ],
    ids=["relay", "resending", "direct"],
)
def test_no_story_goes_round_in_circles(protocol: Protocol, bounds: Bounds) -> None:
    assert every_story_ends(protocol, bounds)


def test_the_story_is_a_shortest_one() -> None:
    control = next(each for each in CONTROLS if each.name == "no inbox")

    assert control.search().story == [
        "a client sends A1 to the broker, which confirms it",
        "the worker receives A1",
        "the worker commits A1: event A/1",
        "the worker dies, and the broker redelivers A1",
        "the worker receives A1",
        "the worker commits A1: event A/2",
    ]
