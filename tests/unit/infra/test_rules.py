"""Alert rules watch time series that the services make, and say what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from services.inference.gateway.metrics import GatewayMetrics
from tessera_kit.telemetry.metrics import Metrics
from tests.dashboards import ROOT, SCRAPED, declared, selectors

RULES = [
    rule
    for group in yaml.safe_load((ROOT / "infra/prometheus/rules.yml").read_text())["groups"]
    for rule in group["rules"]
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_series_and_label_is_declared(rule: dict[str, Any]) -> None:
    known = declared()
    found = selectors(rule["expr"])
    assert found
    for selector in found:
        assert selector.name in known
        assert selector.labels <= known[selector.name] | SCRAPED


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description"}
    shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    labels = set[str]().union(*(declared()[one.name] for one in selectors(rule["expr"])))
    assert shown <= labels | SCRAPED


def test_a_full_spool_is_told_by_each_way_in_which_it_is_counted() -> None:
    metrics = Metrics()
    gateway = GatewayMetrics(metrics)
    gateway.lost.inc()
    gateway.unlogged.inc()
    watched = {
        (name, outcome)
        for rule in RULES
        for name, outcome in re.findall(r'(\w+)\{tessera_outcome="([^"]+)"\}', rule["expr"])
    }
    counted = {
        (sample.name, sample.labels["tessera_outcome"])
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "tessera_spool_records_total" and sample.value > 0
    }
    assert len(counted) == 2
    assert watched == counted
