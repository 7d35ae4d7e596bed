"""Alert rules and the dashboard: they use metrics that exist, and each alert fires when it must.

The rules are run by promtool, which the package `prometheus` brings.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from scraping import BY_NAME

from mirrorlog.metric_samples import MetricKind
from mirrorlog.metrics import METRICS

FOLDER = Path(__file__).parents[2] / "docs" / "monitoring"
RULES, CONFIG, DASHBOARD = (
    FOLDER / name for name in ("alerts.yml", "prometheus.yml", "dashboard.json")
)
STEP_S = 120
HOUR = 3600 // STEP_S
NAME = re.compile(r"\bmirrorlog_\w+")
SELECTOR = re.compile(r"(mirrorlog_\w+)\{([^}]*)\}")
TARGET_LABELS = {"job", "instance", "le"}
"""Labels that Prometheus adds, or that histograms have."""

LAST_CONSISTENT: Final = 'mirrorlog_replica_last_consistent_timestamp_seconds{site="a",volume="v"}'
GROUP_POINT: Final = 'mirrorlog_group_common_point_timestamp_seconds{site="a",group="g"}'
BACKUP: Final = 'volume="v",repository="r",address="/b"'
LAST_POINT: Final = f"mirrorlog_backup_last_point_timestamp_seconds{{{BACKUP}}}"
# alert | the series, and its value, that make it fire
CASES: Final = """
MirrorlogReplicaStopped         | mirrorlog_replica_state{site="a",volume="v",state="STOPPED"} 1
MirrorlogReplicaLag             | mirrorlog_replica_lag_seconds{site="a",volume="v"} 301
MirrorlogReplicaLagUnknown      | mirrorlog_replica_lag_unknown{site="a",volume="v"} 1
MirrorlogReplicaInconsistent    | LAST_CONSISTENT 0
MirrorlogReplicaNeverConsistent | mirrorlog_replica_may_promote{site="a",volume="v"} 0
MirrorlogGroupWithoutCommonPoint | mirrorlog_group_without_common_point{site="a",group="g"} 1
MirrorlogGroupPointOld          | GROUP_POINT 0
MirrorlogReplicaCopiedInFull    | mirrorlog_replica_resync{site="a",volume="v",rung="full"} 1
MirrorlogSiteHangs              | mirrorlog_site_heartbeat_timestamp_seconds{site="a"} 0
MirrorlogSitePartitionWithoutWorker | mirrorlog_site_partitions_without_worker{site="a"} 1
MirrorlogNoNode                 | mirrorlog_node_partitions{node="n"} 0
MirrorlogNodeHoldsBack          | mirrorlog_node_holding_back_seconds{node="n"} 61
MirrorlogPartitionStuck         | mirrorlog_node_partition_stuck{node="n",partition="0"} 1
MirrorlogNodeLag                | mirrorlog_node_partition_lag_seconds{node="n",partition="0"} 61
MirrorlogNodeRecovers           | mirrorlog_node_recovering{node="n"} 1
MirrorlogQuarantineGrows        | mirrorlog_node_quarantined_total{node="n"} grows
MirrorlogCommandsRejected       | mirrorlog_node_commands_total{node="n",code="REJECTED"} grows
MirrorlogHistoryRenewed         | mirrorlog_node_histories_renewed_total{node="n"} grows
MirrorlogKafkaAwayFromHost      | mirrorlog_host_kafka_away_seconds 61
MirrorlogSpoolFills             | mirrorlog_host_spool_bytes 51
MirrorlogWholeVolumeDirty       | mirrorlog_host_whole_volume_hot{volume="v"} 1
MirrorlogHostVolumeFailed       | mirrorlog_host_volume_failed{volume="v"} 1
MirrorlogForkOut                | mirrorlog_host_fork_state{volume="v",site="a",state="IN"} 0
MirrorlogBackupOverdue          | mirrorlog_backup_overdue{BACKUP} 1
MirrorlogBackupOld              | LAST_POINT -172800
MirrorlogBackupFailed           | mirrorlog_backup_failed{BACKUP} 1
MirrorlogBackupInconsistent     | mirrorlog_backup_inconsistent{BACKUP} 1
MirrorlogDown                   | up{job="mirrorlog-node",instance="x"} 0
"""
NAMED: Final = {
    "LAST_CONSISTENT": LAST_CONSISTENT,
    "GROUP_POINT": GROUP_POINT,
    "LAST_POINT": LAST_POINT,
}

HEALTHY: Final = {
    'mirrorlog_replica_may_promote{site="a",volume="v"}': "1",
    'mirrorlog_replica_state{site="a",volume="v",state="STOPPED"}': "0",
    'mirrorlog_replica_state{site="a",volume="v",state="WAITING"}': "0",
    'mirrorlog_replica_lag_seconds{site="a",volume="v"}': "0",
    'mirrorlog_replica_lag_unknown{site="a",volume="v"}': "0",
    LAST_CONSISTENT: "now",
    'mirrorlog_group_without_common_point{site="a",group="g"}': "0",
    GROUP_POINT: "now",
    'mirrorlog_replica_resync{site="a",volume="v",rung="full"}': "0",
    'mirrorlog_site_heartbeat_timestamp_seconds{site="a"}': "now",
    'mirrorlog_site_partitions_without_worker{site="a"}': "0",
    'mirrorlog_node_partitions{node="n"}': "4",
    'mirrorlog_node_holding_back_seconds{node="n"}': "0",
    'mirrorlog_node_partition_stuck{node="n",partition="0"}': "0",
    'mirrorlog_node_partition_lag_seconds{node="n",partition="0"}': "0",
    'mirrorlog_node_recovering{node="n"}': "0",
    'mirrorlog_node_quarantined_total{node="n"}': "7",
    'mirrorlog_node_commands_total{node="n",code="REJECTED"}': "7",
    'mirrorlog_node_commands_total{node="n",code="ACCEPTED"}': "grows",
    'mirrorlog_node_histories_renewed_total{node="n"}': "1",
    "mirrorlog_host_kafka_away_seconds": "0",
    "mirrorlog_host_spool_bytes": "0",
    "mirrorlog_host_spool_limit_bytes": "100",
    'mirrorlog_host_whole_volume_hot{volume="v"}': "0",
    'mirrorlog_host_volume_failed{volume="v"}': "0",
    'mirrorlog_host_fork_state{volume="v",site="a",state="IN"}': "1",
    f"mirrorlog_backup_overdue{{{BACKUP}}}": "0",
    f"mirrorlog_backup_failed{{{BACKUP}}}": "0",
    f"mirrorlog_backup_inconsistent{{{BACKUP}}}": "0",
    LAST_POINT: "now",
    'up{job="mirrorlog-node",instance="x"}': "1",
}
VALUES: Final = {"now": f"0+{STEP_S}x{9 * HOUR}", "grows": f"0+1x{9 * HOUR}"}


def promtool(*arguments: str | Path) -> str:
    """Run promtool; return what it prints, which is shown if it fails."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool isn't here: it comes with the package prometheus")
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alert_cases() -> Iterator[tuple[str, str, str]]:
    """Yield (alert, series, value)."""
    for line in CASES.strip().splitlines():
        alert, sample = (part.strip() for part in line.split("|", 1))
        series, _, value = sample.rpartition(" ")
        yield alert, NAMED.get(series, series).replace("{BACKUP}", f"{{{BACKUP}}}"), value


