"""Sealed commands on a real topic: whatever is altered is named by its position."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sealed_logs import Command, audit, commands, publish

from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.settings import Settings, load_settings
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.ed25519_keys import PrivateKey
from mirrorlog.transparency.notes import parse_note

pytestmark = pytest.mark.integration

COUNT = 300


def settings_in(folder: Path, broker: EmbeddedBroker, prefix: str) -> Settings:
    values = {
        "state_dir": folder / f"state-{prefix}",
        "chain_dir": folder / "trees",
        "topic_prefix": prefix,
        "bootstrap_servers": broker.bootstrap_servers,
    }
    return load_settings(None, values)


class Sealed:
    """A topic that was sealed, and others that somebody made of it."""

    def __init__(self, folder: Path, broker: EmbeddedBroker) -> None:
        self.folder, self.broker, self.key = folder, broker, folder / "seal.key"
        self.name = folder.name.replace("-", "")
        self.settings = settings_in(folder, broker, f"{self.name}.")
        publish(self.settings, commands(COUNT))
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
def sealed(shared_broker: EmbeddedBroker, fast_root: Path) -> Sealed:
    folder = fast_root / "proofs"
    folder.mkdir()
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
