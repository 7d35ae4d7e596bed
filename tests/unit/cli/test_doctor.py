"""`doctor` judges a snapshot by one table of checks, and gathers it without hiding anything."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificates
from command_line import run_main
from reports import NODE

from mirrorlog import __version__
from mirrorlog.acls import KafkaOperation, Role
from mirrorlog.adapters.metrics_server import open_metrics_server
from mirrorlog.cli.doctor import machine
from mirrorlog.cli.doctor.checks import CHECKS, has_failed, judge
from mirrorlog.cli.doctor.findings import Result
from mirrorlog.cli.doctor.http_ports import http_ports
from mirrorlog.cli.doctor.snapshot import (
    ClockFacts,
    ClusterFacts,
    FolderFacts,
    HostKeyFacts,
    IdentityFacts,
    LibraryFacts,
    NoCluster,
    NotAsked,
    PortFacts,
    Snapshot,
    TopicFacts,
)
from mirrorlog.cli.doctor.topic_checks import check_topic_settings, expected_specs
from mirrorlog.domain.host_keys import Holder, HostKey, HostKeys
from mirrorlog.domain.reports import NodePartitionState, PartitionReport
from mirrorlog.errors import BadUse
from mirrorlog.metric_samples import ExportingRole
from mirrorlog.reading.present_state import PresentState, Reported
from mirrorlog.settings import Settings, load_settings
from mirrorlog.status.health import Thresholds
from mirrorlog.status.overview import Overview, QuarantineNews, evaluate

ALL = frozenset(KafkaOperation)
NOW_US = 1_800_000_000_000_000


def topics_of(settings: Settings, copies: int) -> list[TopicFacts]:
    """Return the topics as `topics create` makes them."""
    defaults = {"max.message.bytes": "1048588", "segment.bytes": "1073741824"}
    in_sync = {"min.insync.replicas": str(max(1, copies - 1)), "retention.bytes": "-1"}
    return [
        TopicFacts(
            name=spec.name,
            exists=True,
            partitions=1 if spec.one_partition else 4,
            copies=copies,
            config={**defaults, **in_sync, **spec.config},
            allowed=ALL,
        )
        for spec in settings.topics.specs(single_copy=copies == 1)
    ]


def overview_of(quarantined: int = 0) -> Overview:
    """Return the overview of topics that hold nothing."""
    news = QuarantineNews(count=quarantined, text="it is no event", partition=2, position=7)
    return evaluate(PresentState(), news, partition_count=4, now_us=NOW_US, thresholds=Thresholds())


def run_by(version: str) -> Overview:
    """Return the overview of a cluster with one worker that lives."""
    running = NodePartitionState.RUNNING
    parts = tuple(PartitionReport(partition=number, state=running) for number in range(4))
    report = replace(NODE, version=version, partitions=parts, is_over=False)
    state = PresentState(nodes={report.node: Reported(report, NOW_US - 1_000_000)})
    return evaluate(
        state, QuarantineNews(count=0), partition_count=4, now_us=NOW_US, thresholds=Thresholds()
    )


def sound(copies: int = 3) -> Snapshot:
    """Return a snapshot in which nothing is wrong, but that no node has started yet."""
    settings = load_settings(None, {})
    return Snapshot(
        role=None,
        problems=(),
        settings=settings,
        libraries=[LibraryFacts("Python", "3.11.7", ">=3.11")],
        identity=IdentityFacts(machine_id="m", boot_id="b"),
        folder=FolderFacts(path=Path("/s"), exists=True, free_bytes=1 << 40, problem=None),
        ports=[PortFacts(setting="node_http", address="127.0.0.1:0")],
        open_files=4096,
        tools={"nbdkit": None},
        cluster=ClusterFacts(
            servers="k:9092", chosen_by="a test", cluster_id="id", brokers=3, version=None
        ),
        topics=topics_of(settings, copies),
        groups={"mirrorlog.node": ALL, "mirrorlog.reader": ALL},
        overview=overview_of(),
        clock=ClockFacts(now_us=NOW_US, newest_append_us=NOW_US - 1_000_000),
    )


def results_of(snapshot: Snapshot) -> dict[str, list[Result]]:
    """Return the results of each check."""
    results: dict[str, list[Result]] = {}
    for name, finding in judge(snapshot):
        assert finding.what and not finding.what.endswith("."), finding
        results.setdefault(name, []).append(finding.result)
    assert list(results) == list(CHECKS), "every check finds something"
    return results


def line_of(snapshot: Snapshot, check: str) -> str:
    """Return the lines of a check that aren't ok."""
    lines = [
        finding.line(name)
        for name, finding in judge(snapshot)
        if name == check and finding.result is not Result.OK
    ]
    return "\n".join(lines)


