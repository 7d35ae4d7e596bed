"""Programs of others accept mirrorlog's logs, checkpoints, cosignatures and proofs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from chained_topics import TOPICS, ChainedTopics

from mirrorlog.adapters.log_folder import LogFolder
from mirrorlog.streams.chain.partition_chain import PartitionChain
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.command_chain import ProvedCommand
from mirrorlog.transparency.ed25519_keys import NoteKey, PrivateKey, WitnessKey
from mirrorlog.transparency.merkle import inclusion_proof
from mirrorlog.transparency.notes import SignedNote
from mirrorlog.transparency.proof_files import InclusionFile
from mirrorlog.transparency.tiles import TiledLog

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "foreign_verifier"
WITNESS = "witness.example/w1"
SIZES = [1, 255, 256, 257, 700, 65_536, 65_537]


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the verifier in a folder of its own, at the versions in its go.mod and go.sum."""
    if shutil.which("go") is None:
        pytest.skip("Go isn't installed: it builds the verifier")
    folder = tmp_path_factory.mktemp("verifier")
    for path in SOURCE.iterdir():
        shutil.copy(path, folder)
    environment = {
        **os.environ,
        "GOPATH": str(folder / "gopath"),
        "GOCACHE": str(folder / "gocache"),
        "GOFLAGS": "-modcacherw",
    }
    command = ["go", "build", "-o", "verifier", "."]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode and "dial tcp" in done.stderr + done.stdout:
        pytest.skip(f"Go's modules can't be fetched: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    return folder / "verifier"


class SignedLog:
    """A log of `size` commands in a folder, signed by its key and a witness, and a proof."""

    def __init__(self, folder: Path, size: int) -> None:
        self.topics, self.path = ChainedTopics(), folder
        old_size = max(1, size // 3)
        for count in (old_size, size - old_size):
            self.topics.write(count)
            self.topics.record()
            self.topics.builder().advance()
            if count == old_size:
                self.old = self.head()
        (name,) = self.topics.store.folders(0)
        log = LogFolder(folder)
        log.write(self.topics.store.files[name])
        self.key, witness = PrivateKey.generate(), PrivateKey.generate()
        head = self.head()
        text, self.origin = head.as_text(), head.origin
        note = SignedNote(text, ()).with_signature(self.key.sign(head.origin, text))
        self.witness = WitnessKey(WITNESS, witness.public).as_vkey()
        cosigned = note.with_signature(witness.cosign(WITNESS, text, at_s=1_700_000_000))
        log.replace("checkpoint", cosigned.as_text().encode())
        tiled = TiledLog(log.read, size, where="a test")
        index = size * 2 // 3
        self.entry = tiled.entry(index)
        message = self.topics.broker.messages(TOPICS.commands)[index]
        proved = ProvedCommand(self.entry, (message.key, message.value))
        path = tuple(inclusion_proof(tiled, index, size))
        proof = InclusionFile(index, path, cosigned, proved.as_bytes())
        (folder / "command.tlog-proof").write_text(proof.as_text())

    def head(self) -> TreeHead:
        chain = PartitionChain.newest(self.topics.store, 0, self.topics.history.id)
        assert chain is not None
        return TreeHead(chain.name.origin, chain.tree.size, chain.tree.root)

    def verify(self, verifier: Path) -> subprocess.CompletedProcess[str]:
        arguments = [
            str(self.path),
            self.origin,
            NoteKey(self.origin, self.key.public).as_vkey(),
            self.witness,
            str(self.path / "command.tlog-proof"),
            self.entry.hex(),
            str(self.old.size),
            self.old.root.hex(),
        ]
        command = [verifier, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("size", SIZES)
def test_programs_of_others_accept_a_log(verifier: Path, tmp_path: Path, size: int) -> None:
    done = SignedLog(tmp_path, size).verify(verifier)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok x/mod verifies the inclusion" in done.stdout
    assert "ok tessera's fsck computes the tree again" in done.stdout


@pytest.mark.parametrize("path", ["tile/entries/000", "tile/0/000", "tile/0/002.p/188"])
def test_programs_of_others_refuse_an_altered_log(
    verifier: Path, tmp_path: Path, path: str
) -> None:
    log = SignedLog(tmp_path, 700)
    content = bytearray((tmp_path / path).read_bytes())
    content[len(content) // 3] ^= 1
    (tmp_path / path).write_bytes(content)
    check_refused(log.verify(verifier))


def test_programs_of_others_refuse_an_altered_proof(verifier: Path, tmp_path: Path) -> None:
    log = SignedLog(tmp_path, 700)
    file = tmp_path / "command.tlog-proof"
    text = file.read_text()
    place = text.index("\nindex ") + 20  # in the first hash of the path
    other = "A" if text[place] != "A" else "B"
    file.write_text(text[:place] + other + text[place + 1 :])
    check_refused(log.verify(verifier))


def check_refused(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 1, done.stdout
    assert "FAILED" in done.stdout
