"""The embedded default: the worker's drain of a spool into SQLite, beside bare SQLite."""

import random
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime
from typing import Any

from celery import Celery

from allocation.adapters.rabbitmq import topology
from allocation.messaging.connection import SPOOL_TRANSPORT
from tests.bench import stock
from tests.bench.bench import Bench
from tests.bench.committed import Incomplete
from tests.bench.figures import Figure, Row
from tests.bench.helper import Helper
from tests.bench.servers import run
from tests.bench.stock import PIECES
from tests.waiting import eventually

COMMANDS = 5000
WARM_UP = 400
LONGEST = 300.0
"""Seconds for one drain."""
ROW = Row(
    title=f"embedded: drain of {COMMANDS:,} commands",
    unit="/s",
    limit="bare SQLite, one transaction a command",
    at_least=1.0,
)

_ALLOCATED = "SELECT count(*) FROM allocations WHERE orderid LIKE ? AND batchref IS NOT NULL"
_DECIDED = """
    SELECT decided_at FROM commands
    WHERE json_extract(body, '$.orderid') LIKE ? AND status = 'succeeded' ORDER BY decided_at"""


class Embedded:
    """One worker as `allocation up` runs it, whose queue is filled while it does not consume.

    No relay runs beside it: as with the limit, events stay in the outbox.
    """

    rows = (ROW,)

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._number = bench.some(COMMANDS)
        self._skus = stock.skus(1000)
        folder = bench.servers.folder / "embedded"
        self._database = folder / "allocation.db"
        self._limit_database = folder / "limit.db"
        self._environment = {"ALLOCATION_STATE_DIR": str(folder)}
        self._broker = f"spool://{folder}/spool"
        self._rates: list[float] = []
        self._limits: list[float] = []

    def prepare(self) -> None:
        servers = self._bench.servers
        self._bench.show.step("embedded: starting the worker")
        run("allocation", "migrate", env=self._environment)
        run("allocation", "topology", env=self._environment)
        worker = servers.process(
            ["-m", "celery", "-A", "allocation", "worker", "--without-gossip", "--without-mingle"],
            "embedded-worker",
            self._environment,
        ).start()
        servers.opened.callback(worker.kill)
        worker.wait_for_log(r"@\S+ ready", within=60)
        self._client = Celery(broker=self._broker, set_as_current=False)
        self._client.conf.broker_transport = SPOOL_TRANSPORT
        servers.opened.callback(self._client.close)
        stocked = ({"batchref": f"{sku}-batch", "sku": sku, "qty": PIECES} for sku in self._skus)
        self._send("allocation.create_batch", stocked)
        self._send("allocation.allocate", self._lines("warm-up-", WARM_UP))
        self._wait_until_allocated("warm-up-", WARM_UP)
        with (
            closing(sqlite3.connect(self._database)) as ours,
            closing(sqlite3.connect(self._limit_database)) as copy,
        ):
            ours.backup(copy)
        self._limit = Helper(
            "tests.bench.one_sqlite_transaction", f"sqlite:///{self._limit_database}"
        )
        servers.opened.callback(self._limit.close)

    def round(self, number: int) -> None:
        show, prefix = self._bench.show, f"embedded{number}-"
        self._client.control.cancel_consumer(topology.COMMANDS, reply=True, timeout=5)
        self._send("allocation.allocate", self._lines(prefix, self._number))
        show.step(f"embedded, round {number}: the limit")
        self._limit.ask("prepare", prefix=prefix, number=self._number, skus=self._skus)
        limit = self._number / self._limit.ask("run")
        show.step(f"embedded, round {number}: the service")
        self._client.control.add_consumer(topology.COMMANDS)
        self._wait_until_allocated(prefix, self._number)
        rate = self._rate(prefix)
        self._rates.append(rate)
        self._limits.append(limit)
        show.say(f"embedded, round {number}: {rate:,.0f}/s, the limit {limit:,.0f}/s")

    def figures(self) -> list[Figure]:
        self._bench.show.step("embedded: proving the books")
        for database in (self._database, self._limit_database):
            run("allocation", "check", env={"ALLOCATION_DATABASE_URL": f"sqlite:///{database}"})
        return [Figure(ROW, self._rates, self._limits)]

    def _lines(self, prefix: str, number: int) -> Iterable[dict[str, object]]:
        """Lines of one piece each, over the skus in a random order."""
        positions = list(range(number))
        random.Random(prefix).shuffle(positions)
        for position in positions:
            sku = self._skus[position % len(self._skus)]
            yield {"orderid": f"{prefix}{position}", "sku": sku, "qty": 1}

    def _send(self, task: str, bodies: Iterable[dict[str, object]]) -> None:
        with self._client.producer_or_acquire() as producer:
            for body in bodies:
                self._client.send_task(
                    task,
                    kwargs=body,
                    producer=producer,
                    exchange=topology.COMMANDS,
                    routing_key=topology.COMMANDS,
                )

    def _query(self, statement: str, prefix: str) -> list[Any]:
        with closing(sqlite3.connect(self._database)) as connection:
            return [value for (value,) in connection.execute(statement, (f"{prefix}%",))]

    def _wait_until_allocated(self, prefix: str, number: int) -> None:
        eventually(
            lambda: self._query(_ALLOCATED, prefix) == [number],
            within=LONGEST,
            what=f"{number} lines of {prefix}",
        )

    def _rate(self, prefix: str) -> float:
        """Commands a second, from the first transaction's reading of the clock to the last one's.

        SQLite does not say when a transaction ended; these are one after the other, so between the
        two moments all were decided but those of the last transaction.
        """
        moments = self._query(_DECIDED, prefix)
        if len(moments) != self._number:
            raise Incomplete(f"{self._number} were sent, and {len(moments)} succeeded")
        first, last = (datetime.fromisoformat(moments[index]) for index in (0, -1))
        decided = self._number - moments.count(moments[-1])
        return decided / (last - first).total_seconds()
