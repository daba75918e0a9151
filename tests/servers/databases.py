"""A PostgreSQL server that is there: makes and drops databases in it."""

from uuid import uuid4

import psycopg2
from psycopg2 import sql
from sqlalchemy import URL, make_url


class Databases:
    """The databases of one server, which `url` names by any database that may be connected to.

    The user of the URL must have the right to create databases.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url).set(drivername="postgresql+psycopg2")

    @property
    def url(self) -> str:
        """Where the server is, as SQLAlchemy takes it."""
        return _text(self._url)

    def create_database(self, template: str | None = None) -> str:
        """The URL of a new database: empty, or a copy of the database at the URL `template`.

        Nothing may be connected to the template meanwhile.
        """
        name = f"test_{uuid4().hex}"
        source = "template0" if template is None else make_url(template).database or ""
        self._run(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(source)
            )
        )
        return _text(self._url.set(database=name))

    def drop_database(self, url: str) -> None:
        """Drop the database at `url`, whoever is connected; not an error when it is gone."""
        name = make_url(url).database or ""
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def answers(self) -> bool:
        """Whether the server takes connections now."""
        try:
            self._connect().close()
        except psycopg2.OperationalError:
            return False
        return True

    def _connect(self) -> "psycopg2.extensions.connection":
        return psycopg2.connect(_text(self._url.set(drivername="postgresql")), connect_timeout=5)

    def _run(self, statement: sql.Composed) -> None:
        connection = self._connect()
        try:
            # CREATE and DROP DATABASE refuse to run inside a transaction.
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)
