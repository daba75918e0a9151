"""The client's methods follow from the contract."""

from tools import client


def test_the_methods_of_the_client_are_the_newest() -> None:
    written = client.FILE.read_text()

    assert written == client.source(), "run `make docs` and commit allocation/client/commands.py"
