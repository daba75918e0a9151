"""Changes the number of partitions of a live system: nothing is lost, and nothing comes too early.

From the moment of the change commands go to the new queues, which nobody consumes until the old
ones are empty and every worker has left them. So whatever was accepted before is decided before.
"""

import time
from collections.abc import Callable

from kombu import Connection
from sqlalchemy import Engine

from allocation.adapters.rabbitmq import partitioning, topology
from allocation.adapters.sql import partitions
from allocation.adapters.sql.partitions import Generation

LOOK_EVERY = 0.5  # seconds
COMES_WITHIN = 10.0
"""Seconds within which a worker that runs consumes queues; it looks for them every two seconds."""
WITHOUT_WORKER = 30.0
"""Seconds without a worker after which a change is given up: it may begin again."""

QUIET = 3
"""Looks in a row that find old queues empty: a message may be on its way in the broker as they are
cut off."""

Tell = Callable[[str], None]


class NoWorker(Exception):
    """Commands wait in the old queues, and nobody decides them."""


def change(connection: Connection, engine: Engine, wanted: int | None, tell: Tell) -> list[str]:
    """Have commands divided among `wanted` queues; goes on with a change that was interrupted.

    None: among as many as there are. Waits until workers have decided what the old queues hold, and
    says so by `tell`. Returns the names of the queues. Safe to repeat. Raises topology.Undeclared,
    also if another process changes them; NoWorker, and then workers consume what they did before.
    """
    with partitions.only_change(engine) as is_only:
        if not is_only:
            raise topology.Undeclared(
                "another `allocation topology` changes the partitions: wait until it has ended"
            )
        _change(connection, engine, wanted, tell)
        return [queue for generation in _known(engine) for queue in generation.queues]


def _change(connection: Connection, engine: Engine, wanted: int | None, tell: Tell) -> None:
    old, *later = _known(engine)
    while later:
        _finish(connection, engine, old, later[0], tell)
        old, *later = _known(engine)
    wanted = wanted or old.partitions
    partitioning.declare(connection, wanted)
    if old.partitions == wanted:
        partitioning.route(connection, wanted)
        if wanted > 1:
            # A release that knew no partitions may have declared it again.
            partitioning.end_route(connection, 1)
        return
    _expect_worker(connection, old, tell)
    with engine.begin() as transaction:
        if not partitions.generations(transaction):
            partitions.add(transaction, old.partitions, old.queues)
        partitions.add(transaction, wanted, partitioning.queues(wanted))
    old, new = _known(engine)
    _finish(connection, engine, old, new, tell)


def _expect_worker(connection: Connection, old: Generation, tell: Tell) -> None:
    """Raise NoWorker if commands wait in the queues, and nobody comes to consume them."""
    until = time.monotonic() + COMES_WITHIN
    while (queued := partitioning.queued(connection, old.partitions)).messages:
        if queued.consumers:
            return
        if time.monotonic() > until:
            raise NoWorker(
                f"{queued.messages} commands wait, and no worker runs: nothing was changed. Start"
                " the workers, and run `allocation topology` again"
            )
        _wait(tell, f"waiting for a worker: {queued.messages} commands wait")


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
        is_over = False
        try:
            is_over = _have_all_left(connection, old, tell)
        finally:
            # If a worker gave commands back as it left; and if this is interrupted: the others wait
            # until they may consume something.
            if not is_over:
                _have_consumed(engine, old, True)
        if is_over:
            break
    partitioning.delete(connection, old.partitions)
    with engine.begin() as transaction:
        partitions.remove(transaction, old)


def _have_consumed(engine: Engine, generation: Generation, consumed: bool) -> None:
    with engine.begin() as transaction:
        partitions.have_consumed(transaction, generation, consumed)


def _wait_until_empty(connection: Connection, old: Generation, tell: Tell) -> None:
    empty = idle = 0
    while empty < QUIET:
        queued = partitioning.queued(connection, old.partitions)
        empty = 0 if queued.messages else empty + 1
        idle = 0 if queued.consumers or not queued.messages else idle + 1
        if idle * LOOK_EVERY > WITHOUT_WORKER:
            raise NoWorker(
                f"{queued.messages} commands are in the old queues, and no worker decides"
                " them. New ones go to the new queues, which are consumed after those: start the"
                " workers, and run `allocation topology` again"
            )
        _wait(tell, f"waiting: the old queues have {queued.messages} commands")


def _have_all_left(connection: Connection, old: Generation, tell: Tell) -> bool:
    """Wait until no worker consumes the queues; whether they are empty then.

    What a worker had in flight is back in its queue by then, or was decided. One look is not
    enough: of a queue that has no leader for a moment the broker says that it is empty.
    """
    left = 0
    while left < QUIET:
        queued = partitioning.queued(connection, old.partitions)
        if queued.messages:
            return False
        left = 0 if queued.consumers else left + 1
        _wait(tell, f"waiting for workers to leave {queued.consumers} old queues")
    return True


def _wait(tell: Tell, sentence: str) -> None:
    """Say what is waited for, until the next look: the broker notifies nobody of its queues."""
    tell(sentence)
    time.sleep(LOOK_EVERY)
