"""The command line of the bench, and the order of its measurements."""

import argparse
import json
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.accepting import Accepting
from tests.bench.bench import Bench, Measurement
from tests.bench.deployment import tuned
from tests.bench.embedded import Embedded
from tests.bench.figures import Figure, of_rows
from tests.bench.growth import Growth
from tests.bench.improving import Improving
from tests.bench.latency import Latency
from tests.bench.partitioned import Partitioned
from tests.bench.relaying import Relaying
from tests.bench.servers import SHIPPED, Servers
from tests.bench.show import Show
from tests.bench.shrinking import Shrinking
from tests.bench.subscribing import Subscribing
from tests.bench.sustained import Sustained
from tests.bench.throughput import Throughput
from tests.bench.waiting import Waiting

LATEST = Path("bench/latest.json")
MEASUREMENTS: dict[str, Callable[[Bench], Measurement]] = {
    "throughput": Throughput,
    "partitions": Partitioned,
    "latency": Latency,
    "waiting": Waiting,
    "api": Accepting,
    "relay": Relaying,
    "subscriber": Subscribing,
    "growth": Growth,
    "shrink": Shrinking,
    "improve": Improving,
    "sustained": Sustained,
    "embedded": Embedded,
}


def main() -> None:
    """Measure, print the table, write the record; exit status 1 when a target is missed."""
    asked = _arguments()
    # A termination ends everything in order, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    show = Show()
    servers = Servers(SHIPPED if asked.tuned else {})
    figures: list[Figure] = []
    try:
        with show.alive():
            show.step("starting PostgreSQL and RabbitMQ")
            servers.start()
            bench = Bench(servers, show, asked.rounds, asked.scale)
            for name, make in MEASUREMENTS.items():
                if name in asked.only:
                    figures += measure(make(bench), bench)
        record = _record(servers, show, asked, figures)
    except KeyboardInterrupt:
        show.say("interrupted; this is what was found, and no record of it is written")
        show.table(figures)
        sys.exit(130)
    finally:
        servers.remove()
    show.table(figures)
    missed = sum(not figure.met for figure in figures)
    show.say(f"{missed} of {len(figures)} missed" if missed else "every target is met")
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps(record, indent=2) + "\n")
    without = any(figure.problem for figure in figures)
    sys.exit(1 if without or (missed and asked.targets) else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=MEASUREMENTS, help="measure this; may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each row (3)")
    parser.add_argument(
        "--no-targets",
        dest="targets",
        action="store_false",
        help="exit status 0 if every row has figures, though some miss their targets",
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="0.1: a tenth of the work, to try the bench itself"
    )
    parser.add_argument(
        "--untuned",
        dest="tuned",
        action="store_false",
        help="PostgreSQL without the settings of compose.yaml",
    )
    parser.add_argument("--output", type=Path, help="the record (bench/latest.json)")
    asked = parser.parse_args()
    if asked.output is None:
        # A part of them is no record of the whole.
        asked.output = Path("var/bench.json") if asked.only or asked.scale != 1 else LATEST
    asked.only = asked.only or MEASUREMENTS
    return asked


def measure(measuring: Measurement, bench: Bench) -> list[Figure]:
    """A figure for each of its rows; a row that goes wrong or is missing says why it is missed."""
    figures: list[Figure] = []
    failure = None
    try:
        measuring.prepare()
        for number in range(1, bench.rounds + 1):
            measuring.round(number)
        figures = measuring.figures()
    except Exception as error:  # noqa: BLE001 - whatever it was, its rows are missed
        bench.show.say("".join(traceback.format_exception(error)))
        failure = f"{type(error).__name__}: {error}"
    finally:
        bench.servers.opened.close()
    return of_rows(measuring.rows, figures, failure)


def _record(
    servers: Servers, show: Show, asked: argparse.Namespace, figures: list[Figure]
) -> dict[str, Any]:
    packages = ("celery", "kombu", "amqp", "sqlalchemy", "psycopg2-binary", "flask", "gunicorn")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(show.seconds),
        "rounds": asked.rounds,
        "scale": asked.scale,
        "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "python": platform.python_version(),
            **servers.versions(),
            **{package: version(package) for package in packages},
        },
        "postgresql settings": servers.settings,
        "settings": tuned(),
        "figures": [figure.as_json() for figure in figures],
    }
