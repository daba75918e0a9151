"""Commands decided in this process, one transaction each, as the worker's pool does it."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

from sqlalchemy import Engine

from allocation.adapters.sql import database
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Command
from allocation.domain.outcomes import Outcome
from allocation.service_layer.execution import execute
from allocation.service_layer.unit_of_work import Message


class Decider:
    """Decides against one database, and tells what each decision took."""

    def __init__(self, url: str) -> None:
        self._engine: Engine = database.engine(url)

    def decide(self, command: Command, command_id: UUID | None = None) -> tuple[float, Outcome]:
        """Milliseconds from the begin to the end of the transaction, and the outcome."""
        command_id = command_id or uuid4()
        message = Message(command_id, command, correlation_id=command_id)
        begun = time.perf_counter()
        outcome = execute(message, SqlUnitOfWork(self._engine))
        return (time.perf_counter() - begun) * 1000, outcome

    def close(self) -> None:
        self._engine.dispose()


@contextmanager
def collected_before() -> Iterator[None]:
    """No collection of garbage in the midst of one column, on account of another one."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
