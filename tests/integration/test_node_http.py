"""The node's HTTP with real workers: whichever is asked answers as the command line does from Kafka."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
from deadlines import DEADLINE_S
from notation import command

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher
from mirrorlog.cli.demo.run import Run
from mirrorlog.codec.events import encode
from mirrorlog.domain.volumes import Volume
from mirrorlog.reading.catalog import describe, publish_volume

pytestmark = pytest.mark.integration

WORKERS = ("node-1", "node-2")
BLOCK = 4096


class Writer:
    """A volume in each partition, and a host that writes to them."""

    def __init__(self, run: Run) -> None:
        client, self.topics = run.settings.kafka_client(), run.settings.topics
        admin = KafkaAdmin(client)
        ends = [
            admin.end_position(self.topics.commands, number)
            for number in range(run.settings.partitions)
        ]
        admin.close()
        self.publisher = KafkaPublisher(client)
        found = [
            describe(f"vol-{n}", 1 << 24, BLOCK, "file:none", ends, 1_700_000_000_000_000)
            for n in range(40)
        ]
        self.volumes = {
            each.volume: each for each in {each.partition: each for each in found}.values()
        }
        self.written: dict[str, set[int]] = {name: set() for name in self.volumes}
        for each in self.volumes.values():
            publish_volume(self.publisher, self.topics, each)
        self.publisher.flush(DEADLINE_S)

    def write(self, volume: Volume, *blocks: int) -> int:
        """One command for each block, acknowledged; the position of the last."""
        positions: list[int] = []
        for block in blocks:
            self.written[volume.volume].add(block)
            text, now_us = f"{block * BLOCK}+{BLOCK}", time.time_ns() // 1000
            times = {"first_at_us": now_us, "last_at_us": now_us}
            event = command(text, volume.volume, generation=volume.generation, sequence=-1, **times)
            self.publisher.publish(
                self.topics.commands,
                volume.partition,
                volume.volume.encode(),
                encode(event),
                positions.append,
            )
        self.publisher.flush(DEADLINE_S)
        return max(positions)


def wait_for(what: Callable[[], bool], said: Callable[[], object]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < until, said()


class Node:
    """The workers as their `ready` messages tell them."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.urls: dict[str, str] = {}
        self.partitions: dict[str, list[int]] = {}

    def listen(self) -> None:
        """Takes what the workers said."""
        for message in self.run.read_messages():
            if message.message_type == "ready":
                self.urls[message.part] = message.fields["http"]
                self.partitions[message.part] = message.fields["partitions"]
        self.run.check()

    def settle(self, *workers: str) -> None:
        """Returns when these have all partitions between them, and each some."""

        def settled() -> bool:
            self.listen()
            held = [self.partitions.get(name, []) for name in workers]
            return all(held) and sorted(number for each in held for number in each) == [0, 1, 2, 3]

        wait_for(settled, lambda: self.partitions)

    def holder(self, volume: Volume) -> str:
        (name,) = [name for name, held in self.partitions.items() if volume.partition in held]
        return name


def get(url: str) -> tuple[dict[str, Any], Mapping[str, str]]:
    """An answer; asked again for as long as it is 503 and says when."""
    until = time.monotonic() + DEADLINE_S
    while True:
        try:
            with urlopen(url, timeout=DEADLINE_S) as answer:
                return json.load(answer), answer.headers
        except HTTPError as error:
            told = json.load(error)
            assert error.code == 503, (url, told)
            assert error.headers["Retry-After"]
            assert time.monotonic() < until, told


def pages(url: str, between: Callable[[], object] = lambda: None) -> list[dict[str, Any]]:
    """All pages, by since, until and next of the answers."""
    found, _ = get(url)
    answers = [found]
    while found["next"] is not None:
        between()
        base = url.split("?", maxsplit=1)[0]
        found, _ = get(
            f"{base}?since={found['since']}&until={found['until']}&offset={found['next']}&limit=5"
        )
        answers.append(found)
    return answers


