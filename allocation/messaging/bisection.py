"""On failure, bisect a batch to isolate the failing items."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import structlog

log = structlog.get_logger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


def bisect(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Result],
    fails: Callable[[Exception], bool],
) -> Iterator[tuple[Sequence[Item], Result | Exception]]:
    """Work on all items together; if that fails, on each half, down to single items.

    Yields each part in the order of its items with the result of its work, or a single item with
    the exception that its work raised. `fails` says whether an exception is the fault of an item;
    all others are raised. `work` must leave nothing behind when it raises, such as by a rollback.
    """
    parts = [items] if items else []
    while parts:
        part = parts.pop()
        try:
            result = work(part)
        except Exception as error:
            if not fails(error):
                raise
            if len(part) == 1:
                yield part, error
                continue
            log.warning("a batch failed: bisecting it", size=len(part), error=repr(error))
            middle = len(part) // 2
            parts += [part[middle:], part[:middle]]
        else:
            yield part, result
