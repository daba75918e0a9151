"""Changes the number of partitions of a live system: nothing is lost, and nothing comes too early.

From the moment of the change commands go to the new queues, which nobody consumes until the old
ones are empty and every worker has left them. So whatever was accepted before is decided before.
"""

import time
from collections.abc import Callable

from kombu import Connection
from sqlalchemy import Engine

from allocation.adapters.rabbitmq import partitioning
from allocation.adapters.sql import partitions
from allocation.adapters.sql.partitions import Generation

LOOK_EVERY = 0.5  # seconds

QUIET = 3
"""Looks in a row that find old queues empty: a message may be on its way in the broker as they are
cut off."""

Tell = Callable[[str], None]


def change(connection: Connection, engine: Engine, wanted: int, tell: Tell) -> None:
    """Have commands divided among `wanted` queues; goes on with a change that was interrupted.

    Waits until workers have decided what the old queues hold, and says so by `tell`. Safe to
    repeat. Raises topology.Undeclared.
    """
    old, *later = _known(engine)
    if later:
        _finish(connection, engine, old, later[0], tell)
        [old] = _known(engine)
    if old.partitions == wanted:
        partitioning.declare(connection, wanted)
        partitioning.route(connection, wanted)
        return
    partitioning.declare(connection, wanted)
    with engine.begin() as transaction:
        if not partitions.generations(transaction):
            partitions.add(transaction, old.partitions, old.queues)
        partitions.add(transaction, wanted, partitioning.queues(wanted))
    old, new = _known(engine)
    _finish(connection, engine, old, new, tell)


def _known(engine: Engine) -> list[Generation]:
    with engine.connect() as transaction:
        known = partitions.generations(transaction)
    return known or [Generation(0, 1, True, tuple(partitioning.queues(1)))]


def _finish(
    connection: Connection, engine: Engine, old: Generation, new: Generation, tell: Tell
) -> None:
    partitioning.declare(connection, new.partitions)
    # In this order: no command is without a queue. What comes to both is decided in the old one,
    # and known by its id in the new one.
    partitioning.route(connection, new.partitions)
    partitioning.end_route(connection, old.partitions)
    while True:
        _wait_until_empty(connection, old, tell)
        _have_consumed(engine, old, False)
        if _have_all_left(connection, old, tell):
            break
        # A worker gave commands back as it left.
        _have_consumed(engine, old, True)
    partitioning.delete(connection, old.partitions)
    with engine.begin() as transaction:
        partitions.remove(transaction, old)


def _have_consumed(engine: Engine, generation: Generation, consumed: bool) -> None:
    with engine.begin() as transaction:
        partitions.have_consumed(transaction, generation, consumed)


def _wait_until_empty(connection: Connection, old: Generation, tell: Tell) -> None:
    empty = 0
    while empty < QUIET:
        queued = partitioning.queued(connection, old.partitions)
        empty = 0 if queued.messages else empty + 1
        tell(f"waiting: {queued.messages} commands are in the queues of before")
        time.sleep(LOOK_EVERY)


def _have_all_left(connection: Connection, old: Generation, tell: Tell) -> bool:
    """Wait until no worker consumes the queues; whether they are empty then.

    What a worker had in flight is back in its queue by then, or was decided.
    """
    while (queued := partitioning.queued(connection, old.partitions)).consumers:
        tell(f"waiting for workers to leave {queued.consumers} queues of before")
        time.sleep(LOOK_EVERY)
    return queued.messages == 0
