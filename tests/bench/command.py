"""The command line of the bench, and the order of its rows."""

import argparse
import json
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench import (
    accepting,
    growth,
    improving,
    latency,
    partitioned,
    relaying,
    remembering,
    shrinking,
    subscribing,
    throughput,
    waiting,
)
from tests.bench.bench import Bench, Row
from tests.bench.deployment import tuned
from tests.bench.figures import Figure
from tests.bench.servers import SETTINGS, Servers
from tests.bench.show import Show

LATEST = Path("bench/latest.json")
# Rows that are measured together, in turns.
_GROUPS: tuple[tuple[tuple[str, ...], Callable[[Bench, Collection[str]], Row]], ...] = (
    (
        (throughput.DRAIN, throughput.HOT, throughput.END_TO_END),
        throughput.Throughput,
    ),
    ((partitioned.SPREAD, partitioned.HOT), partitioned.Partitioned),
    (("relay",), relaying.Relaying),
    (("subscriber",), subscribing.Subscribing),
    (("growth",), growth.Growth),
    (("shrink",), shrinking.Shrinking),
    (("improve",), improving.Improving),
    (("latency",), latency.Latency),
    (("api",), accepting.Accepting),
    (("waiting",), waiting.Waiting),
    (("memory",), remembering.Remembering),
)
ROWS = [name for names, _ in _GROUPS for name in names]


def main() -> None:
    """Measure, print the table, write the record; exit status 1 when a target is missed."""
    asked = _arguments()
    # A termination ends everything in order, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    show = Show()
    servers = Servers()
    figures: list[Figure] = []
    try:
        with show.alive():
            show.step("starting PostgreSQL and RabbitMQ")
            servers.start()
            bench = Bench(servers, show, asked.rounds, asked.scale)
            for names, make in _GROUPS:
                wanted = [name for name in names if name in asked.only]
                if wanted:
                    figures += _measure(bench, wanted, make)
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
    sys.exit(1 if missed and asked.targets else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=ROWS, help="measure this row; may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each row (3)")
    parser.add_argument(
        "--no-targets", dest="targets", action="store_false", help="exit status 0 all the same"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="0.1: a tenth of the work, to try the bench itself"
    )
    parser.add_argument("--output", type=Path, help="the record (bench/latest.json)")
    asked = parser.parse_args()
    if asked.output is None:
        # A part of the rows is no record of the whole.
        asked.output = Path("var/bench.json") if asked.only or asked.scale != 1 else LATEST
    asked.only = asked.only or ROWS
    return asked


def _measure(
    bench: Bench, wanted: list[str], make: Callable[[Bench, Collection[str]], Row]
) -> list[Figure]:
    """The figures of some rows; what goes wrong is shown in their place, and the others go on."""
    row = make(bench, wanted)
    try:
        row.prepare()
        for number in range(1, bench.rounds + 1):
            row.round(number)
        return row.figures()
    except Exception as error:  # noqa: BLE001 - whatever it was, the row is missed
        bench.show.say("".join(traceback.format_exception(error)))
        return [Figure(name, failure=f"{type(error).__name__}: {error}") for name in wanted]
    finally:
        bench.servers.opened.close()


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
        "postgresql settings": SETTINGS,
        "settings": tuned(),
        "figures": [figure.as_json() for figure in figures],
    }
