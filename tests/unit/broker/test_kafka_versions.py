"""Which Kafka may use the data of a folder, and what a start says and records of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mirrorlog.broker.artifacts import KAFKA_VERSION
from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.folder import BrokerFolder
from mirrorlog.broker.kafka_versions import BEFORE_RECORDS, check_kafka_version
from mirrorlog.broker.runtime import Runtime
from mirrorlog.errors import BadUse, PartFailed, StateDamaged

# used by | pinned | what the start does
CASES = """
4.4.0  | 4.4.0  | starts
4.1.1  | 4.4.0  | says so
4.9.9  | 4.10.0 | says so
4.4    | 4.4.1  | says so
4.4.1  | 4.4.0  | refuses
4.10.0 | 4.9.9  | refuses
5.0.0  | 4.99.9 | refuses
"""


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_data_go_to_no_older_kafka(case: str) -> None:
    used_by, pinned, expected = (part.strip() for part in case.split("|"))
    try:
        notice = check_kafka_version(used_by, pinned, "/x")
    except BadUse as error:
        assert expected == "refuses"
        assert used_by in error.what and pinned in error.what
    else:
        assert expected == ("starts" if notice is None else "says so")
        assert notice is None or (used_by in notice and pinned in notice)


@pytest.fixture
def folder(tmp_path: Path) -> BrokerFolder:
    """Return a folder with formatted data, without a Kafka."""
    folder = BrokerFolder(tmp_path / "broker")
    folder.meta_file.parent.mkdir(parents=True)
    folder.meta_file.write_text("cluster.id=x\n")
    return folder


def start(folder: BrokerFolder) -> None:
    EmbeddedBroker(folder.path, Runtime(Path("/bin/false"), ())).start()


def test_data_that_a_newer_kafka_used_are_refused_untouched(folder: BrokerFolder) -> None:
    folder.write_kafka_version("99.0.0")
    with pytest.raises(BadUse, match=r"used by Kafka 99\.0\.0"):
        start(folder)
    assert folder.kafka_version() == "99.0.0"
    assert not folder.log_file.parent.exists()


def test_an_upgrade_is_said_before_kafka_starts_and_recorded(
    folder: BrokerFolder, caplog: pytest.LogCaptureFixture
) -> None:
    assert folder.kafka_version() == BEFORE_RECORDS
    with caplog.at_level(logging.WARNING), pytest.raises(PartFailed):
        start(folder)
    assert f"used by Kafka {BEFORE_RECORDS}. Kafka {KAFKA_VERSION} takes them over" in caplog.text
    assert folder.kafka_version() == KAFKA_VERSION
    caplog.clear()
    with pytest.raises(PartFailed):
        start(folder)
    assert caplog.text == ""


def test_a_record_that_cannot_be_read_is_an_error(folder: BrokerFolder) -> None:
    folder.write_kafka_version("four")
    with pytest.raises(StateDamaged):
        folder.kafka_version()


def test_a_folder_without_data_has_no_version(tmp_path: Path) -> None:
    assert BrokerFolder(tmp_path).kafka_version() is None
