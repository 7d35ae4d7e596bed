"""Puts verifications together: the verifier, and the thread that answers in a site's process."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Final, TypeAlias

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.adapters.task_threads import TaskThreads
from mirrorlog.codec.events import decode
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.consumers.site_primaries import SitePrimaries
from mirrorlog.consumers.state.state_files import SecondaryStateFiles
from mirrorlog.consumers.verify.digest_server import (
    AnswersQuestions,
    DigestServer,
    OpenByName,
    PrimaryDigests,
    SiteDigests,
)
from mirrorlog.consumers.verify.digest_topics import key_of
from mirrorlog.consumers.verify.verification_log import VerificationLog
from mirrorlog.consumers.verify.verifier import Verifier, VerifierPorts, VerifyOptions
from mirrorlog.domain.verifications import VerificationReport
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import MirrorlogError, in_words
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.clusters import NamedCluster
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.reading.read_through import CompactedTopic, ReadPatience
from mirrorlog.settings import Settings

log = logging.getLogger("mirrorlog.verify")

MakeAnswering: TypeAlias = Callable[[ExitStack], AnswersQuestions]
"""Makes what answers questions. What it opens is closed with the stack."""

_THREADS: Final = 4
_SERVE_S: Final = 0.5
_RETRY_S: Final = 30.0
_STOP_S: Final = 5.0


@contextmanager
def open_verifier(
    options: VerifyOptions, settings: Settings, earlier: VerificationReport | None = None
) -> Iterator[Verifier]:
    """Open a verification on Kafka, and close it. Reports that it published are acknowledged then.

    earlier: as in Verifier. Raise KafkaFailed.
    """
    client, topics = settings.kafka_client(), settings.topics
    volume = options.volume
    with (
        closing(KafkaAdmin(client, settings.patience_s)) as admin,
        closing(KafkaPublisher(client)) as publisher,
        closing(KafkaReader(client)) as reader,
        closing(KafkaReader(client)) as log_reader,
    ):
        changelog = LogReader(
            log_reader, admin, topics.changelog, [volume.partition], site=options.site
        )
        ports = VerifierPorts(
            reader=reader,
            admin=admin,
            publisher=publisher,
            log=VerificationLog(changelog, volume, options.site),
            topics=topics,
            clock=SystemClock(),
        )
        verifier = Verifier(options, ports, earlier)
        try:
            yield verifier
        finally:
            publisher.flush(settings.patience_s)


def last_report(settings: Settings, site: str, volume: str) -> VerificationReport | None:
    """Return the last report of the verification of one secondary; None if there is none.

    Raise KafkaFailed, also if the cluster lacks the topic; BadInput if it is of a newer release.
    """
    topic, key = settings.topics.verifications, key_of(site, volume)
    value = None
    client = settings.kafka_client()
    with closing(KafkaAdmin(client)) as admin, closing(KafkaReader(client)) as reader:
        admin.partitions(topic)
        patience = ReadPatience(SystemClock(), settings.patience_s, "reading verifications")
        for message in CompactedTopic(reader, admin, topic, patience).read_to_end():
            if message.key == key:
                value = message.value
    return None if value is None else decode(value, VerificationReport)


def site_digests(
    name: str, folder: Path, settings: Settings, is_held: Callable[[int], bool]
) -> MakeAnswering:
    """Return what makes the answers of a site. folder: of its state.

    is_held: returns whether this process of the site works for a partition. Any thread may call it.
    """

    def make(stack: ExitStack) -> AnswersQuestions:
        addresses = SiteAddresses.from_settings(name, folder, settings)
        volume_of = _volumes(settings, stack)
        return SiteDigests(
            by=socket.gethostname(),
            site=name,
            open_primary=_primaries(addresses, volume_of, settings, stack),
            open_secondary=lambda volume: open_device(
                addresses.secondary(volume_of(volume)), writable=False
            ),
            load_state=SecondaryStateFiles(folder / "states").load,
            is_own=lambda volume: is_held(volume_of(volume).partition),
            tasks=TaskThreads(_THREADS),
            sides=TaskThreads(2),
        )

    return make


def primary_digests(
    volumes: Collection[str], settings: Settings, address: str | None = None
) -> MakeAnswering:
    """Return what makes the answers of a host for the primaries of these volumes.

    address: where the primary is reached from here; None: at the address in its description.
    What is marked as another volume's primary, or as a former one, is refused.
    """

    def make(stack: ExitStack) -> AnswersQuestions:
        here = {} if address is None else dict.fromkeys(volumes, address)
        addresses = SiteAddresses("host", Path(), here)
        return PrimaryDigests(
            by=socket.gethostname(),
            volumes=frozenset(volumes),
            open_primary=_primaries(addresses, _volumes(settings, stack), settings, stack),
            tasks=TaskThreads(_THREADS),
        )

    return make


def _primaries(
    addresses: SiteAddresses,
    volume_of: Callable[[str], Volume],
    settings: Settings,
    stack: ExitStack,
) -> OpenByName:
    """Return a function that opens the primary of a volume at its address."""
    primaries = SitePrimaries(addresses, PrimaryMarkFiles(settings.primary_marks_dir))
    stack.callback(primaries.close)

    def open_primary(name: str) -> BlockDevice:
        volume = volume_of(name)
        primaries.find(volume)  # connects, if it is an export
        return primaries.open(volume)

    return open_primary


def _volumes(settings: Settings, stack: ExitStack) -> Callable[[str], Volume]:
    """Return a function that returns the newest description of a volume."""
    client = settings.kafka_client()
    admin = KafkaAdmin(client, settings.patience_s)
    reader = KafkaReader(client, tells_end=False)
    stack.callback(admin.close)
    source = settings.kafka_mirror_of
    catalog = Catalog(
        reader,
        admin,
        settings.topics,
        SystemClock(),
        settings.patience_s,
        cluster=NamedCluster(source) if source else None,
    )
    stack.callback(catalog.close)

    def volume_of(name: str) -> Volume:
        catalog.refresh()
        return catalog.volume_named(name)

    return volume_of


@contextmanager
def open_digest_server(make: MakeAnswering, settings: Settings) -> Iterator[DigestServer]:
    """Open a server on Kafka, and close it. Raise KafkaFailed if the cluster lacks the topic."""
    client = settings.kafka_client()
    with ExitStack() as stack:
        admin = stack.enter_context(closing(KafkaAdmin(client, settings.patience_s)))
        topics = settings.topics
        topic = topics.digests
        reader = stack.enter_context(closing(KafkaReader(client, tells_end=False)))
        publisher = stack.enter_context(closing(KafkaPublisher(client)))
        yield DigestServer(
            make(stack),
            reader=reader,
            admin=admin,
            publisher=publisher,
            topic=topic,
            answer_topic=topics.digest_answers if settings.kafka_mirror_of else topic,
        )


@contextmanager
def serving_digests(make: MakeAnswering, settings: Settings) -> Iterator[None]:
    """Answer the questions of verifications in a thread of this process, until the block ends.

    Nothing that fails there ends the process: a verification then says which side is silent.
    """
    stop = Event()

    def open_server() -> AbstractContextManager[DigestServer]:
        return open_digest_server(make, settings)

    thread = Thread(
        target=serve_until, args=(open_server, stop), name="mirrorlog-digests", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_STOP_S)


def serve_until(
    open_server: Callable[[], AbstractContextManager[DigestServer]], stop: Event
) -> None:
    """Serve until `stop` is set. After a failure, begin again after a pause."""
    said = ""
    while not stop.is_set():
        try:
            with open_server() as server:
                while not stop.is_set():
                    server.serve(_SERVE_S)
        except MirrorlogError as error:
            if str(error) != said:
                said = str(error)
                log.info("verifications aren't answered for now: %s", error)
        except Exception as error:
            log.exception("verifications aren't answered for now: %s", in_words(error))
        stop.wait(_RETRY_S)
