"""Metrics of real processes, and a real Prometheus that reads them."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from certificates import Certificates, make_certificates
from deadlines import DEADLINE_S, wait_until
from notation import backup_report
from running import run_cli
from scraping import Page, exported_names, read_page

from mirrorlog import metrics
from mirrorlog.adapters.kafka import KafkaPublisher
from mirrorlog.adapters.metrics_server import MetricsServer, open_metrics_server
from mirrorlog.cli.demo.run import Run
from mirrorlog.codec.events import encode
from mirrorlog.metric_samples import (
    DurationHistogram,
    ExportingRole,
    MetricKind,
    MetricSample,
    MetricSamples,
)
from mirrorlog.producers import open_volume

pytestmark = pytest.mark.integration

RULES = Path(__file__).parents[2] / "docs" / "monitoring" / "alerts.yml"


TOKEN = "mirrorlog-metrics"
REPOSITORY = "55555555-5555-4555-8555-555555555555"


def register_backup(run: Run) -> None:
    """Report a backup of the volume v, as a repository does that has a point."""
    report = backup_report(
        repository=REPOSITORY,
        position=0,
        at_us=1_790_000_000_000_000,
        point="20260921T131320Z-00000000",
        written_at_us=1_790_000_000_000_000,
        is_consistent=True,
        every_s=3600.0,
    )
    with closing(KafkaPublisher(run.settings.kafka_client())) as publisher:
        publisher.publish(run.settings.topics.progress, 0, report.key, encode(report))
        publisher.flush(DEADLINE_S)


def page_at(url: str) -> Page:
    with urlopen(url, timeout=DEADLINE_S) as answer:
        return read_page(answer.headers["Content-Type"], answer.read().decode())


def test_every_role_serves_its_metrics(world: Run) -> None:
    run = world
    register_backup(run)
    run.start_node()
    arguments = ["site", "run", "site-a", "--dir", str(run.folder / "site-a")]
    run.start_part("site-a", [*arguments, "--metrics", "127.0.0.1:0"])
    urls, waiting = {}, {"node", "site-a"}
    while waiting:
        for message in run.read_messages():
            if message.message_type == "metrics":
                urls[message.part] = message.fields["url"]
            elif message.message_type == "ready":
                waiting.discard(message.part)
                if message.part == "node":
                    urls["node"] = f"{message.fields['http']}/metrics"
        run.check()
    assert run_cli(run.settings, "volume", "create", "v", "--size", "1MiB").returncode == 0
    settings = run.settings.model_copy(update={"metrics": "127.0.0.1:0"})
    lines: list[str] = []
    with open_volume("v", settings, report=lines.append) as volume:
        [urls["host"]] = [line.split()[-1] for line in lines if line.startswith("metrics at ")]
        volume.pwrite(bytes(8192), 0)
        page = wait_until(
            lambda: (host := page_at(urls["host"]))["mirrorlog_host_writes_total"][("v",)] and host
        )
        assert page["mirrorlog_host_written_bytes_total"] == {("v",): 8192}
        names = exported_names(page)
    with pytest.raises(URLError):
        page_at(urls["host"])

    def copied() -> Page | None:
        page = page_at(urls["site-a"])
        copied = page.get("mirrorlog_replica_copied_bytes_total", {}).get(("site-a", "v"))
        is_consistent = page.get("mirrorlog_replica_may_promote") == {("site-a", "v"): 1}
        is_known = page.get("mirrorlog_replica_lag_unknown") == {("site-a", "v"): 0}
        return page if copied and is_consistent and is_known else None

    page = wait_until(copied)
    assert page["mirrorlog_replica_behind_bytes"] == {("site-a", "v"): 0}
    names |= exported_names(page)
    page = wait_until(lambda: "mirrorlog_backup_failed" in (node := page_at(urls["node"])) and node)
    assert page["mirrorlog_backup_last_point_timestamp_seconds"] == {
        ("v", REPOSITORY, "/backups"): 1_790_000_000
    }
    commands = page["mirrorlog_node_commands_total"]
    assert commands["node", "ACCEPTED"] >= 3
    assert page["mirrorlog_node_records_written_total"]["node", "second"] >= 1
    assert page["mirrorlog_node_flush_duration_seconds_count"]["node",] >= 1
    names |= exported_names(page)
    others = (  # of forks, of copies that take long, of exports
        metrics.HOST_FORK_STATE,
        metrics.REPLICA_ETA,
        metrics.HOST_SNAPSHOT_DISK,
        metrics.HOST_SNAPSHOT_DISK_LIMIT,
    )
    of_other_tests = (
        "mirrorlog_archive_",
        "mirrorlog_dashboard_",
        "mirrorlog_group_",
        "mirrorlog_site_worker",
        "mirrorlog_site_partitions",
    )
    assert names == {
        metric.name
        for metric in set(metrics.METRICS) - set(others)
        if not metric.name.startswith(of_other_tests)
    }


def one_of_each() -> MetricSamples:
    """Yield a sample of every metric. All is well, but for one secondary that is STOPPED."""
    histogram = DurationHistogram()
    histogram.observe(0.02)
    for metric in metrics.METRICS:
        labels = tuple({"state": "STOPPED", "partition": "0"}.get(n, "x") for n in metric.labels)
        value = 0.0 if metric.is_problem else 1.0
        if metric.name.endswith("_timestamp_seconds"):
            value = time.time()
        if metric is not metrics.BUILD_INFO:  # every role has it
            is_histogram = metric.kind is MetricKind.HISTOGRAM
            yield MetricSample(metric, histogram.value() if is_histogram else value, labels)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


@pytest.fixture
def served(certificates: Certificates) -> Iterator[MetricsServer]:
    """Serve one of each to whoever has a certificate and the token."""
    access = replace(certificates.server, token=TOKEN)
    server = open_metrics_server("127.0.0.1:0", access, ExportingRole.SITE, one_of_each)
    assert server is not None
    with closing(server):
        yield server


@pytest.fixture
def prometheus(served: MetricsServer, certificates: Certificates, tmp_path: Path) -> Iterator[str]:
    """Yield the address of a Prometheus that reads `served` each second."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus isn't here: it comes with the package prometheus")
    (tmp_path / "token").write_text(TOKEN)
    own = certificates.client
    job = {
        "job_name": "mirrorlog",
        "scheme": "https",
        "authorization": {"credentials_file": str(tmp_path / "token")},
        "tls_config": {
            "ca_file": str(own.ca),
            "cert_file": str(own.certificate),
            "key_file": str(own.key),
        },
        "static_configs": [
            {"targets": [served.url.removeprefix("https://").removesuffix("/metrics")]}
        ],
    }
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [job],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [
            program,
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={address}",
        ],
        stderr=(tmp_path / "prometheus.log").open("wb"),
    )
    try:
        yield f"http://{address}/api/v1"
    finally:
        process.terminate()
        process.wait()


def test_prometheus_reads_every_metric_and_judges_the_rules(prometheus: str) -> None:
    def ask(path: str) -> Any:
        try:
            with urlopen(f"{prometheus}/{path}", timeout=DEADLINE_S) as answer:
                return json.load(answer)["data"]
        except URLError:
            return None

    def query(expression: str) -> Any:
        data = ask(f"query?query={quote(expression)}")
        return data and data["result"]

    wait_until(lambda: query("up == 1"))
    metadata = ask("metadata")
    assert {metric.name.removesuffix("_total"): metric.kind for metric in metrics.METRICS} == {
        name: entries[0]["type"]
        for name, entries in metadata.items()
        if name.startswith("mirrorlog_")
    }
    # The alert waits for two minutes. Before the first scrape, there is no node either.
    expected = {("MirrorlogReplicaStopped", "pending")}
    wait_until(
        lambda: (
            {
                (alert["metric"]["alertname"], alert["metric"]["alertstate"])
                for alert in query("ALERTS")
            }
            == expected
        )
    )
