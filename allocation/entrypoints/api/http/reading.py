"""Where the reads get their connection: one unchanging picture of the configured database."""

from contextlib import AbstractContextManager

from sqlalchemy import Connection

from allocation import bootstrap, views


def snapshot() -> AbstractContextManager[Connection]:
    """A connection for one answer; see `views.snapshot`."""
    return views.snapshot(bootstrap.engine(bootstrap.settings().database_url))
