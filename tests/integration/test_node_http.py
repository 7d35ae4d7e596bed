"""The node's HTTP with real workers: each of them answers as the command line does from Kafka."""

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
from running import run_cli

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher
from mirrorlog.cli.demo.run import Run
from mirrorlog.codec.events import encode
from mirrorlog.domain.volumes import Volume
from mirrorlog.reading.catalog import new_volume, publish_volume

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
        candidates = [
            new_volume(
                f"vol-{n}",
                size_bytes=1 << 24,
                block_size=BLOCK,
                primary="file:none",
                ends=ends,
                now_us=1_700_000_000_000_000,
            )
            for n in range(40)
        ]
        self.volumes = {
            volume.volume: volume
            for volume in {volume.partition: volume for volume in candidates}.values()
        }
        self.written: dict[str, set[int]] = {name: set() for name in self.volumes}
        for volume in self.volumes.values():
            publish_volume(self.publisher, self.topics, volume)
        self.publisher.flush(DEADLINE_S)

    def write(self, volume: Volume, *blocks: int) -> int:
        """Write each block by a command of its own; return the position of the last one."""
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


def wait_for(condition: Callable[[], bool], describe_state: Callable[[], object]) -> None:
    """Return when the condition is true; at the deadline fail with the state."""
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, describe_state()


class Node:
    """The workers, as their `ready` messages describe them."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.urls: dict[str, str] = {}
        self.partitions: dict[str, list[int]] = {}

    def listen(self) -> None:
        """Take the messages of the workers."""
        for message in self.run.read_messages():
            if message.message_type == "ready":
                self.urls[message.part] = message.fields["http"]
                self.partitions[message.part] = message.fields["partitions"]
        self.run.check()

    def settle(self, *workers: str) -> None:
        """Return when these workers have all partitions between them, and each has some."""

        def settled() -> bool:
            self.listen()
            held = [self.partitions.get(name, []) for name in workers]
            return all(held) and sorted(number for numbers in held for number in numbers) == [
                0,
                1,
                2,
                3,
            ]

        wait_for(settled, lambda: self.partitions)

    def owner(self, volume: Volume) -> str:
        """Return the name of the worker that has the volume's partition."""
        (name,) = [name for name, held in self.partitions.items() if volume.partition in held]
        return name


def get(url: str) -> tuple[dict[str, Any], Mapping[str, str]]:
    """Return the body and the headers of an answer. Asks again while the status is 503."""
    until = time.monotonic() + DEADLINE_S
    while True:
        try:
            with urlopen(url, timeout=DEADLINE_S) as answer:
                return json.load(answer), answer.headers
        except HTTPError as error:
            body = json.load(error)
            assert error.code == 503, (url, body)
            assert error.headers["Retry-After"]
            assert time.monotonic() < until, body


def pages(url: str, between: Callable[[], object] = lambda: None) -> list[dict[str, Any]]:
    """Return all pages, each asked for by `since`, `until` and `next` of the page before."""
    page, _ = get(url)
    answers = [page]
    while page["next"] is not None:
        between()
        base = url.split("?", maxsplit=1)[0]
        page, _ = get(
            f"{base}?since={page['since']}&until={page['until']}&offset={page['next']}&limit=5"
        )
        answers.append(page)
    return answers


def changed(run: Run, *arguments: str, code: int = 0) -> str:
    done = run_cli(run.settings, "changed", *arguments)
    assert done.returncode == code, done.stderr
    return done.stdout


