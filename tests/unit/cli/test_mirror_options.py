"""The options of a site that reads a mirror, and the topics that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from mirrorlog.acls import KafkaOperation, Role, rights_of
from mirrorlog.cli.support.mirror_options import source_settings, with_mirror
from mirrorlog.errors import BadUse
from mirrorlog.settings import Settings
from mirrorlog.topics import Topics


@dataclass(frozen=True)
class Call:
    """The part of an Invocation that is used."""

    settings: Settings


def test_the_topics_of_the_log_are_those_of_the_mirror() -> None:
    call = with_mirror(Call(Settings()), "source-id", "source.")  # type: ignore[arg-type]
    topics = call.settings.topics
    assert (topics.changelog, topics.volumes) == (
        "source.mirrorlog.log",
        "source.mirrorlog.volumes",
    )
    assert (topics.progress, topics.questions) == ("mirrorlog.progress", "mirrorlog.questions")
    assert {spec.name for spec in topics.mirror_specs()} == {
        "mirrorlog.digest_answers",
        "mirrorlog.progress",
        "mirrorlog.questions",
        "mirrorlog.reports",
    }


def test_a_prefix_alone_is_refused_and_names_nothing() -> None:
    settings = Settings(kafka_mirror_prefix="source.")
    assert settings.topics.changelog == "mirrorlog.log"
    with pytest.raises(BadUse, match="not whose mirror"):
        with_mirror(Call(settings), None, None)  # type: ignore[arg-type]


def test_a_node_without_mirrored_sites_reads_no_questions() -> None:
    assert Topics().mirrored_questions == ()
    assert Topics().all_progress == ("mirrorlog.progress",)


@pytest.mark.parametrize(
    ("mirror", "questions", "progress"),
    [
        ("berlin.", ("berlin.mirrorlog.questions",), ("berlin.mirrorlog.progress",)),
        ("", ("mirrorlog.questions",), ()),
    ],
)
def test_what_mirrors_bring_is_read_by_its_name_there(
    mirror: str, questions: tuple[str, ...], progress: tuple[str, ...]
) -> None:
    topics = replace(Topics(), mirrored_sites=(mirror,))
    assert topics.mirrored_questions == questions
    assert topics.all_progress == ("mirrorlog.progress", *progress)
    readable = {
        right.name
        for right in rights_of(Role.NODE, topics)
        if right.operation is KafkaOperation.READ
    }
    assert {*questions, *progress} <= readable


def test_one_configuration_serves_a_mirror_and_its_source() -> None:
    """A promotion is a command in the log of the source: at the mirror it's refused."""
    settings = Settings(kafka_mirror_of="source-id", kafka_mirror_prefix="source.")
    at_source = source_settings(settings, "source-id")
    assert (at_source.kafka_mirror_of, at_source.topics.commands) == ("", "mirrorlog.commands")
    with pytest.raises(BadUse, match="cluster source-id; cluster berlin-id has a mirror") as error:
        source_settings(settings, "berlin-id")
    assert "--bootstrap-servers" in error.value.next
    assert source_settings(settings, "berlin-id", or_mirror=True) is settings
