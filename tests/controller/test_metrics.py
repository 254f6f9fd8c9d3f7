import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import flyball
from flyball.controller.metrics import MODES, GovernorMetrics, Mode, Status, ThrottleStatus

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana.json"
STATUS = Status(
    mode="governing",
    policy="goodput/1",
    draft_len=2.5,
    price=70.0,
    num_rounds=100,
    num_proposed=250,
    num_accepted=200,
    num_decisions=40,
    decision_s=0.002,
    fallbacks={"decide": 3},
    num_rejected=6,
    throttle=ThrottleStatus({"draft_len": 2.0, "attention": "sdpa"}, 9, {"meter": 2}),
)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> GovernorMetrics:
    return GovernorMetrics("0", registry)


def test_every_field_is_shown(metrics: GovernorMetrics, registry: CollectorRegistry) -> None:
    metrics.update(STATUS)
    engine = {"engine": "0"}
    shown = {
        "draft_len": 2.5,
        "price_tokens_per_second": 70.0,
        "rounds_total": 100,
        "proposed_tokens_total": 250,
        "accepted_tokens_total": 200,
        "decisions_total": 40,
        "decision_seconds_total": 0.002,
        "rejected_total": 6,
    }
    for name, value in shown.items():
        assert registry.get_sample_value(f"flyball_{name}", engine) == value, name
    kind = {"engine": "0", "kind": "decide"}
    assert registry.get_sample_value("flyball_fallbacks_total", kind) == 3
    policy = {"engine": "0", "policy": "goodput/1", "version": flyball.__version__}
    assert registry.get_sample_value("flyball_policy_info", policy) == 1


def test_a_throttle_shows_its_setting_windows_and_faults(
    metrics: GovernorMetrics, registry: CollectorRegistry
) -> None:
    metrics.update(STATUS)
    metrics.update(replace(STATUS, throttle=ThrottleStatus({"draft_len": 4.0}, 11, {"meter": 3})))
    engine = {"engine": "0"}
    knob = engine | {"knob": "draft_len"}
    assert registry.get_sample_value("flyball_throttle_setting", knob) == 4.0
    name = engine | {"knob": "attention"}  # no number
    assert registry.get_sample_value("flyball_throttle_setting", name) is None
    assert registry.get_sample_value("flyball_throttle_windows_total", engine) == 11
    meter = engine | {"kind": "meter"}
    assert registry.get_sample_value("flyball_throttle_faults_total", meter) == 3


def test_counters_follow_totals(metrics: GovernorMetrics, registry: CollectorRegistry) -> None:
    metrics.update(STATUS)
    metrics.update(STATUS)
    metrics.update(replace(STATUS, num_rounds=130, fallbacks={"decide": 3, "stop": 1}))
    engine = {"engine": "0"}
    assert registry.get_sample_value("flyball_rounds_total", engine) == 130
    for kind, total in {"decide": 3, "stop": 1}.items():
        labels = {"engine": "0", "kind": kind}
        assert registry.get_sample_value("flyball_fallbacks_total", labels) == total


def test_counters_never_fall_when_another_governor_begins_at_zero(
    metrics: GovernorMetrics, registry: CollectorRegistry
) -> None:
    metrics.update(STATUS)
    metrics.update(replace(STATUS, num_rounds=7))
    assert registry.get_sample_value("flyball_rounds_total", {"engine": "0"}) == 107


@pytest.mark.parametrize("mode", MODES)
def test_exactly_one_mode_holds(
    mode: Mode, metrics: GovernorMetrics, registry: CollectorRegistry
) -> None:
    metrics.update(STATUS)
    metrics.update(replace(STATUS, mode=mode))
    shown = {
        name: registry.get_sample_value("flyball_mode", {"engine": "0", "mode": name})
        for name in MODES
    }
    assert shown == {name: float(name == mode) for name in MODES}


def test_a_changed_policy_takes_the_place_of_the_old(
    metrics: GovernorMetrics, registry: CollectorRegistry
) -> None:
    for policy in ("goodput/1", "static/1", "goodput/1"):
        metrics.update(replace(STATUS, policy=policy))
        (family,) = [found for found in registry.collect() if found.name == "flyball_policy_info"]
        assert [s.labels["policy"] for s in family.samples if s.value == 1] == [policy]


def test_the_dashboard_names_the_metrics_that_exist(
    metrics: GovernorMetrics, registry: CollectorRegistry
) -> None:
    metrics.update(STATUS)
    exported = {sample.name for family in registry.collect() for sample in family.samples}
    named = set(re.findall(r"\bflyball_\w+", DASHBOARD.read_text()))
    assert named == {name for name in exported if not name.endswith("_created")}


def test_the_dashboard_can_be_imported() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert variables[0] == "datasource"
    for panel in panels:
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        for target in panel["targets"]:
            used = set(re.findall(r"\$([a-z]\w*)", target["expr"]))
            assert used <= set(variables), target["expr"]