def dirty(listing: list[dict[str, Any]]) -> set[int]:
    return {
        block
        for entry in listing
        if entry["dirty"]
        for block in range(entry["start"] // BLOCK, (entry["start"] + entry["length"]) // BLOCK)
    }


@pytest.mark.long
def test_each_worker_answers_for_each_volume_as_the_command_line_does(run: Run) -> None:
    writer, node = Writer(run), Node(run)
    for name in WORKERS:
        run.start_node(name)
    node.settle(*WORKERS)
    for step in range(3):
        for number, volume in enumerate(writer.volumes.values()):
            writer.write(volume, *range(step * 20 + number, step * 20 + 16, 2))
    assert {node.owner(volume) for volume in writer.volumes.values()} == set(WORKERS)
    for name, volume in writer.volumes.items():
        printed = changed(run, name)
        expected = json.loads(printed)["extents"]
        assert dirty(expected) == writer.written[name]
        for url in node.urls.values():
            answers = pages(f"{url}/v1/volumes/{name}/changed?limit=5")
            assert len(answers) > 1
            assert [entry for page in answers for entry in page["listing"]] == expected
            assert changed(run, name, "--node", url) == printed
        if volume.partition % 2:
            continue
        # Inside a record: the commands at both edges are replayed.
        position = writer.write(volume, *range(100, 160, 2))
        edges = ("--since", str(position - 7), "--until", f"@{position - 2}")
        outputs = [
            changed(run, name, *edges, *options)
            for options in ([], *(["--node", url] for url in node.urls.values()))
        ]
        assert len(set(outputs)) == 1
        assert json.loads(outputs[0])["extents"] != expected
    listed, _ = get(f"{node.urls['node-1']}/v1/volumes")
    assert {entry["volume"]: entry["worker"] for entry in listed["volumes"]} == {
        name: node.urls[node.owner(volume)] for name, volume in writer.volumes.items()
    }

    # While a host writes, later pages answer the same question.
    name, volume = next(iter(writer.volumes.items()))
    before = set(writer.written[name])
    for url in node.urls.values():
        answers = pages(
            f"{url}/v1/volumes/{name}/changed?limit=5",
            lambda: writer.write(volume, 500 + len(writer.written[name])),
        )
        assert dirty([entry for page in answers for entry in page["listing"]]) == before
        assert len({(page["since"], page["until"]) for page in answers}) == 1
        before = set(writer.written[name])

    url = node.urls["node-1"]
    # Before the volume was created, there was nothing to track.
    since_1970 = changed(run, name, "--node", url, "--since", "1970-01-01")
    assert dirty(json.loads(since_1970)["extents"]) == writer.written[name]
    assert "no volume 'w'" in changed(run, "w", "--node", url, code=2)
    assert "isn't complete" in changed(
        run, name, "--node", url, "--until", "@99999", "--wait", "1s", code=1
    )


@pytest.mark.long
def test_another_worker_answers_for_a_killed_one_which_comes_back_at_its_port_or_another(
    run: Run,
) -> None:
    writer, node = Writer(run), Node(run)
    for name in WORKERS:
        run.start_node(name)
    node.settle(*WORKERS)
    volume = next(volume for volume in writer.volumes.values() if node.owner(volume) == "node-2")

    def check_all_answers() -> None:
        writer.write(volume, len(writer.written[volume.volume]))
        for url in node.urls.values():
            for name in writer.volumes:
                page, _ = get(f"{url}/v1/volumes/{name}/changed")
                assert dirty(page["listing"]) == writer.written[name], (url, name)

    def is_ready(name: str) -> bool:
        node.listen()
        return name in node.urls

    def come_back() -> str:
        node.urls.pop("node-2", None)
        run.start_node("node-2")
        wait_for(lambda: is_ready("node-2"), lambda: node.urls)
        check_all_answers()
        return node.urls["node-2"]

    check_all_answers()
    gone = node.urls.pop("node-2")
    run.parts["node-2"].kill()
    with pytest.raises(URLError):
        urlopen(gone)
    check_all_answers()
    assert come_back() == gone
    run.parts["node-2"].kill()  # at once, while it is still a member of the group
    assert come_back() == gone
    run.parts["node-2"].kill()
    # The port is forgotten, and its old session still lives: the worker must not get the assignment
    # of its old address.
    (run.folder / "node-2" / "http-port").unlink()
    assert come_back() != gone
    run.parts["node-2"].signal(signal.SIGTERM)
    run.parts["node-2"].wait(DEADLINE_S)
    assert run.parts["node-2"].exit_code == 0


def test_an_address_in_use_is_an_error_at_the_start(run: Run) -> None:
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
