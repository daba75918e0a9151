"""What `allocation up` locks: the embedded state, and nothing on servers."""

import os
from pathlib import Path

import pytest

from allocation.entrypoints.cli import up
from allocation.settings import Settings
from tests.servers.ports import free_ports


def settings(folder: Path, **others: str) -> Settings:
    port, flower = free_ports(2)
    return Settings(state_dir=folder, port=port, flower_port=flower, **others)  # type: ignore[arg-type]


def test_a_folder_is_used_by_one_up_at_a_time(tmp_path: Path) -> None:
    held = up.claim(settings(tmp_path))

    with pytest.raises(up.Unavailable, match=f"uses the folder {tmp_path} .process {os.getpid()}"):
        up.claim(settings(tmp_path))
    for lock in held:
        os.close(lock)
    for lock in up.claim(settings(tmp_path)):
        os.close(lock)


def test_two_folders_do_not_share_one_spool(tmp_path: Path) -> None:
    spool = f"spool://{tmp_path}/spool"
    held = up.claim(settings(tmp_path / "one", broker_url=spool))

    with pytest.raises(up.Unavailable, match=f"uses the folder {tmp_path}/spool "):
        up.claim(settings(tmp_path / "two", broker_url=spool))
    for lock in held:
        os.close(lock)


def test_on_servers_several_may_run_from_one_folder(tmp_path: Path) -> None:
    servers = {"database_url": "postgresql://db/allocation", "broker_url": "amqp://broker"}

    assert [up.claim(settings(tmp_path, **servers)) for _ in range(2)] == [[], []]
    assert list(tmp_path.iterdir()) == []


def test_two_ports_that_are_set_to_the_same_are_refused(tmp_path: Path) -> None:
    [port] = free_ports(1)

    with pytest.raises(up.Unavailable, match=f"Flower can't listen on 127.0.0.1:{port}: Address"):
        up.claim(Settings(state_dir=tmp_path / "new", port=port, flower_port=port))
    assert not (tmp_path / "new").exists()
