from collections.abc import Sequence

import pytest

from allocation.messaging.bisection import bisect


class NotTheirFault(Exception):
    pass


def total(numbers: Sequence[int]) -> int:
    if 0 in numbers:
        raise ValueError("0")
    return sum(numbers)


def is_fault(error: Exception) -> bool:
    return not isinstance(error, NotTheirFault)


def shown(items: Sequence[int]) -> list[tuple[Sequence[int], object]]:
    return [
        (part, str(result) if isinstance(result, Exception) else result)
        for part, result in bisect(items, total, is_fault)
    ]


def test_items_that_succeed_together_are_one_part() -> None:
    assert shown([1, 2, 3]) == [([1, 2, 3], 6)]


def test_a_failing_item_is_isolated_and_the_parts_keep_their_order() -> None:
    assert shown([1, 2, 3, 0, 5]) == [([1, 2], 3), ([3], 3), ([0], "0"), ([5], 5)]


def test_each_failing_item_is_isolated() -> None:
    assert shown([0, 1, 0]) == [([0], "0"), ([1], 1), ([0], "0")]


def test_a_single_failing_item_is_tried_once() -> None:
    tried: list[Sequence[int]] = []

    def fail(items: Sequence[int]) -> None:
        tried.append(items)
        raise ValueError

    [(part, error)] = bisect([7], fail, is_fault)

    assert (part, type(error), tried) == ([7], ValueError, [[7]])


def test_nothing_is_done_for_no_items() -> None:
    assert shown([]) == []


def test_an_exception_that_is_not_the_items_fault_is_raised_at_once() -> None:
    tried: list[Sequence[int]] = []

    def fail(items: Sequence[int]) -> None:
        tried.append(items)
        raise NotTheirFault

    with pytest.raises(NotTheirFault):
        list(bisect([1, 2, 3, 4], fail, is_fault))

    assert tried == [[1, 2, 3, 4]]


def test_a_part_is_worked_on_only_after_the_caller_is_done_with_the_part_before() -> None:
    done: list[int] = []

    for part, _ in bisect([1, 0, 3, 4], total, is_fault):
        done += part
        if part == [0]:
            break

    assert done == [1, 0]
