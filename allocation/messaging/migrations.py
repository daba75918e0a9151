"""A database's schema, step by step: Alembic applies the steps, takes them back and compares.

Alembic takes a quarter of a second to import, so it is imported only where a step runs.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import Connection, Engine, MetaData, column, inspect, select, table, text

from allocation.messaging import backoff
from allocation.messaging.database import Outage, is_postgresql

if TYPE_CHECKING:
    from alembic.config import Config

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Migrations:
    """The steps in `folder`, the tables that they lead to, and the table with the reached step.

    The files of the steps begin with their revisions, which count up: `0011_name.py` is "0011".
    `lock` keeps two processes from upgrading at the same time: any number that no other program
    locks in the same database.
    """

    folder: Path
    metadata: MetaData
    version_table: str = "alembic_version"
    lock: int = 4_130_519_773

    def upgrade(self, engine: Engine, revision: str = "head") -> None:
        """Bring the tables to `revision`; safe to repeat, and at the same time as another."""
        with engine.connect() as connection:
            if revision == "head" and self._reached(connection) == {self.newest()}:
                return
        from alembic import command

        self._run(engine, lambda config: command.upgrade(config, revision))

    def upgrade_when_reachable(self, engine: Engine, stop: threading.Event) -> None:
        """Upgrade as soon as the database can be reached; return without it if `stop` is set."""
        failures = 0
        while not stop.is_set():
            try:
                self.upgrade(engine)
                return
            except Outage as error:
                failures += 1
                delay = backoff.seconds(failures)
                log.warning(
                    "the database can't be reached",
                    error=str(error.orig),
                    retry_in_seconds=round(delay, 1),
                )
                stop.wait(delay)

    def downgrade(self, engine: Engine, revision: str = "base") -> None:
        """Take the tables back to `revision`. What only newer tables hold is lost."""
        from alembic import command

        self._run(engine, lambda config: command.downgrade(config, revision))

    def revisions(self) -> list[str]:
        """The revisions of all steps, the oldest first."""
        steps = (self.folder / "versions").glob("[0-9]*_*.py")
        return sorted(step.name.partition("_")[0] for step in steps)

    def newest(self) -> str:
        """The revision that `upgrade` leads to."""
        return self.revisions()[-1]

    def is_behind(self, connection: Connection) -> bool:
        """Whether the database has no schema, or that of an earlier version.

        A later version is not behind: an upgrade migrates the database before it replaces
        processes.
        """
        revisions, reached = self.revisions(), self._reached(connection)
        return not reached or (revisions[-1] not in reached and reached <= set(revisions))

    def drift(self, connection: Connection) -> list[object]:
        """In what the database differs from the metadata; empty when it does not."""
        from alembic.autogenerate import compare_metadata
        from alembic.runtime.migration import MigrationContext

        compared = MigrationContext.configure(
            connection, opts={"version_table": self.version_table, "compare_type": True}
        )
        return list(compare_metadata(compared, self.metadata))

    def _reached(self, connection: Connection) -> set[str]:
        # Not by Alembic's context, which writes two log lines on each call.
        if not inspect(connection).has_table(self.version_table):
            return set()
        version = table(self.version_table, column("version_num"))
        return set(connection.scalars(select(version.c.version_num)))

    def _run(self, engine: Engine, step: Callable[["Config"], None]) -> None:
        from alembic.config import Config

        with engine.execution_options(sqlite_begin="IMMEDIATE").begin() as connection:
            if is_postgresql(connection):
                connection.execute(text(f"SELECT pg_advisory_xact_lock({self.lock})"))
            config = Config()
            config.set_main_option("script_location", str(self.folder))
            config.attributes |= {"connection": connection, "migrations": self}
            step(config)


def run_steps() -> None:
    """What each folder's `env.py` calls: run the steps on the connection that `_run` opened."""
    from alembic import context

    migrations: Migrations = context.config.attributes["migrations"]
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=migrations.metadata,
        version_table=migrations.version_table,
        render_as_batch=True,
    )
    with context.begin_transaction():
        context.run_migrations()