def test_nothing_is_wrong_with_a_sound_snapshot() -> None:
    results = results_of(sound())
    assert results.pop("node") == [Result.WARNING]  # no worker yet, and nothing to record
    assert results.pop("versions") == [Result.NOT_ASKED]
    assert {check for listed in results.values() for check in listed} == {Result.OK}
    same = results_of(replace(sound(), overview=run_by(__version__)))
    assert same["versions"] == [Result.OK]
    assert not has_failed(judge(sound()))


@pytest.mark.parametrize("change", [{"ports": [], "role": Role.ADMIN}, {"libraries": []}])
def test_a_check_of_nothing_says_so(change: dict[str, Any]) -> None:
    assert results_of(replace(sound(), **change))


def without(snapshot: Snapshot, name: str, **changes: object) -> Snapshot:
    """Return the snapshot with changes to one topic, named without the prefix."""
    assert not isinstance(snapshot.topics, NotAsked)
    topics = [
        replace(topic, **changes) if topic.name.endswith(f".{name}") else topic  # type: ignore[arg-type]
        for topic in snapshot.topics
    ]
    return replace(snapshot, topics=topics)


def with_setting(name: str, value: str, topic: str = "commands", copies: int = 3) -> Snapshot:
    """Return a snapshot in which a topic has another value of a setting."""
    snapshot = sound(copies)
    assert not isinstance(snapshot.topics, NotAsked)
    (config,) = (facts.config for facts in snapshot.topics if facts.name.endswith(f".{topic}"))
    assert isinstance(config, Mapping)
    return without(snapshot, topic, config={**config, name: value})


NAMELESS = IdentityFacts(machine_id="", boot_id="b")
SINCE_EVER = IdentityFacts(machine_id="m", boot_id="")
FULL = FolderFacts(path=Path("/s"), exists=True, free_bytes=1 << 20, problem=None)
LOW = replace(FULL, free_bytes=500 << 20)
READ_ONLY = replace(FULL, free_bytes=1 << 40, problem="a file can't be written: it is read-only")
TAKEN = PortFacts(setting="metrics", address="h:1", problem=BadUse("it is taken", next="Free it."))
BEHIND = ClockFacts(now_us=NOW_US, newest_append_us=NOW_US + 60_000_000)
LONG_AGO = ClockFacts(now_us=NOW_US, newest_append_us=NOW_US - 60_000_000)
AWAY = NoCluster(what="asking for a broker failed", where="k:9092", next="Start it.")

