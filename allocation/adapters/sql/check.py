"""The proof of the books: each promise examined on one snapshot of the database."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Engine, func, select, text

from allocation.adapters.sql.audit import PROOFS, first_of
from allocation.adapters.sql.database import ago
from allocation.messaging.database import is_postgresql

__all__ = ["PROOFS", "Proof", "prove"]


@dataclass(frozen=True, slots=True)
class Proof:
    """One promise: `examined` things were looked at; `broken` names the first few that break it."""

    promise: str
    examined: int
    broken: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.broken


def prove(engine: Engine, overdue_after: float = 300, most: int = 10) -> Iterator[Proof]:
    """Every proof in turn, on one snapshot of the database, so a live system can be checked.

    A command is overdue after it was pending for `overdue_after` seconds. At most `most` breaches
    are named per proof.
    """
    options = {"isolation_level": "REPEATABLE READ"} if is_postgresql(engine) else {}
    examined: dict[str, int] = {}
    with engine.connect().execution_options(**options) as connection:
        if is_postgresql(engine):
            # To group a million rows in memory; to compile a statement takes longer than it saves.
            connection.execute(text("SET LOCAL work_mem = '64MB'"))
            connection.execute(text("SET LOCAL jit = off"))
        overdue_before = connection.scalar(select(ago(connection, overdue_after)))
        for promise, table, statement in PROOFS:
            if table.name not in examined:
                count = connection.scalar(select(func.count()).select_from(table))
                examined[table.name] = count or 0
            finds = first_of(statement(), most)
            asked = {"overdue_before": overdue_before}
            found = connection.execute(finds, asked).scalars().all()
            yield Proof(promise, examined[table.name], tuple(str(row) for row in found))
