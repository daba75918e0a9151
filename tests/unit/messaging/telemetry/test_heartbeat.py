import os
from pathlib import Path

from allocation.messaging.telemetry import heartbeat


def test_a_process_that_never_lived_has_no_last_beat(tmp_path: Path) -> None:
    assert heartbeat.last_beat(tmp_path, "relay") is None
    assert not heartbeat.beaten_since(tmp_path, "relay", 0.0)


def test_a_beat_counts_from_its_time_on(tmp_path: Path) -> None:
    heartbeat.beat(tmp_path, "relay")
    os.utime(tmp_path / "alive" / "relay", (100.0, 100.0))

    assert heartbeat.last_beat(tmp_path, "relay") == 100.0
    assert heartbeat.beaten_since(tmp_path, "relay", 100.0)
    assert not heartbeat.beaten_since(tmp_path, "relay", 100.5)
    assert heartbeat.last_beat(tmp_path, "inbound") is None


def test_the_next_beat_renews_it(tmp_path: Path) -> None:
    heartbeat.beat(tmp_path, "relay")
    os.utime(tmp_path / "alive" / "relay", (100.0, 100.0))

    heartbeat.beat(tmp_path, "relay")

    assert heartbeat.beaten_since(tmp_path, "relay", 100.5)
