"""The rules for Prometheus and Grafana's dashboard: each parses, is tested, and asks for what the endpoint counts."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nightshift.serving.metrics import FAMILIES
from nightshift.stack import compose

ROOT = Path(__file__).resolve().parents[2]
OPS = ROOT / "ops/prometheus"
RULES = yaml.safe_load((OPS / "alerts.yml").read_text())["groups"][0]["rules"]
ALERTS = [rule["alert"] for rule in RULES]
DASHBOARD = json.loads((ROOT / "ops/grafana/dashboards/endpoint.json").read_text())
PANELS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")


def promtool(*arguments: str, cwd: Path = OPS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@needs_promtool
def test_prometheus_takes_its_configuration_and_rules(tmp_path: Path):
    (tmp_path / "key").write_text("k")
    for file in OPS.glob("*.yml"):
        (tmp_path / file.name).write_text(file.read_text().replace("/tmp/metrics.key", str(tmp_path / "key")))
    done = promtool("check", "config", "prometheus.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_each_alert_comes_when_it_should_and_only_then():
    done = promtool("test", "rules", "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_is_without_a_test():
    tests = yaml.safe_load((OPS / "alerts_test.yml").read_text())["tests"]
    expected = [test for group in tests for test in group.get("alert_rule_test", [])]
    assert {test["alertname"] for test in expected if test["exp_alerts"]} == set(ALERTS)


def test_an_alert_says_what_to_type_next_and_has_its_line_in_the_docs():
    page = (ROOT / "docs/watching.md").read_text()
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["next"]
        assert f"\n| {rule['alert']} | " in page
    assert len(re.findall(r"^\| [A-Z]\w+ \| ", page, flags=re.MULTILINE)) == len(ALERTS)


def test_every_replica_is_scraped_and_the_dashboards_source_is_prometheus():
    (job,) = yaml.safe_load((OPS / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"{name}:8000" for name in compose.REPLICAS]
    sources = yaml.safe_load((ROOT / "ops/grafana/provisioning/datasources/prometheus.yml").read_text())
    assert [source["url"] for source in sources["datasources"]] == ["http://prometheus:9090"]


@pytest.mark.parametrize("name", [*ALERTS, *PANELS])
def test_an_expression_asks_for_what_the_endpoint_counts(name: str):
    expression = PANELS.get(name) or next(rule["expr"] for rule in RULES if rule["alert"] == name)
    asked = re.findall(r"\b((?:nightshift|process)_\w+|up)(\{[^}]*\})?", expression)
    assert asked
    for series, selector in asked:
        labels = set(re.findall(r"(\w+)(?:=|!=)", selector))
        assert labels <= labels_of(series) | {"job", "instance", "le"}, series


def labels_of(series: str) -> set[str]:
    """Of a series as Prometheus keeps it; fails for one that nothing counts."""
    if series == "up":
        return set()
    found: dict[str, Any] = {name: family for name, family in FAMILIES.items() if family.kind == "gauge"}
    found |= {f"{name}_total": family for name, family in FAMILIES.items() if family.kind == "counter"}
    for name, family in FAMILIES.items():
        if family.kind == "histogram":
            found |= {f"{name}_{part}": family for part in ("bucket", "sum", "count")}
    return set(found[series].labels)


def test_a_panel_says_what_it_shows():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert all(panel["title"] and panel["description"] for panel in DASHBOARD["panels"])
