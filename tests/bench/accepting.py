"""Row 5: commands that the API accepts, one a request and 1,000 a request."""

import json
import socket
import time
from collections.abc import Collection

from tests.bench.bench import Bench
from tests.bench.committed import Incomplete
from tests.bench.deployment import Deployment
from tests.bench.figures import Figure, Goal, Spread
from tests.bench.helper import Helper
from tests.bench.servers import Servers, dsn, query
from tests.servers.ports import free_ports
from tests.waiting import eventually

CALLERS = 2
"""Processes, each of four connections."""
SECONDS = 3.0
BULK = 1000
NO_PRESSURE = {"ALLOCATION_MAX_PENDING": "1000000000", "ALLOCATION_MAX_OUTBOX_AGE": "1000000"}
"""Nothing takes the commands away, so that the API has the machine."""
_ACCEPTED = """
    SELECT count(*) FROM commands JOIN outbox USING (id)
    WHERE commands.status = 'pending' AND commands.body->>'orderid' LIKE %s"""


class Accepting:
    """The API as it is deployed, and a bare one beside it with a database of its own."""

    def __init__(self, bench: Bench, _wanted: Collection[str]) -> None:
        self._bench = bench
        self._limits: list[float] = []
        self._singles: list[float] = []
        self._lines: list[float] = []
        self._no_bulk: str | None = None

    def prepare(self) -> None:
        servers = self._bench.servers
        self._bench.show.step("api: starting both")
        port, bare_port = free_ports(2)
        self._deployment = Deployment(servers, "api", ALLOCATION_PORT=str(port), **NO_PRESSURE)
        self._deployment.start("api")
        self._bare_database = servers.database()
        servers.opened.callback(servers.drop, self._bare_database)
        start_bare(servers, "bare_api", bare_port, BARE_DSN=dsn(self._bare_database))
        self._callers = [Helper("tests.bench.http_load", str(port)) for _ in range(CALLERS)]
        self._bare_callers = [
            Helper("tests.bench.http_load", str(bare_port)) for _ in range(CALLERS)
        ]
        for helper in (*self._callers, *self._bare_callers):
            servers.opened.callback(helper.close)
        self._rate(self._bare_callers, self._bare_database, "warm-up-", 1, 1.0)
        self._rate(self._callers, self._deployment.database, "warm-up-", 1, 1.0)

    def round(self, number: int) -> None:
        show = self._bench.show
        seconds = SECONDS * self._bench.scale
        database = self._deployment.database
        show.step(f"api, round {number}: the limit")
        limit = self._rate(self._bare_callers, self._bare_database, f"bare{number}-", 1, seconds)
        self._limits.append(limit)
        show.step(f"api, round {number}: one line a request")
        self._singles.append(self._rate(self._callers, database, f"one{number}-", 1, seconds))
        told = f"{self._singles[-1]:,.0f} requests/s, the limit {limit:,.0f}/s"
        if not self._no_bulk:
            show.step(f"api, round {number}: {BULK:,} lines a request")
            try:
                rate = self._rate(self._callers, database, f"many{number}-", BULK, seconds)
                self._lines.append(rate)
                told += f", {rate:,.0f} lines/s by {BULK:,}"
            except Incomplete as problem:
                self._no_bulk = str(problem)
                told += f"; {BULK:,} lines a request: {problem}"
        show.say(f"api, round {number}: {told}")

    def figures(self) -> list[Figure]:
        self._bench.show.step("api: proving the books")
        self._deployment.check()
        bulk = f"API accept, {BULK:,} lines a request"
        return [
            Figure(
                name="API accept, one line a request",
                unit="/s",
                measured=Spread.of(self._singles),
                limit=Spread.of(self._limits),
                limit_name="a bare insert transaction behind the same gunicorn",
                goals=(Goal.between("of the limit", self._singles, self._limits, at_least=0.6),),
            ),
            Figure(name=bulk, failure=self._no_bulk)
            if self._no_bulk
            else Figure(
                name=bulk,
                unit="lines/s",
                measured=Spread.of(self._lines),
                limit=Spread.of(self._singles),
                limit_name="one line a request",
                goals=(Goal.between("times singles", self._lines, self._singles, at_least=20.0),),
            ),
        ]

    def _rate(
        self, callers: list[Helper], database: str, prefix: str, lines: int, seconds: float
    ) -> float:
        """Lines a second that were accepted, and are in the database."""
        query(database, "CHECKPOINT")
        # Each caller puts its own name before the numbers.
        until = time.time() + seconds
        for number, caller in enumerate(callers):
            caller.send("run", prefix=f"{prefix}{number}-", lines=lines, until=until)
        results = [caller.answer() for caller in callers]
        statuses: dict[str, int] = {}
        for result in results:
            for status, times in result["statuses"].items():
                statuses[status] = statuses.get(status, 0) + times
        if set(statuses) != {"202"}:
            raise Incomplete(f"the API answered {statuses}: {results[0]['answer'][:80]}")
        if lines > 1 and len(json.loads(results[0]["answer"])["lines"]) != lines:
            raise Incomplete(f"the answer has not {lines} lines")
        [(accepted,)] = query(database, _ACCEPTED, (f"{prefix}%",))
        if accepted != statuses["202"] * lines:
            raise Incomplete(f"{statuses['202'] * lines} lines were accepted, {accepted} are there")
        begun = min(result["begun"] for result in results)
        return float(accepted / (max(result["ended"] for result in results) - begun))


def start_bare(servers: Servers, app: str, port: int, **environment: str) -> None:
    """Serve a bare application as `allocation.entrypoints.api.server` serves the real one."""
    options = "--workers=2 --threads=8 --worker-class=gthread --limit-request-line=8190"
    command = [
        *("-m", "gunicorn", *options.split(), "--log-level=warning"),
        *(f"--bind=127.0.0.1:{port}", f"tests.bench.{app}:create_app()"),
    ]
    process = servers.process(command, app, environment).start()
    servers.opened.callback(process.kill)
    eventually(lambda: _listens(port), within=30, what=app)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
