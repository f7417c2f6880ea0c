"""The dashboard and the alert rules load, parse as PromQL, and name nothing that is not measured.

tests/end_to_end/test_operation.py compares them with what a real run exported.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
import yaml

from pipelines.meter import COUNTERS, GAUGES
from tests.promql import names

ROOT = Path(__file__).parents[2]
METRICS = {f"ray_phonolake_{name}_total": set(labels) for name, (_, labels) in COUNTERS.items()} | {
    f"ray_phonolake_{name}": set(labels) for name, (_, labels) in GAUGES.items()
}
INTERVAL = "5m"  # what Grafana would put for $__rate_interval


def dashboard() -> dict:
    return json.loads((ROOT / "deploy" / "grafana" / "phonolake.json").read_text())


def rules() -> list[dict]:
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[str]:
    """Every expression of the dashboard and of the alerts."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"].replace("$__rate_interval", INTERVAL)
    for rule in rules():
        yield rule["expr"]


def test_every_expression_names_metrics_that_are_measured_with_labels_that_they_have() -> None:
    for expression in expressions():
        for metric, labels in names(expression).items():
            assert metric in METRICS, expression
            assert labels <= METRICS[metric], (metric, labels, expression)


def test_every_metric_is_on_the_dashboard_or_in_an_alert() -> None:
    assert {metric for expression in expressions() for metric in names(expression)} == METRICS.keys()


def test_a_name_or_label_that_is_not_there_is_found() -> None:
    assert names('sum by (corpus) (rate(x_total{code="a"}[5m])) / on (corpus) max by (corpus) (y)') == {
        "x_total": {"corpus", "code"},
        "y": {"corpus"},
    }
    with pytest.raises(AssertionError, match="is asked of it"):
        names("sum by (model) (x) / on (corpus) y")
    with pytest.raises(ValueError, match=r"unclosed|parenthesis|unexpected"):
        names("sum by (model) (x")


def test_panels_stand_side_by_side_and_are_all_different() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_asks_only_for_variables_that_it_has() -> None:
    text = json.dumps(dashboard())
    assert {one["name"] for one in dashboard()["templating"]["list"]} == {"datasource", "corpus"}
    for name in ("${datasource}", "$corpus"):
        assert name in text
    assert names("ray_phonolake_runs_total") == {"ray_phonolake_runs_total": set()}
    assert "label_values(ray_phonolake_runs_total, corpus)" in text


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_what_is_wrong_and_what_to_do(rule: dict) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "action"}
    if "for" in rule:
        assert promql_parser.parse_duration(rule["for"]).total_seconds() >= 15 * 60


def test_alerts_are_called_differently() -> None:
    found = [rule["alert"] for rule in rules()]
    assert len(set(found)) == len(found)
