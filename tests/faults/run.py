"""One run of a scenario: the system, its load, the faults that it had, and the proof after them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from kombu import Connection
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from allocation.adapters.rabbitmq import topology
from tests.faults import scale
from tests.faults.history import dead_letters, history
from tests.faults.invariants import Breach, breaches
from tests.faults.load import BROKER_ERRORS, Load
from tests.faults.system import System

_TAKEN = "SELECT sum(next_sequence - 1) FROM progress"
"""The events that a subscriber has applied or ignored."""


@dataclass
class Run:
    """What the table at the end tells about one scenario."""

    system: System
    load: Load
    seed: int
    tell: Callable[[str, object], None]
    faults: list[str] = field(default_factory=list)
    ended_at: float = field(default_factory=time.monotonic)

    def fault(self, name: str, times: int = 1) -> None:
        """A fault was injected, and is over now."""
        self.faults += [name] * times
        self.ended_at = time.monotonic()

    def back_at_work(self) -> float:
        """Seconds from the end of the last fault until fresh commands reached every subscriber."""
        probes = self.load.probe()
        deadline = time.monotonic() + scale.DRAINED
        while not self._arrived([str(sent.id) for sent in probes]):
            if time.monotonic() > deadline:
                raise AssertionError(f"not back at work: {self.moving()}\n{self._stories(probes)}")
            time.sleep(0.1)  # between two looks, within the deadline
        return time.monotonic() - self.ended_at

    def settle(self, standstill: float = scale.STANDSTILL) -> None:
        """Wait until nothing moves any more: all is done, or nothing changes for a while."""
        begun = changed = time.monotonic()
        before: dict[str, int] | None = None
        while (now := self.moving()) or now is None:
            if now != before:
                before, changed = now, time.monotonic()
            nothing_happens = time.monotonic() - changed > standstill
            if nothing_happens or time.monotonic() - begun > scale.DRAINED:
                return
            time.sleep(0.2)  # between two looks, within the deadline

    def moving(self) -> dict[str, int] | None:
        """What is under way, by kind; empty when things are quiet, None while it's unknown."""
        try:
            return {name: number for name, number in self._under_way() if number}
        except (DBAPIError, *BROKER_ERRORS):
            return None

    def prove(
        self,
        *,
        failed: Iterable[str] = (),
        dead_events: int = 0,
        back_within: float | None = scale.BACK_AT_WORK,
    ) -> None:
        """The system is back at work in time, and every promise holds; else the whole story."""
        self.load.flush()
        seconds = self.back_at_work()
        found = self.breaches(failed=failed, dead_events=dead_events)
        self.record(len(found), seconds)
        if found:
            raise AssertionError(self._report(found))
        if back_within is not None and seconds > back_within:
            raise AssertionError(
                f"I6: back at work after {seconds:.1f} s, not {back_within} (seed {self.seed})"
            )

    def breaches(self, standstill: float = scale.STANDSTILL, **expected: Any) -> list[Breach]:
        """What breaks a promise once things are quiet."""
        self.settle(standstill)
        return breaches(self.system, self.load, **expected)

    def record(self, found: int, seconds: float | None) -> None:
        """Put this run into the table."""
        self.tell("commands", len(self.load.confirmed()))
        self.tell("faults", len(self.faults))
        self.tell("breaches", found)
        self.tell("seconds", seconds)

    def _under_way(self) -> Iterable[tuple[str, int]]:
        with self.system.engine.connect() as connection:

            def count(statement: str) -> int:
                return connection.scalar(text(statement)) or 0

            yield "pending", count("SELECT count(*) FROM commands WHERE status = 'pending'")
            yield (
                "unsent",
                count("SELECT count(*) FROM outbox WHERE sent_at IS NULL"),
            )
            events = count("SELECT count(*) FROM outbox WHERE kind = 'event'")
        for name in ("warehouse", "notification"):
            with getattr(self.system, name).connect() as connection:
                taken = connection.scalar(text(_TAKEN)) or 0
            yield f"events on their way to the {name}", events - taken
        with Connection(self.system.addresses.broker) as broker:
            for queue in (topology.COMMANDS, *topology.SUBSCRIBERS):
                yield queue, topology.depth(broker, queue) or 0
        undecided = {str(key) for key in self.load.confirmed().keys() - self.load.decided()}
        if undecided:
            letters = dead_letters(self.system.addresses.broker, [topology.DEAD])
            undecided -= {str(headers.get("id")) for _, headers, _ in letters}
        yield "undecided", len(undecided)

    def _arrived(self, ids: list[str]) -> bool:
        """Whether the events of these commands were taken by both subscribers."""
        query = text(
            "SELECT sku, sequence FROM outbox"
            " WHERE kind = 'event' AND causation_id::text = ANY(:ids)"
        )
        progress = text("SELECT sku, next_sequence FROM progress WHERE sku = ANY(:skus)")
        try:
            with self.system.engine.connect() as connection:
                events = connection.execute(query, {"ids": ids}).all()
            if len(events) < len(ids):
                return False
            skus = [event.sku for event in events]
            for engine in (self.system.warehouse, self.system.notification):
                with engine.connect() as connection:
                    rows = connection.execute(progress, {"skus": skus}).all()
                following = {row.sku: row.next_sequence for row in rows}
                if any(event.sequence >= following.get(event.sku, 0) for event in events):
                    return False
        except DBAPIError:
            return False
        return True

    def _report(self, found: list[Breach]) -> str:
        told = [str(breach) for breach in found[:20]]
        return "\n".join(
            [
                f"{len(found)} breaches after {len(self.faults)} faults; --fault-seed={self.seed}",
                *told,
                f"still under way: {self.moving()}",
                *(history(self.system, self.load, breach.about) for breach in found[:3]),
            ]
        )

    def _stories(self, probes: Iterable[Any]) -> str:
        return "\n".join(history(self.system, self.load, str(sent.id)) for sent in probes)