def changed(run: Run, *arguments: str, code: int = 0) -> str:
    environment = {**os.environ, **run.settings.as_environment()}
    done = subprocess.run(
        [sys.executable, "-m", "mirrorlog", "--json", "changed", *arguments],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout


def dirty(listing: list[dict[str, Any]]) -> set[int]:
    return {
        block
        for each in listing
        if each["dirty"]
        for block in range(each["start"] // BLOCK, (each["start"] + each["length"]) // BLOCK)
    }


def test_each_worker_answers_for_each_volume_as_the_command_line_does(run: Run) -> None:
    writer, node = Writer(run), Node(run)
    for name in WORKERS:
        run.start_node(name)
    node.settle(*WORKERS)
    for turn in range(3):
        for number, volume in enumerate(writer.volumes.values()):
            writer.write(volume, *range(turn * 20 + number, turn * 20 + 16, 2))
    assert {node.holder(volume) for volume in writer.volumes.values()} == set(WORKERS)
    for name, volume in writer.volumes.items():
        printed = changed(run, name)
        expected = json.loads(printed)
        assert dirty(expected) == writer.written[name]
        for url in node.urls.values():
            found = pages(f"{url}/v1/volumes/{name}/changed?limit=5")
            assert len(found) > 1
            assert [entry for page in found for entry in page["listing"]] == expected
            assert changed(run, name, "--node", url) == printed
        if volume.partition % 2:
            continue
        # Inside a record: the commands at both edges are replayed.
        position = writer.write(volume, *range(100, 160, 2))
        edges = ("--since", str(position - 7), "--until", f"@{position - 2}")
        told = [
            changed(run, name, *edges, *more)
            for more in ([], *(["--node", url] for url in node.urls.values()))
        ]
        assert len(set(told)) == 1
        assert json.loads(told[0]) != expected
    listed, _ = get(f"{node.urls['node-1']}/v1/volumes")
    assert {each["volume"]: each["worker"] for each in listed["volumes"]} == {
        name: node.urls[node.holder(volume)] for name, volume in writer.volumes.items()
    }

    # While a host writes, further pages are of the same question.
    name, volume = next(iter(writer.volumes.items()))
    before = set(writer.written[name])
    for url in node.urls.values():
        found = pages(
            f"{url}/v1/volumes/{name}/changed?limit=5",
            lambda: writer.write(volume, 500 + len(writer.written[name])),
        )
        assert dirty([entry for page in found for entry in page["listing"]]) == before
        assert len({(page["since"], page["until"]) for page in found}) == 1
        before = set(writer.written[name])

    url = node.urls["node-1"]
    assert "from position" in changed(run, name, "--node", url, "--since", "1970-01-01", code=3)
    assert "no volume 'w'" in changed(run, "w", "--node", url, code=2)
    assert "isn't complete" in changed(
        run, name, "--node", url, "--until", "@99999", "--wait", "1s", code=1
    )


def test_another_worker_answers_for_one_that_was_killed_and_it_comes_back_where_it_was_or_elsewhere(
    run: Run,
) -> None:
    writer, node = Writer(run), Node(run)
    for name in WORKERS:
        run.start_node(name)
    node.settle(*WORKERS)
    volume = next(each for each in writer.volumes.values() if node.holder(each) == "node-2")

    def everybody_is_right() -> None:
        writer.write(volume, len(writer.written[volume.volume]))
        for url in node.urls.values():
            for name in writer.volumes:
                found, _ = get(f"{url}/v1/volumes/{name}/changed")
                assert dirty(found["listing"]) == writer.written[name], (url, name)

    def heard(name: str) -> bool:
        node.listen()
        return name in node.urls

    def come_back() -> str:
        node.urls.pop("node-2", None)
        run.start_node("node-2")
        wait_for(lambda: heard("node-2"), lambda: node.urls)
        everybody_is_right()
        return node.urls["node-2"]

    everybody_is_right()
    gone = node.urls.pop("node-2")
    run.parts["node-2"].kill()
    with pytest.raises(URLError):
        urlopen(gone)
    everybody_is_right()
    assert come_back() == gone
    run.parts["node-2"].kill()  # at once: in the group it is still there
    assert come_back() == gone
    run.parts["node-2"].kill()
    # The port is forgotten, and its session still lives: it must not be given what it had at the old one.
    (run.folder / "node-2" / "http-port").unlink()
    assert come_back() != gone
    run.parts["node-2"].signal(signal.SIGTERM)
    run.parts["node-2"].wait()
    assert run.parts["node-2"].exit_code == 0


def test_an_address_that_is_taken_is_a_clear_error_at_the_start(run: Run) -> None:
    run.start_node("node-1")
    url = run.wait_for(lambda m: m.message_type == "ready")["http"]
    environment = {**os.environ, **run.settings.as_environment()}
    arguments = ["--json", "node", "--http", url.removeprefix("http://")]
    done = subprocess.run(
        [sys.executable, "-m", "mirrorlog", *arguments],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 2
    assert "can't listen" in json.loads(done.stdout)["what"]
    assert get(f"{url}/healthz")[0]["status"] == "ok"
