"""Metrics start at 0: Prometheus sees no increase in a first value."""

from collections.abc import Iterable
from itertools import product

import pytest

from allocation.adapters.rabbitmq.dead_letter_queues import REASONS
from allocation.contract import inbound_events, registry
from allocation.entrypoints.worker.admission import Inadmissible
from allocation.messaging.cloudevents import Unreadable
from allocation.messaging.telemetry import subscriber_metrics
from tests.scraping import Samples, defined, samples


def zeros(
    name: str, /, **labels: Iterable[str]
) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """A sample of 0 for each combination of the labels' values."""
    values = product(*labels.values())
    return {(name, frozenset(zip(labels, each, strict=True))): 0.0 for each in values}


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        (
            "worker",
            zeros(
                "allocation_commands_decided_total",
                command=registry.COMMANDS,
                outcome=("succeeded", "rejected", "failed"),
            ),
        ),
        ("worker", zeros("allocation_command_retries_total", command=registry.COMMANDS)),
        *(
            (
                process,
                zeros("allocation_dead_letters_total", queue=(queue,), reason=REASONS[queue]),
            )
            for process, queue in (
                ("worker", "allocation.dead"),
                ("inbound", "allocation.inbound.dead"),
            )
        ),
        (
            "relay",
            zeros("allocation_relay_sent_total", kind=("command",), name=registry.COMMANDS)
            | zeros("allocation_relay_sent_total", kind=("event",), name=registry.EVENTS),
        ),
        ("inbound", zeros("allocation_inbound_events_total", result=("accepted", "refused"))),
        ("warehouse", zeros("warehouse_dead_letters_total", reason=subscriber_metrics.REASONS)),
        (
            "notification",
            zeros("notification_dead_letters_total", reason=subscriber_metrics.REASONS),
        ),
        (
            "notification",
            zeros("notification_mails_total", result=("sent", "refused", "put_off")),
        ),
    ],
)
def test_what_has_not_happened_yet_is_shown_as_0(process: str, expected: Samples) -> None:
    """For each command, event, reason and result that there may be."""
    [name] = {name for name, _ in expected}

    shown = samples(defined()[process])

    assert {key: value for key, value in shown.items() if key[0] == name} == expected


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        (Inadmissible, REASONS["allocation.dead"]),
        (inbound_events.Inadmissible, REASONS["allocation.inbound.dead"]),
        (Unreadable, subscriber_metrics.REASONS),
    ],
)
def test_every_reason_to_turn_a_message_away_is_among_them(
    kind: type[Inadmissible], reasons: tuple[str, ...]
) -> None:
    """Those of subclasses, too."""
    turned_away = {each.reason for each in (kind, *kind.__subclasses__())}

    assert turned_away <= set(reasons)
