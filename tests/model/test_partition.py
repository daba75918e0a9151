"""The order in a partition holds; without any one of its mechanisms a short story breaks it."""

import pytest

from tests.model.partition import Rules, find


def test_commands_take_effect_once_and_in_order_whichever_worker_has_the_partition() -> None:
    assert find(Rules()) is None


@pytest.mark.parametrize(
    ("control", "steps"),
    [
        (Rules(single_active_consumer=False), 3),
        (Rules(gives_up_by_closing=False), 4),
        (Rules(inbox=False), 5),
        (Rules(decides_in_order=False), 3),
    ],
    ids=lambda value: str(value),
)
def test_each_mechanism_is_needed(control: Rules, steps: int) -> None:
    story = find(control)

    assert story is not None
    assert len(story) == steps + 1, story
