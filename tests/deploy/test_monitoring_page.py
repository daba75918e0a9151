"""docs/monitoring.md lists every metric, and no other."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.scraping import defined

TEXT = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
ROW = re.compile(r"^\| `([a-z_]+)` \| (\w+) \| (.*?) \| (.*?) \|$", re.MULTILINE)


def test_the_tables_have_every_figure_of_each_process_as_the_code_describes_it() -> None:
    told = {
        section.partition("\n")[0]: {
            name: (kind, set(re.findall(r"`(\w+)`", labels)), meaning)
            for name, kind, labels, meaning in ROW.findall(section)
        }
        for section in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]
    }

    for process, text in defined().items():
        figures = {}
        for family in text_string_to_metric_families(text):
            if family.name.endswith("_created"):
                continue
            name = family.name + ("_total" if family.type == "counter" else "")
            seen = {label for sample in family.samples for label in sample.labels} - {"le"}
            # Without a sample its labels can't be seen.
            labels = seen if family.samples else told[process][name][1]
            figures[name] = (family.type, labels, family.documentation)
        assert told[process] == figures
    assert told.keys() == defined().keys()
