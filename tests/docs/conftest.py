"""A reader for the tests of the pages."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.reader import Reader
from tests.servers.processes import Process


@pytest.fixture
def reader(processes: Callable[..., Process], tmp_path: Path) -> Reader:
    """In a fresh copy of the project."""
    return Reader(tmp_path / "allocation", processes)
