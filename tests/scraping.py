"""Reading a process's metrics page, as Prometheus does."""

import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

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
