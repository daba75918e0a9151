"""A reader for the tests of the pages."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.reader import Reader
from tests.servers.processes import Process
from tests.servers.programs import find_curl


@pytest.fixture
def reader(processes: Callable[..., Process], tmp_path: Path, say: Callable[[str], None]) -> Reader:
    """In a fresh copy of the project, with curl on the PATH."""
    find_curl(say)
    return Reader(tmp_path / "allocation", processes)