def rule_test(
    name: str, series: Mapping[str, str], firing: list[str], after: str = "90m"
) -> dict[str, Any]:
    """Return a test of promtool: with these series, these alerts fire after so long."""
    inputs = [
        {"series": selector, "values": VALUES.get(value, f"{value}x{9 * HOUR}")}
        for selector, value in series.items()
    ]
    samples = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in firing]
    expression = 'count by (alertname) (ALERTS{alertstate="firing"})'
    return {
        "name": name,
        "interval": f"{STEP_S}s",
        "input_series": inputs,
        "promql_expr_test": [{"expr": expression, "eval_time": after, "exp_samples": samples}],
    }


def rule_tests() -> Iterator[dict[str, Any]]:
    yield rule_test("healthy", HEALTHY, [])
    for alert, series, value in alert_cases():
        changed, after = HEALTHY | {series: value}, "90m"
        if alert == "MirrorlogReplicaNeverConsistent":
            after = "7h"
            changed.pop(LAST_CONSISTENT)
        yield rule_test(alert, changed, [alert], after)
    waiting = {
        'mirrorlog_replica_state{site="a",volume="v",state="WAITING"}': "1",
        'mirrorlog_replica_may_promote{site="a",volume="v"}': "0",
        'mirrorlog_replica_lag_unknown{site="a",volume="v"}': "1",
    }
    yield rule_test("a volume that nobody has written to", HEALTHY | waiting, [])
    no_node = {name: value for name, value in HEALTHY.items() if "node_partitions" not in name}
    yield rule_test("no node is there at all", no_node, ["MirrorlogNoNode"])


