"""Reading a process's metrics page, as Prometheus does."""

import re
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine

from allocation.adapters import metrics
from allocation.entrypoints.api.http.telemetry import Metrics
from allocation.messaging.telemetry.subscriber_metrics import SubscriberMetrics
from allocation.views.progress import Backlog
from workers.notification.mail_backends import MailFolder
from workers.notification.sender import Sender
from workers.warehouse.dispatch_outbox import Relay
from workers.warehouse.settings import Settings

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""Values by name and labels."""


def page(port: int, host: str = "127.0.0.1") -> str:
    """The text at /metrics."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def samples(text: str) -> Samples:
    """Every sample of a page."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def counted(text: str, name: str) -> dict[tuple[str, ...], float]:
    """The samples of `name` that are not 0, by the values of their labels, by the labels' names."""
    return {
        tuple(value for _, value in sorted(labels)): count
        for (known, labels), count in samples(text).items()
        if known == name and count
    }


def names(text: str) -> set[str]:
    """The names of all series that a page may have, those of labelled ones without any too."""
    found = set()
    for family in text_string_to_metric_families(text):
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
        found |= {family.name + suffix for suffix in suffixes.get(family.type, ("",))}
    return found


def named(text: str) -> set[str]:
    """The series and families of ours that a text names."""
    return set(re.findall(r"\b(?:allocation|warehouse|notification)_[a-z_]*[a-z]\b", text))


def families(series: Iterable[str]) -> set[str]:
    """By the names that they have in `# TYPE`, as people write them."""
    return {re.sub("_(total|bucket|count|sum)$", "", name) for name in series}


def exported() -> dict[str, set[str]]:
    """By process: the series of its page, as the code defines them."""
    # Served without: see `disable_created_metrics`.
    return {
        name: {series for series in names(text) if not series.endswith("_created")}
        for name, text in defined().items()
    }


def defined() -> dict[str, str]:
    """By process: its page before anything happened, made from what the code defines."""
    subscribers = {name: SubscriberMetrics(name).registry for name in ("warehouse", "notification")}
    settings = Settings()
    Relay(create_engine("sqlite://"), settings, subscribers["warehouse"])
    Sender(create_engine("sqlite://"), MailFolder(Path()), {}, subscribers["notification"])
    registries = {
        "worker": metrics.WorkerMetrics().registry,
        "relay": metrics.RelayMetrics().registry,
        "inbound": metrics.InboundMetrics().registry,
        **subscribers,
    }
    nothing = Backlog(0, 0.0, 0, 0.0, 0, 0, 0)
    pages = {name: generate_latest(each).decode() for name, each in registries.items()}
    return pages | {"api": Metrics(lambda: nothing).text().decode()}