KEY = HostKey("east/1", bytes(32))
KEYS = HostKeys({KEY.id: KEY}, {"east": Holder("east", ("db*",))})
OF_NODE = HostKeyFacts(path=Path("/k"), keys=KEYS)
UNUSABLE = HostKeyFacts(path=Path("/k"), problem=BadUse("it isn't TOML", where="/k", next="x."))
READS_OVER_NBD = load_settings(None, {"site_primaries": {"*": "nbd://h/{volume}"}})
# check | what differs from a sound snapshot | result | a part of its line
CASES: list[tuple[str, dict[str, Any] | Snapshot, str, str]] = [
    ("libraries", {"libraries": [LibraryFacts("a", "2.0", "<2")]}, "failed", "a <2 is needed"),
    ("libraries", {"libraries": [LibraryFacts("a", None, "")]}, "failed", "isn't installed"),
    ("configuration", {"problems": [BadUse("no setting", next="x.")]}, "failed", "no setting. x."),
    ("identity", {"identity": NAMELESS}, "warning", "systemd-machine-id-setup"),
    ("identity", {"identity": SINCE_EVER}, "warning", "boot_id). Let processes read it"),
    ("state folder", {"folder": FULL}, "failed", "1.0 MiB (1048576 bytes) free (/s)"),
    ("state folder", {"folder": LOW}, "warning", "(524288000 bytes) free (/s)"),
    ("state folder", {"folder": READ_ONLY}, "failed", "read-only (/s)"),
    ("open files", {"open_files": 256}, "warning", "256 files"),
    ("host keys", {"host_keys": UNUSABLE}, "failed", "isn't TOML (/k). x."),
    ("host keys", {"host_keys": replace(OF_NODE, is_open=True)}, "warning", "(/k). Take the right"),
    (
        "host keys",
        {"host_keys": OF_NODE, "authenticated": ["db", "web", "www"]},
        "failed",
        "(volume web and 1 more). Add a holder",
    ),
    ("host keys", {"role": Role.NODE, "authenticated": ["db"]}, "failed", "(volume db). Add"),
    ("host keys", {"role": Role.HOST, "authenticated": ["db"]}, "warning", "this host has no key"),
    ("http ports", {"ports": [TAKEN]}, "failed", "it is taken (metrics = h:1). Free it."),
    ("tools", {"role": Role.HOST}, "warning", "needs nbdkit"),
    (
        "tools",
        {"role": Role.SITE, "tools": {"libnbd": None}, "settings": READS_OVER_NBD},
        "failed",
        "apt install libnbd0",
    ),
    ("broker", {"cluster": AWAY}, "failed", "(k:9092). Start it."),
    ("topics", without(sound(), "log", exists=False), "failed", "exist (topic mirrorlog.log)"),
    ("topics", without(sound(), "reports", exists=False), "warning", "report nothing"),
    ("topics", without(sound(), "digests", exists=False), "warning", "`mirrorlog verify` needs it"),
    ("topics", without(sound(), "log", exists=None), "not asked", "may not see it"),
    ("topics", without(sound(), "log", partitions=5), "failed", "equally many partitions"),
    ("topics", without(sound(), "volumes", partitions=5), "warning", "only the first is used"),
    ("topics", sound(copies=1), "warning", "replication factor 1 of mirrorlog.volumes, "),
    ("topic settings", with_setting("cleanup.policy", "compact"), "failed", "delete is needed"),
    (
        "topic settings",
        with_setting("message.timestamp.type", "CreateTime"),
        "failed",
        "LogAppendTime is needed (topic mirrorlog.commands). Run `mirrorlog topics create`.",
    ),
    ("topic settings", with_setting("min.insync.replicas", "1"), "warning", "2 is needed"),
    ("topic settings", with_setting("max.message.bytes", "1000"), "failed", "1000000 is needed"),
    (
        "topic settings",
        with_setting("max.message.bytes", "1048588", "quarantine"),
        "failed",
        "2097152 is needed (topic mirrorlog.quarantine). Change it: `kafka-configs.sh --alter",
    ),
    ("topic settings", with_setting("segment.bytes", "100000"), "failed", "at least 1000000"),
    ("topic settings", with_setting("segment.bytes", "99999999", "reports"), "warning", "16777216"),
    ("topic settings", with_setting("retention.ms", "60000"), "warning", "retention.ms is 60000"),
    ("topic settings", with_setting("retention.bytes", "1"), "warning", "retention.bytes is 1"),
    ("topic settings", without(sound(), "log", config=NotAsked("denied")), "not asked", "denied"),
    (
        "topic settings",
        with_setting("flush.messages", "1000", copies=1),
        "warning",
        "flush.messages is 1000, and 1 is needed",
    ),
    (
        "rights",
        replace(without(sound(), "commands", allowed=frozenset()), role=Role.HOST),
        "failed",
        "may not Write, and a host needs it for tracking commands (topic mirrorlog.commands)",
    ),
    (
        "rights",
        replace(sound(), role=Role.NODE, groups={"mirrorlog.node": frozenset()}),
        "failed",
        "(group mirrorlog.node)",
    ),
    ("rights", {"groups": NotAsked("denied")}, "not asked", "denied"),
    ("versions", {"overview": run_by("0.0.1")}, "warning", "0.0.1, and this is"),
    ("clock", {"clock": BEHIND}, "warning", "behind the broker's"),
    ("clock", {"clock": LONG_AGO}, "not asked", "nothing tells the broker's time"),
    ("quarantine", {"overview": overview_of(3)}, "warning", "(partition 2, position 7)"),
]