def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    promtool("check", "rules", RULES)
    # Compose has the file of the token, and this machine hasn't.
    promtool("check", "config", "--syntax-only", CONFIG)


def test_promtool_accepts_the_page_on_tls(tmp_path: Path) -> None:
    page = (FOLDER.parent / "metrics.md").read_text("utf-8")
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "prometheus.yml").write_text(example)
    promtool("check", "config", "--syntax-only", tmp_path / "prometheus.yml")


def test_each_alert_fires_for_its_problem_alone(tmp_path: Path) -> None:
    file = tmp_path / "alerts_test.yml"
    content = {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{STEP_S}s",
        "tests": list(rule_tests()),
    }
    file.write_text(json.dumps(content))  # JSON is YAML
    promtool("test", "rules", file)


def test_each_alert_has_a_case_a_summary_and_a_next_action() -> None:
    rules = RULES.read_text("utf-8").split("- alert: ")[1:]
    assert [rule.split("\n")[0] for rule in rules] == [alert for alert, _, _ in alert_cases()]
    for rule in rules:
        assert re.search(r"severity: (critical|warning)\n", rule)
        assert re.search(r'summary: ".+\."\n', rule)
        assert re.search(r'next_action: ".+\."\n', rule)


def expressions() -> Iterator[str]:
    """Yield every expression of the rules and of the dashboard."""
    rules = RULES.read_text("utf-8")
    yield from re.findall(r"expr: (?:>-\n)?(.*?)\n        (?:for|labels):", rules, re.DOTALL)
    for panel in panels():
        for target in panel.get("targets", ()):
            yield target["expr"]


def panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text("utf-8"))["panels"])


@pytest.mark.parametrize("expression", list(expressions()))
def test_expressions_name_metrics_and_labels_that_exist(expression: str) -> None:
    names = set(NAME.findall(expression))
    for name in names:
        base = re.sub(r"_(bucket|count|sum)$", "", name)
        assert name in BY_NAME or BY_NAME[base].kind is MetricKind.HISTOGRAM, name
    for name, matchers in SELECTOR.findall(expression):
        base = name if name in BY_NAME else re.sub(r"_(bucket|count|sum)$", "", name)
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        assert labels <= {*BY_NAME[base].labels, *TARGET_LABELS}, name
    for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
        known = TARGET_LABELS.union(*(metric.labels for metric in METRICS))
        assert {label.strip() for label in grouped.split(",")} <= known


def test_promtool_parses_the_dashboards_expressions(tmp_path: Path) -> None:
    file = tmp_path / "dashboard_rules.yml"
    rules = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$__rate_interval", "5m", expression)}
        for number, expression in enumerate(expressions())
    ]
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


def test_every_metric_that_is_a_problem_is_on_the_dashboard() -> None:
    shown = set(NAME.findall(DASHBOARD.read_text("utf-8")))
    assert {metric.name for metric in METRICS if metric.is_problem} <= shown


def test_panels_have_names_and_places_of_their_own() -> None:
    all_panels = panels()
    assert len({panel["id"] for panel in all_panels}) == len(all_panels)
    taken: set[tuple[int, int]] = set()
    for panel in all_panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert panel["title"]
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
