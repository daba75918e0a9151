"""The alert rules, checked by promtool, and their pages in docs/alarms."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_compose import SERVICES
from tests.scraping import exported, families, named

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
TESTS = sorted(FOLDER.glob("tests*.yaml"))
PAGES = ROOT / "docs" / "alarms"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
CONFIG: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
HEADINGS = ["Why it fires", "What to look at", "What to do", "How to see that it is over"]


def test_promtool_accepts_rules_and_settings(promtool: Callable[..., str], tmp_path: Path) -> None:
    """With the file of the API's key, which each deployment brings."""
    folder = shutil.copytree(FOLDER, tmp_path / "prometheus")
    (folder / "api-key").write_text("a key")

    assert f"{len(RULES)} rules found" in promtool("check", "rules", folder / "alerts.yaml")
    promtool("check", "config", folder / "prometheus.yaml")


def test_the_alerts_fire_when_they_should_and_only_then(promtool: Callable[..., str]) -> None:
    assert promtool("test", "rules", *TESTS).count("SUCCESS") == len(TESTS)


def test_each_alert_fires_in_a_unit_test() -> None:
    """One that nobody ever saw firing may never do."""
    tests = [file.read_text() for file in TESTS]

    firing = set(re.findall(r'alertname="(\w+)",severity', "".join(tests))) | {
        case["alertname"]
        for text in tests
        for group in yaml.safe_load(text)["tests"]
        for case in group.get("alert_rule_test", [])
        if case["exp_alerts"]
    }

    assert firing == {rule["alert"] for rule in RULES}


def test_each_alert_has_a_page_and_each_page_an_alert() -> None:
    """The page says what to do, in the same order everywhere."""
    pages = {page.stem: page.read_text() for page in PAGES.glob("*.md")}

    assert pages.keys() == {rule["alert"] for rule in RULES}
    for name, text in pages.items():
        assert text.startswith(f"# {name}\n\n")
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS


def test_the_page_on_monitoring_lists_every_alert_with_its_severity() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text()

    listed = re.findall(r"^\| \[(\w+)\]\(alarms/(\w+)\.md\) \| (\w+) \|", text, re.MULTILINE)

    assert sorted(listed) == sorted(
        (rule["alert"], rule["alert"], rule["labels"]["severity"]) for rule in RULES
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_says_how_grave_it_is_and_where_to_read_on(rule: dict[str, Any]) -> None:
    """In a word, a line, a paragraph and a page."""
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/alarms/{rule['alert']}.md"


def test_every_figure_that_a_rule_or_a_page_names_is_exported() -> None:
    known = set().union(*exported().values())
    exact = {rule["alert"]: rule["expr"] for rule in RULES}
    exact |= {file.name: file.read_text() for file in TESTS}
    prose = {page.name: page.read_text() for page in PAGES.glob("*.md")}

    unknown = {name: named(text) - known for name, text in exact.items()}
    unknown |= {name: named(text) - known - families(known) for name, text in prose.items()}

    assert {name: series for name, series in unknown.items() if series} == {}


def test_prometheus_asks_each_process_where_compose_has_it_listen() -> None:
    """By the name of its service, at the port of its metrics."""
    asked = {}
    for job in CONFIG["scrape_configs"]:
        [found] = job["dns_sd_configs"]
        [asked[job["job_name"]]] = [(name, found["port"]) for name in found["names"]]

    listening = {}
    for service, about in SERVICES.items():
        environment = about.get("environment") or {}
        for name, value in environment.items():
            if name.endswith("_METRICS_PORT") or name == "ALLOCATION_PORT":
                host = "ALLOCATION_HOST" if service == "api" else "ALLOCATION_METRICS_HOST"
                assert environment[host] == "0.0.0.0"
                listening[service.removeprefix("allocation-")] = (service, int(value))
    assert asked == listening
