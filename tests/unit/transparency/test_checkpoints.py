"""Checkpoints, proofs and names of logs, as the specifications show them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirrorlog.errors import BadInput, StateDamaged
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.command_chain import (
    ENTRY_BYTES,
    CommandEntry,
    chain,
    command_digest,
    first_link,
)
from mirrorlog.transparency.ed25519_keys import PrivateKey
from mirrorlog.transparency.log_names import LogName
from mirrorlog.transparency.merkle import leaf_hash
from mirrorlog.transparency.notes import SignedNote, is_key_name, parse_note
from mirrorlog.transparency.proof_files import InclusionFile

# The example of https://c2sp.org/tlog-cosignature.
TEXT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
NOTE = (
    f"{TEXT}\n"
    "\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/"
    "Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "\u2014 witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJs"
    "X3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)


def test_the_example_of_a_checkpoint() -> None:
    note = parse_note(NOTE, where="a test")
    checkpoint = TreeHead.of_note(note, where="a test")
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert (checkpoint.as_text(), note.as_text()) == (TEXT, NOTE)
    assert [signature.key_id.hex() for signature in note.signatures] == ["033de0ae", "8d66cf3f"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "log\n1\n",
        TEXT.replace("20852163", "020852163"),
        TEXT.replace("20852163", "-1"),
        TEXT.replace("20852163", "9" * 5000),
        TEXT.replace("20852163", "0"),
        TEXT.replace("q2I=", "q2J="),
        TEXT.replace("\n20852163", ""),
        TEXT[:-1],
        f"{TEXT}\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        TreeHead.parse(text, where="a test")


def test_a_proof_survives_its_file() -> None:
    private = PrivateKey.generate()
    note = SignedNote(TEXT, ()).with_signature(private.sign("example.com/behind-the-sofa", TEXT))
    for extra in (b"", b"\x00\xff more"):
        proof = InclusionFile(73894, (bytes(32), bytes(range(32))), note, extra)
        text = proof.as_text()
        assert text.startswith("c2sp.org/tlog-proof@v1\n")
        assert ("extra " in text) == bool(extra)
        assert InclusionFile.parse(text, where="a test") == proof
    alone = InclusionFile(0, (), note)
    assert InclusionFile.parse(alone.as_text(), where="a test") == alone


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("@v1", "@v2"),
        ("index 7", "index 07"),
        ("index 7", f"index {'7' * 5000}"),
        ("index 7\n", ""),
        ("AAA=\n\n", "AAA=\n"),
        ("AAA=\n", "AAA\n"),
        ("AAAAAAA=\n", "\n"),
    ],
)
def test_what_is_no_proof_is_refused(old: str, new: str) -> None:
    private = PrivateKey.generate()
    note = SignedNote(TEXT, ()).with_signature(private.sign("x", TEXT))
    text = InclusionFile(7, (bytes(32),), note).as_text()
    assert old in text
    with pytest.raises(BadInput):
        InclusionFile.parse(text.replace(old, new, 1), where="a test")


def test_the_name_of_a_log_is_read_back() -> None:
    name = LogName(cluster="c-1_", topic=None, partition=3, history="an-id", first=0)
    assert name.origin == "mirrorlog/c-1_/-/3/an-id/0"
    assert LogName.parse(name.origin, where="a test") == name
    for topic in ("EIoxZvBYTAO/aARythkTeQ", "a+b/c d%"):  # Kafka's ids are base64
        other = replace(name, topic=topic)
        assert is_key_name(other.origin)
        assert LogName.parse(other.origin, where="a test") == other
    for origin in (
        "example.com/log",
        f"{name.origin}/1",
        "mirrorlog/c/t/03/h/0",
        "mirrorlog/////",
        f"mirrorlog/c/t/0/h/{'9' * 5000}",
    ):
        with pytest.raises(BadInput):
            LogName.parse(origin, where="a test")


def test_a_leaf_names_position_bytes_and_the_leaf_before_it() -> None:
    link = first_link("mirrorlog/c/t/0/h/5")
    entries, hashes = chain([(5, b"vol", b"x"), (9, None, b"y")], link)
    assert [len(entry) for entry in entries] == [ENTRY_BYTES, ENTRY_BYTES]
    first, second = (CommandEntry.parse(entry, where="a test") for entry in entries)
    assert (first.position, first.digest, first.previous) == (5, command_digest(b"vol", b"x"), link)
    assert (second.position, second.previous) == (9, leaf_hash(entries[0]))
    assert hashes == [leaf_hash(entry) for entry in entries]
    assert second.as_bytes() == entries[1]
    with pytest.raises(StateDamaged):
        CommandEntry.parse(entries[0][:-1], where="a test")


def test_no_byte_of_a_command_can_move_without_another_digest() -> None:
    commands = [(b"ab", b"c"), (b"a", b"bc"), (b"abc", b""), (b"abc", None), (None, b"abc")]
    assert len({command_digest(*command) for command in commands}) == len(commands)
    # Computed by hand: printf '\0\0\0\0\0\0\0\1k\377\377\377\377\377\377\377\377' | sha256sum
    assert (
        command_digest(b"k", None).hex()
        == "c573b335e0850f531bb735fba41124b8ba74838c26bb39585c7a44c7543a91dc"
    )
