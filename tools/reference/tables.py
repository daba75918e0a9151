"""The page about the databases, made from the tables that the code declares."""

from collections.abc import Iterable

from sqlalchemy import CheckConstraint, Column, Computed, Index, MetaData, Table
from sqlalchemy.dialects.postgresql import dialect
from sqlalchemy.schema import CreateIndex

from allocation.adapters.sql.tables import metadata as of_allocation
from tools.reference import markdown
from tools.reference.markdown import code, table
from workers.notification.tables import metadata as of_notification
from workers.warehouse.tables import metadata as of_warehouse

_POSTGRESQL = dialect()  # type: ignore[no-untyped-call]
_SERVICES: tuple[tuple[str, MetaData], ...] = (
    ("allocation", of_allocation),
    ("warehouse", of_warehouse),
    ("notification", of_notification),
)


def page() -> str:
    """Every table of the three services, in the types of PostgreSQL."""
    return markdown.page(
        "Tables",
        "the tables that the code declares",
        "Each service has a database of its own, and reads no other's. Types are PostgreSQL's;"
        " beside these tables each has one with the number of its schema.",
        *(
            part
            for service, metadata in _SERVICES
            for part in (
                f"## Database of {service}",
                *(part for each in metadata.sorted_tables for part in _table(service, each)),
            )
        ),
    )


def _table(service: str, each: Table) -> Iterable[str]:
    yield f"### {service}: {each.name}"
    yield table(("column", "type", "may be null", "more"), map(_column, each.columns))
    checks = [
        f"{constraint.name}: {code(constraint.sqltext)}"
        for constraint in each.constraints
        if isinstance(constraint, CheckConstraint)
    ]
    indexes = [code(_index(index)) for index in each.indexes]
    yield "\n".join(f"- {line}" for line in sorted(checks) + sorted(indexes))


def _column(column: Column[object]) -> tuple[str, str, str, str]:
    more = ["primary key"] if column.primary_key else []
    more += ["unique"] if column.unique else []
    more += [f"in {code(key.target_fullname)}" for key in column.foreign_keys]
    if isinstance(column.server_default, Computed):
        more += [f"computed: {code(column.server_default.sqltext)}"]
    elif column.server_default is not None:
        more += [f"default {code(_default(column))}"]
    kind = column.type.compile(_POSTGRESQL)
    return code(column.name), kind, "yes" if column.nullable else "", ", ".join(more)


def _default(column: Column[object]) -> str:
    said = getattr(column.server_default, "arg", "")
    return said if isinstance(said, str) else str(said.compile(dialect=_POSTGRESQL))


def _index(index: Index) -> str:
    return " ".join(str(CreateIndex(index).compile(dialect=_POSTGRESQL)).split())