@pytest.mark.parametrize(("check", "change", "result", "part"), CASES)
def test_what_breaks_mirrorlog_is_named(
    check: str, change: dict[str, Any] | Snapshot, result: str, part: str
) -> None:
    snapshot = change if isinstance(change, Snapshot) else replace(sound(), **change)
    line = line_of(snapshot, check)
    assert line.startswith(f"{result}: {check}: "), line
    assert part in line
    assert has_failed(judge(snapshot)) == (result == "failed")


@pytest.mark.parametrize(
    ("setting", "value"), [("retention.ms", "-1"), ("max.message.bytes", "9999999")]
)
def test_a_setting_that_is_larger_than_needed_is_fine(setting: str, value: str) -> None:
    assert line_of(with_setting(setting, value), "topic settings") == ""


def test_a_principal_with_few_rights_is_told_which_roles_it_may_have() -> None:
    reads = frozenset(
        {KafkaOperation.READ, KafkaOperation.DESCRIBE, KafkaOperation.DESCRIBE_CONFIGS}
    )
    snapshot = sound()
    assert not isinstance(snapshot.topics, NotAsked)
    topics = [replace(topic, allowed=reads) for topic in snapshot.topics]
    snapshot = replace(snapshot, topics=topics, groups={"mirrorlog.reader": reads})
    told = [finding.what for name, finding in judge(snapshot) if name == "rights"]
    assert told == ["this principal has the rights of these roles: auditor, dashboard, reader"]


def test_no_unknown_answer_hides_another_check() -> None:
    unknown = NotAsked("nobody answers")
    snapshot = replace(
        sound(),
        settings=None,
        libraries=unknown,
        identity=unknown,
        folder=unknown,
        ports=unknown,
        open_files=unknown,
        tools=unknown,
        cluster=unknown,
        topics=unknown,
        groups=unknown,
        overview=unknown,
        clock=unknown,
        host_keys=unknown,
        authenticated=unknown,
    )
    results = results_of(snapshot)
    assert results.pop("configuration") == [Result.OK]
    assert all(result == [Result.NOT_ASKED] for result in results.values())


def test_without_a_broker_the_rest_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRRORLOG_STATE_DIR", str(tmp_path / "new"))
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        gone = f"127.0.0.1:{server.getsockname()[1]}"
    code, out, err = run_main(["doctor", "--json", "--bootstrap-servers", gone])
    answer = json.loads(out)
    assert (code, answer["schema_version"], answer["ok"]) == (1, 1, False)
    results = {check["name"]: check for check in answer["checks"]}
    assert list(results) == list(CHECKS)
    assert results["broker"]["result"] == "failed"
    assert results["topics"]["what"] == f"no broker answers at {gone}"
    asked_of_the_broker = list(CHECKS)[list(CHECKS).index("broker") + 1 :]
    assert {results[name]["result"] for name in asked_of_the_broker} == {"not_asked"}
    assert results["state folder"]["result"] in ("ok", "warning")
    assert not (tmp_path / "new").exists(), "nothing is made"
    assert all(
        set(result) == {"name", "result", "what", "where", "next"} for result in results.values()
    )
    assert "failed: broker: " in err


