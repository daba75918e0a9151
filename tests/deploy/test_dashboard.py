"""The Grafana dashboard: its queries are valid, and their metrics exist."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.scraping import exported, families, named

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "deploy" / "grafana" / "dashboard.json").read_text()
)
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_promtool_can_read_every_expression(promtool: Callable[..., str], tmp_path: Path) -> None:
    """As the rules that they would be, with Grafana's own variable filled in."""
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(EXPRESSIONS)
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


def test_every_figure_that_it_shows_is_exported() -> None:
    """A misspelt one would be a panel that says `No data` for ever."""
    known = set().union(*exported().values())

    assert set().union(*map(named, EXPRESSIONS)) - known == set()


def test_every_figure_of_ours_is_shown() -> None:
    """Buckets, sums and counts stand for each other."""
    shown = set().union(*map(named, EXPRESSIONS))

    assert families(set().union(*exported().values())) == families(shown)


def test_every_panel_has_an_id_of_its_own_a_unit_and_the_chosen_data_source() -> None:
    """Whoever imports it chooses where its figures come from."""
    [variable] = DASHBOARD["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == (
        *("datasource", "datasource"),
        "prometheus",
    )
    chosen = {"type": "prometheus", "uid": "${datasource}"}

    ids = Counter(panel["id"] for panel in DASHBOARD["panels"])
    assert ids.most_common(1)[0][1] == 1
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert [target["datasource"] for target in panel["targets"]] == [
            chosen for _ in panel["targets"]
        ]
        assert panel["datasource"] == chosen


def test_the_panels_stand_in_rows_and_none_lies_over_another() -> None:
    """Of 24 columns, as Grafana has them."""
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    taken: Counter[tuple[int, int]] = Counter()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                taken[x, y] += 1

    assert rows == ["Commands", "Decisions", "Outbox and queues", "Waiting", "Subscribers"]
    assert DASHBOARD["panels"][0]["type"] == "row"
    assert set(taken.values()) == {1}
