"""Brokers of the cluster in docker-compose.yml are lost under load, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest
from broker_view import BrokerView
from compose_clients import CommandClient, VolumeClient, WritingClient
from composing import Compose, assert_copied
from deadlines import wait_until
from running import run_cli

from mirrorlog.cli.support.lookup import load_volumes

pytestmark = [
    pytest.mark.integration,
    pytest.mark.containers,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]


@contextmanager
def killed(compose: Compose, broker: str) -> Iterator[None]:
    container = compose.container(broker)
    container.kill()
    try:
        yield
    finally:
        container.start()


@contextmanager
def paused(compose: Compose, broker: str) -> Iterator[None]:
    container = compose.container(broker)
    container.pause()
    try:
        yield
    finally:
        container.unpause()


@contextmanager
def cut_off(compose: Compose, broker: str) -> Iterator[None]:
    container = compose.container(broker)
    network = compose.engine.networks.get(f"{compose.project}_default")
    network.disconnect(container)
    try:
        yield
    finally:
        network.connect(container, aliases=[broker])


FAULTS: Final[tuple[Callable[[Compose, str], AbstractContextManager[None]], ...]] = (
    killed,
    paused,
    cut_off,
)


def wait_for_more(clients: Iterable[WritingClient]) -> None:
    for client in clients:
        client.wait_for_more()


def test_no_loss_of_a_broker_or_of_two_loses_what_was_acknowledged(
    compose: Compose, tmp_path: Path
) -> None:
    compose.up()
    settings = compose.settings(tmp_path)
    volumes, brokers = load_volumes(settings), BrokerView(settings)
    hosts = [VolumeClient(compose, name, seed=number) for number, name in enumerate(volumes)]
    careful = CommandClient(settings, volumes["vol1"])
    careless = CommandClient(settings, volumes["vol2"], acks="1")
    with ExitStack() as stack:
        for host in hosts:
            stack.enter_context(host.writing())
        stack.enter_context(careful.writing())
        for lost in FAULTS:
            broker = brokers.leader(settings.topics.commands, volumes["vol1"].partition)
            with lost(compose, broker):
                brokers.wait_without(broker)
                wait_for_more([*hosts, careful])
            brokers.wait_for_all()
            wait_for_more([*hosts, careful])
        with careless.writing():
            careless.wait_for_more()
            acknowledged = lose_two(compose, brokers, hosts, careful, careless)
            wait_for_more([*hosts, careful, careless])
            brokers.wait_for_all()
    assert careful.losses() == []
    assert compose.started_again() == []
    assert acknowledged == 0, "a broker alone has acknowledged a command"
    assert any("doesn't hold" in loss for loss in careless.losses()), "the test finds no loss"

    assert_copied(compose, settings, {host.volume: host.content for host in hosts})
    rebuilt = run_cli(settings, "log", "rebuild", "--check", "--all")
    assert rebuilt.returncode == 0, rebuilt.stdout
    wait_until(lambda: run_cli(settings, "check").returncode == 0, every_s=1)


def lose_two(
    compose: Compose,
    brokers: BrokerView,
    hosts: list[VolumeClient],
    careful: CommandClient,
    careless: CommandClient,
) -> int:
    """Lose two brokers, and the third one when they are back. Start that one again.

    So what it alone has acknowledged is lost. Hosts write on. Return how many commands of `careful`
    were acknowledged while two brokers were lost.
    """
    third = brokers.leader(careless.topic, careless.partition)
    with ExitStack() as third_is_lost:
        with ExitStack() as two_are_lost:
            for broker in {"kafka-1", "kafka-2", "kafka-3"} - {third}:
                two_are_lost.enter_context(paused(compose, broker))
            wait_for_more(hosts)  # what was under way is acknowledged or waits
            before = len(careful.acknowledged)
            wait_for_more([*hosts, careless])
            acknowledged = len(careful.acknowledged) - before
            third_is_lost.enter_context(killed(compose, third))
        brokers.wait_without(third)
    return acknowledged