def test_settings_that_cant_be_read_hide_nothing_of_the_machine(
    tmp_path: Path,
) -> None:
    (tmp_path / "wrong.toml").write_text("partitions = 0\nunknown = 1\n")
    code, out, _ = run_main(["-c", str(tmp_path / "wrong.toml"), "doctor", "--json"])
    results = [(load["name"], load["result"]) for load in json.loads(out)["checks"]]
    assert code == 1
    assert results.count(("configuration", "failed")) == 2
    assert ("open files", "not_asked") not in results
    assert ("broker", "not_asked") in results


def test_a_port_is_free_or_answers_or_is_taken(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = load_settings(None, {"node_http": address, "metrics": "off"})
        taken, off = http_ports(settings, None)
    assert taken.problem is not None
    assert address in taken.problem.what
    assert off.problem is None
    (free,) = http_ports(settings, Role.NODE)
    assert (free.problem, free.answers) == (None, False)


def test_a_port_with_tls_answers_whoever_may_ask_there(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    files = {"http_ca": made.server.ca, "metrics": "127.0.0.1:0"}
    server = open_metrics_server("127.0.0.1:0", made.server, ExportingRole.SITE, tuple)
    assert server is not None
    with closing(server):
        files["metrics"] = server.url.removeprefix("https://").removesuffix("/metrics")
        for own in (made.client, made.stranger):  # who is refused knows that something answers
            pair = {"http_certificate": own.certificate, "http_key": own.key}
            (port,) = http_ports(load_settings(None, files | pair), Role.SITE)
            assert port.answers
    pair = {"http_certificate": made.server.certificate, "http_key": tmp_path / "missing"}
    (port,) = http_ports(load_settings(None, files | pair), Role.ARCHIVE)
    assert port.problem is not None
    assert "key can't be used" in port.problem.what


def test_a_folder_that_cant_be_used_says_why(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    facts = machine.state_folder(file / "state")
    assert not facts.exists
    assert facts.problem is not None
    facts = machine.state_folder(tmp_path)
    assert (facts.exists, facts.problem) == (True, None)
    assert list(tmp_path.iterdir()) == [file]


def test_the_installed_libraries_have_bounds() -> None:
    by_name = {library.name: library for library in machine.libraries()}
    assert by_name["Python"].version
    assert by_name["faust-streaming"].bounds == "==0.15.3"
    assert "pytest" not in by_name


@pytest.mark.parametrize(
    ("policy", "in_sync", "expected"),
    [
        ("compact", "2", []),
        ("delete", "2", [(Result.FAILED, "cleanup.policy")]),
        ("compact", "1", [(Result.WARNING, "min.insync.replicas")]),
    ],
)
def test_doctor_judges_the_topics_that_a_mirror_made(
    policy: str, in_sync: str, expected: list[tuple[Result, str]]
) -> None:
    """MirrorMaker copies neither min.insync.replicas nor the type of the times."""
    settings = Settings(kafka_mirror_of="source-id", kafka_mirror_prefix="source.")
    made = {
        "max.message.bytes": "1048588",
        "segment.bytes": "1073741824",
        "retention.bytes": "-1",
        "min.insync.replicas": "2",
        "message.timestamp.type": "CreateTime",
    }
    log = {"cleanup.policy": policy, "min.insync.replicas": in_sync}
    facts = [
        TopicFacts(
            name=spec.name,
            exists=True,
            partitions=1,
            copies=3,
            config={**made, **spec.config, **(log if spec.name == "source.mirrorlog.log" else {})},
        )
        for spec in expected_specs(settings, single_copy=False)
    ]
    findings = list(check_topic_settings(replace(sound(), settings=settings, topics=facts)))
    wrong = [check for check in findings if check.result is not Result.OK]
    assert [check.result for check in wrong] == [result for result, _ in expected]
    assert all(name in check.what for check, (_, name) in zip(wrong, expected, strict=True))
