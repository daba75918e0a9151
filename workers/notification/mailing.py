"""Which mails events lead to: rows of the events' own transaction, sent after it."""

from collections.abc import Sequence

import structlog
from sqlalchemy import Connection

from workers import logs
from workers.notification import moves, rules
from workers.notification.drafts import Drafts
from workers.notification.messages import Allocated, Message, OutOfStock, PromiseChanged, parse
from workers.notification.moves import Left, Line, Moving
from workers.turns import Due

log = structlog.get_logger(__name__)


def apply(connection: Connection, due: Sequence[Due]) -> None:
    """Note the mails that the events lead to, and which lines are on the move."""
    asked = [(each, message) for each in due if (message := parse(each.event)) is not None]
    if not asked:
        return
    before = moves.read(connection, {_line(message) for _, message in asked})
    after = dict(before)
    drafts = Drafts(
        connection,
        {_line(message) for _, message in asked if isinstance(message, PromiseChanged)},
    )
    for each, message in asked:
        if mail := _follow(after, drafts, each, message):
            drafts.note(each.event, _line(message), mail)
    moves.save(connection, before, after)
    drafts.save()


def _line(message: Message) -> Line:
    return (message.orderid, message.sku)


def _follow(moving: Moving, drafts: Drafts, each: Due, message: Message) -> rules.Mail | None:
    if isinstance(message, OutOfStock):
        return rules.out_of_stock(message)
    line = _line(message)
    left = moving.get(line)
    if left is not None and left.sequence < each.event.sequence:
        del moving[line]
    else:
        left = None
    if isinstance(message, Allocated):
        return rules.allocated(message, left.batchref if left else None)
    if isinstance(message, PromiseChanged):
        return _changed_promise(line in moving, left, drafts, each, message)
    if each.late:
        # Where the line went since then has passed by; an old move would only confuse.
        log.warning(
            "a deallocation came too late: no move is mailed for it", **logs.names(each.event)
        )
    elif message.batchref is not None and not message.cancelled:
        moving[line] = Left(message.batchref, each.event.sequence)
    return None


def _changed_promise(
    left_since: bool, left: Left | None, drafts: Drafts, each: Due, message: PromiseChanged
) -> rules.Mail | None:
    """The mail about another day; None where the one about the move can tell it.

    `left_since`: the line had to leave its batch after this. `left`: it had to before, and no event
    has told yet where it went.
    """
    line, sequence = _line(message), each.event.sequence
    # A line that moves is told by one event where it is served from, and by the next one of what
    # other day that is.
    if drafts.has(line, sequence - 1):
        drafts.add(line, sequence - 1, rules.old_day(message))
        return None
    if left_since or drafts.has_newer(line, sequence):
        log.warning(
            "another day was told too late: newer things were mailed", **logs.names(each.event)
        )
        return None
    return rules.promise_changed(message, left.batchref if left else None)
