"""Sealed commands on a real topic: whatever is altered is named by its position."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from deadlines import DEADLINE_S, wait_until
from running import run_cli
from sealed_logs import Command, audit, commands, publish, run
from shared_brokers import SharedBroker
from writing import make_volumes

from mirrorlog.adapters.folders import lock_folder
from mirrorlog.adapters.kafka import KafkaPublisher
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.command_logs import watermarks
from mirrorlog.codec.events import encode
from mirrorlog.processes.child_processes import ChildProcess
from mirrorlog.producers import open_volume
from mirrorlog.settings import Settings, load_settings
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import watermark_key
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.ed25519_keys import PrivateKey
from mirrorlog.transparency.notes import parse_note

pytestmark = pytest.mark.integration

COUNT = 300


def settings_in(folder: Path, broker: SharedBroker, prefix: str) -> Settings:
    values = {
        "state_dir": folder / f"state-{prefix}",
        "chain_dir": folder / "trees",
        "topic_prefix": prefix,
        "bootstrap_servers": broker.bootstrap_servers,
    }
    return load_settings(None, values)


class Sealed:
    """A topic that was sealed, and others that somebody made of it."""

    def __init__(self, folder: Path, broker: SharedBroker) -> None:
        self.folder, self.broker, self.key = folder, broker, folder / "seal.key"
        self.name = folder.name.replace("-", "")
        self.settings = settings_in(folder, broker, f"{self.name}.")
        publish(self.settings, commands(COUNT))
        make_volumes(self.settings, {"vol": 1 << 20, "other": 1 << 20})
        assert audit(self.settings, "keygen", self.key)[0] == 0
        code, printed = audit(self.settings, "seal", "--key", self.key, "--out", folder / "kept")
        assert (code, printed[0]["leaves"], printed[0]["position"]) == (0, COUNT, COUNT - 1)
        self.checkpoint = Path(printed[0]["file"])

    def check(
        self, settings: Settings | None = None, checkpoint: Path | None = None
    ) -> tuple[int, dict[str, object], str]:
        """Return the exit code, the result, and what the error says."""
        public = self.key.with_name("seal.key.pub")
        arguments = ("check", "--against", checkpoint or self.checkpoint, "--key", public)
        code, printed = audit(settings or self.settings, *arguments)
        results = [item for item in printed if item["message_type"] == "result"]
        return code, results[0] if results else {}, str(printed[-1].get("what"))

    def altered(self, name: str, alter: Callable[[list[Command]], object]) -> Settings:
        """Return the settings of a copy of the topic that was altered, as retention can't."""
        changed = commands(COUNT)
        alter(changed)
        settings = settings_in(self.folder, self.broker, f"{self.name}{name}.")
        publish(settings, changed)
        return settings


@pytest.fixture(scope="module")
def sealed(shared_broker: SharedBroker, fast_root: Path) -> Sealed:
    # A worker may come back to this module, with the same broker.
    folder = Path(tempfile.mkdtemp(dir=fast_root, prefix="proofs-"))
    return Sealed(folder, shared_broker)


def flip_bit(changed: list[Command]) -> None:
    key, value = changed[123]
    changed[123] = key, value[:-1] + bytes([value[-1] ^ 1])


def swap_pair(changed: list[Command]) -> None:
    changed[7], changed[8] = changed[8], changed[7]


def test_what_was_sealed_is_proved(sealed: Sealed) -> None:
    code, result, _ = sealed.check()
    assert (code, result["ok"], result["compared"]) == (0, True, COUNT)


@pytest.mark.parametrize(
    ("name", "alter", "position", "says"),
    [
        ("flipped", flip_bit, 123, "position 123: the command was altered"),
        ("dropped", lambda changed: changed.pop(40), 40, "the command of position 41 is here"),
        ("last", lambda changed: changed.pop(), 299, "position 299: the command was dropped"),
        ("reordered", swap_pair, 7, "position 7: the command of position 8 is here"),
        (
            "added",
            lambda changed: changed.insert(60, (b"vol", b"new")),
            60,
            "position 60: the command was altered",
        ),
    ],
)
def test_an_alteration_is_named_by_its_position(
    sealed: Sealed,
    name: str,
    alter: Callable[[list[Command]], object],
    position: int,
    says: str,
) -> None:
    code, result, what = sealed.check(sealed.altered(name, alter))
    assert (code, result["ok"], result["first_position"]) == (4, False, position)
    assert says in what


def test_a_forged_checkpoint_is_named_by_its_position(sealed: Sealed) -> None:
    forged = sealed.folder / "forged.checkpoint"
    note = parse_note(sealed.checkpoint.read_text(), where="a test")
    head = TreeHead.of_note(note, where="a test")
    other = TreeHead(head.origin, head.size, bytes(32))
    forged.write_text(note.as_text().replace(head.as_text(), other.as_text()))
    code, _, what = sealed.check(checkpoint=forged)
    assert code == 4
    assert "is forged" in what
    assert "through position 299" in what
    private = PrivateKey.from_pem(sealed.key.read_bytes(), where="a test")
    for key, says in (
        (PrivateKey.generate(), "isn't signed by key"),
        (private, "don't have the root of the checkpoint"),  # with the stolen key
    ):
        signed = note.__class__(other.as_text(), ()).with_signature(
            key.sign(head.origin, other.as_text())
        )
        forged.write_text(signed.as_text())
        code, _, what = sealed.check(checkpoint=forged)
        assert code == 4
        assert says in what
        assert "through position 299" in what


