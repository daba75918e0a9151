"""Gates in a database: transactions wait there while a gate is shut, so that a moment lasts."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from sqlalchemy import Connection, Engine, text

from tests.waiting import eventually

_KEYS = count(70_001)


class Gate:
    """A trigger on one table, which waits for a lock that the test holds while the gate is shut.

    `deferred` puts it into the COMMIT itself; `when` is the trigger's condition on NEW.
    """

    def __init__(
        self,
        engine: Engine,
        table: str,
        *,
        event: str = "INSERT",
        deferred: bool = False,
        when: str = "true",
    ) -> None:
        self._engine = engine
        self._key = next(_KEYS)
        self._holder: Connection | None = None
        name = f"gate_{self._key}"
        kind, timing = "TRIGGER", f"BEFORE {event}"
        if deferred:
            kind, timing = "CONSTRAINT TRIGGER", f"AFTER {event}"
        with engine.begin() as connection:
            connection.execute(
                text(
                    f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                    f" PERFORM pg_advisory_xact_lock_shared({self._key}); RETURN NEW; END $$"
                )
            )
            connection.execute(
                text(
                    f"CREATE {kind} {name} {timing} ON {table}"
                    f" {'DEFERRABLE INITIALLY DEFERRED' if deferred else ''}"
                    f" FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION {name}()"
                )
            )

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Nobody passes inside the block; those who wait go on after it."""
        with self._engine.connect() as connection:
            connection.execute(text(f"SELECT pg_advisory_lock({self._key})"))
            try:
                yield
            finally:
                connection.execute(text(f"SELECT pg_advisory_unlock({self._key})"))

    def waiting(self) -> list[int]:
        """The server's processes whose transactions wait at the gate."""
        with self._engine.connect() as connection:
            return list(
                connection.scalars(
                    text(
                        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                        f" AND objid = {self._key} AND database ="
                        " (SELECT oid FROM pg_database WHERE datname = current_database())"
                    )
                )
            )

    def wait_for_somebody(self, within: float = 30) -> list[int]:
        """Wait until a transaction stands at the gate."""
        return eventually(self.waiting, within=within, what="a transaction at the gate")

    def cut_off(self) -> None:
        """End the sessions of those who wait, as when their connection is lost: they roll back."""
        with self._engine.connect() as connection:
            for pid in self.waiting():
                connection.execute(text(f"SELECT pg_terminate_backend({pid})"))