def test_an_altered_tree_is_named_by_its_position(sealed: Sealed) -> None:
    folder = sealed.folder / "damaged"
    shutil.copytree(sealed.folder / "trees", folder)
    (bundle,) = folder.glob("partition-0/*/tile/entries/000")
    content = bytearray(bundle.read_bytes())
    content[74 * 33 + 20] ^= 1  # in the digest of leaf 33
    bundle.write_bytes(content)
    damaged = sealed.settings.model_copy(
        update={"chain_dir": folder, "state_dir": sealed.folder / "state-damaged"}
    )
    code, result, what = sealed.check(damaged)
    assert (code, result["first_position"]) == (4, 33)
    assert "at position 33" in what


def test_without_the_trees_the_root_still_proves_it(sealed: Sealed) -> None:
    update = {"chain_dir": sealed.folder / "none", "state_dir": sealed.folder / "state-none"}
    code, result, _ = sealed.check(sealed.settings.model_copy(update=update))
    assert (code, result["ok"]) == (0, True)
    flipped = sealed.altered("unnamed", flip_bit)
    code, result, what = sealed.check(flipped.model_copy(update=update))
    assert (code, result["first_position"]) == (4, None)
    assert "nobody can say which" in what


def proved(sealed: Sealed, position: int) -> Path:
    """Return the file of a proof of the command at a position."""
    file = sealed.folder / f"{position}.tlog-proof"
    assert audit(sealed.settings, "prove", "vol", f"@{position}", "--out", file)[0] == 0
    return file


def verified(sealed: Sealed, file: Path, *more: str) -> tuple[int, dict[str, object]]:
    public = sealed.key.with_name("seal.key.pub")
    code, printed = audit(sealed.settings, "verify", file, "--key", public, *more)
    return code, printed[-1]


def test_a_proof_of_a_command_holds_without_a_cluster(sealed: Sealed) -> None:
    for position in (0, 255, 256, COUNT - 1):
        code, result = verified(sealed, proved(sealed, position), "--show")
        assert (code, result["position"], result["volume"]) == (0, position, "vol")
        assert result["command"]
    text = proved(sealed, 20).read_text()
    forged = sealed.folder / "forged.tlog-proof"
    lines = text.splitlines()
    for number, line in (
        (2, "index 21"),
        (3, lines[4]),
        (1, lines[1][:-9] + ("A" if lines[1][-9] != "A" else "B") + lines[1][-8:]),
    ):
        forged.write_text("\n".join([*lines[:number], line, *lines[number + 1 :]]) + "\n")
        code, error = verified(sealed, forged)
        assert code == 4
        assert "position 20 is forged" in str(error["what"])


def test_what_cant_be_proved_says_why(sealed: Sealed) -> None:
    code, printed = audit(sealed.settings, "prove", "vol", f"@{COUNT}")
    assert (code, printed[-1]["code"]) == (3, "OutOfRetention")
    code, printed = audit(sealed.settings, "prove", "other", "@7")
    assert code == 2
    assert "another volume's" in printed[-1]["what"]


def test_a_witness_signs_what_continues_and_nothing_else(sealed: Sealed) -> None:
    key, name = sealed.folder / "witness.key", "witness.example/w1"
    public = sealed.key.with_name("seal.key.pub")
    assert audit(sealed.settings, "keygen", key)[0] == 0
    cosigned = sealed.folder / "cosigned.checkpoint"
    shutil.copy(sealed.checkpoint, cosigned)
    arguments = ("cosign", cosigned, "--key", key, "--name", name, "--log-key", public)
    code, printed = audit(sealed.settings, *arguments)
    assert (code, printed[-1]["leaves"]) == (0, COUNT)
    vkey = printed[-1]["vkey"]
    check = ("check", "--against", cosigned, "--key", public, "--witness", vkey)
    assert audit(sealed.settings, *check)[0] == 0
    check = ("check", "--against", sealed.checkpoint, "--key", public, "--witness", vkey)
    code, printed = audit(sealed.settings, *check)
    assert code == 4
    assert f"isn't signed by key {name}" in printed[-1]["what"]
    # The log's owner, with the log's key, makes another tree of the same name.
    altered = sealed.altered("split", flip_bit).model_copy(
        update={"chain_dir": sealed.folder / "split"}
    )
    shutil.copy(sealed.key, sealed.folder / "copied.key")
    forge_tree(sealed, altered)
    code, printed = audit(altered, "seal", "--key", sealed.key)
    assert code == 4
    assert "doesn't begin with" in printed[-1]["what"]
    code, printed = audit(
        altered, "seal", "--key", sealed.folder / "copied.key", "--out", sealed.folder / "split"
    )
    assert code == 0
    (second,) = (sealed.folder / "split").glob("*.checkpoint")
    code, printed = audit(
        altered, "cosign", second, "--key", key, "--name", name, "--log-key", public
    )
    assert code == 4
    assert "doesn't begin with" in printed[-1]["what"]


def forge_tree(sealed: Sealed, altered: Settings) -> None:
    """Let the altered topic name the history of the sealed one, as a restored broker would."""
    original = newest(sealed.settings)
    assert original.history is not None
    with closing(KafkaPublisher(altered.kafka_client())) as publisher:
        publish_watermark = replace(newest(altered), history=replace(original.history, epoch=9))
        publisher.publish(altered.topics.changelog, 0, watermark_key(0), encode(publish_watermark))
        publisher.flush(DEADLINE_S)


def newest(settings: Settings) -> Watermark:
    return watermarks(settings)[0]


def test_what_retention_took_is_proved_by_the_archive(sealed: Sealed) -> None:
    pytest.importorskip("pyarrow")
    settings = settings_in(sealed.folder, sealed.broker, f"{sealed.name}archived.")
    settings = settings.model_copy(update={"chain_dir": sealed.folder / "archived-trees"})
    publish(settings, commands(COUNT))
    out = sealed.folder / "archived"
    code, printed = audit(settings, "seal", "--key", sealed.key, "--out", out)
    assert code == 0, printed
    (checkpoint,) = out.glob("*.checkpoint")
    archived = settings.model_copy(update={"archive": str(sealed.folder / "archive")})
    assert run(archived, "archive", "run", "--once", "--leave-retention")[0] == 0
    delete_before(settings, 100)
    code, result, what = sealed.check(settings, checkpoint)
    assert (code, result["ok"], result["compared"], result["unproved"]) == (3, None, 200, 100)
    assert "through position 99" in what
    code, result, _ = sealed.check(archived, checkpoint)
    assert (code, result["ok"], result["compared"]) == (0, True, COUNT)


def delete_before(settings: Settings, position: int) -> None:
    """Delete the commands below the position, as retention does."""
    client = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    at = TopicPartition(settings.topics.commands, 0, position)
    for future in client.delete_records([at]).values():
        future.result(DEADLINE_S)


def test_a_tree_that_another_process_doesnt_grow_is_said_to_be_behind(sealed: Sealed) -> None:
    trees = sealed.folder / "behind-trees"
    settings = settings_in(sealed.folder, sealed.broker, f"{sealed.name}behind.")
    settings = settings.model_copy(update={"chain_dir": trees})
    publish(settings, commands(3))
    seal = ("seal", "--key", sealed.key, "--wait", "0s")
    assert audit(settings, *seal)[0] == 0
    publish(settings, commands(1))
    lock = lock_folder(trees)
    try:
        code, printed = audit(settings, *seal)
    finally:
        os.close(lock)
    assert (code, printed[-1]["code"]) == (1, "KafkaFailed")
    assert "partition 0 is behind the log: it ends at 2, and the log at 3" in printed[-1]["what"]
    assert audit(settings, *seal)[0] == 0


@pytest.mark.slow
def test_a_node_grows_the_trees_and_its_death_loses_nothing(world: Run, tmp_path: Path) -> None:
    key = tmp_path / "seal.key"
    settings = world.settings.model_copy(update={"chain_dir": tmp_path / "trees"})
    make_volumes(settings, {"v": 1 << 20}, tmp_path)
    assert run_cli(settings, "audit", "keygen", str(key)).returncode == 0
    trees: list[str] = []
    for round_ in range(2):
        node = ChildProcess(
            "node",
            ["node"],
            {**os.environ, **settings.as_environment()},
            tmp_path / "node.log",
            world.messages,
        )
        world.parts["node"] = node
        node.start()
        world.wait_ready("node")
        builder = wait_until(lambda node=node: builders_of(node))
        with open_volume("v", settings) as volume:
            for number in range(20):
                volume.pwrite(bytes([round_ + 1]) * 4096, number * 4096)
        sealed = run_cli(settings, "audit", "seal", "--key", str(key), "--out", str(tmp_path))
        assert sealed.returncode == 0, sealed.stderr
        trees += [json.loads(line)["file"] for line in sealed.stdout.splitlines()]
        node.kill()
        del world.parts["node"]
        psutil.wait_procs(builder, DEADLINE_S)
        assert not any(process.is_running() for process in builder)
    for checkpoint in trees:
        arguments = ("audit", "check", "--against", checkpoint, "--key", f"{key}.pub")
        checked = run_cli(settings, *arguments)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    assert len(trees) >= 2


def builders_of(node: ChildProcess) -> list[psutil.Process]:
    """Return the processes that grow the trees for a node."""
    children = psutil.Process(node.pid).children(recursive=True)
    return [child for child in children if "chain" in child.cmdline()]
