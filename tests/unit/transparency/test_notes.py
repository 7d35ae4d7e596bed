"""Signed notes and their keys, against the examples of https://c2sp.org/signed-note."""

from __future__ import annotations

import pytest

from mirrorlog.errors import BadInput
from mirrorlog.transparency.ed25519_keys import (
    NoteKey,
    PrivateKey,
    PublicKey,
    WitnessKey,
    cosigned_at_s,
    parse_vkey,
)
from mirrorlog.transparency.notes import ForgedNote, SignedNote, parse_note, verified_signatures

VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
NOTE = (
    "This is an example message.\n"
    "\n"
    "\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3"
    "mFXmRKuwHjG1Yu72IneyaQM=\n"
)


def test_the_example_is_verified() -> None:
    key = parse_vkey(VKEY, where="a test")
    assert isinstance(key, NoteKey)
    note = parse_note(NOTE, where="a test")
    assert note.text == "This is an example message.\n"
    assert verified_signatures(note, [key]) == note.signatures
    assert (note.as_text(), key.as_vkey()) == (NOTE, VKEY)


def test_one_changed_letter_is_a_forgery() -> None:
    key = parse_vkey(VKEY, where="a test")
    note = parse_note(NOTE.replace("This", "Thus"), where="a test")
    with pytest.raises(ForgedNote, match=r"example\.com/foo"):
        verified_signatures(note, [key])


def test_unknown_keys_are_ignored() -> None:
    private = PrivateKey.generate()
    note = parse_note(NOTE, where="a test")
    key = NoteKey("example.com/foo", private.public)
    assert verified_signatures(note, [key]) == ()
    signed = note.with_signature(private.sign("example.com/foo", note.text))
    assert verified_signatures(signed, [key]) == signed.signatures[1:]
    again = signed.with_signature(private.sign("example.com/foo", note.text))
    assert len(again.signatures) == 2


def test_a_cosignature_names_its_time() -> None:
    private = PrivateKey.generate()
    witness = WitnessKey("witness.example/w1", private.public)
    note = SignedNote("log\n1\nroot\n", ())
    signature = private.cosign(witness.name, note.text, at_s=1679315147)
    signed = note.with_signature(signature)
    assert verified_signatures(signed, [witness]) == (signature,)
    assert cosigned_at_s(signature.signature) == 1679315147
    assert parse_vkey(witness.as_vkey(), where="a test") == witness
    later = (1679315148).to_bytes(8, "big") + signature.signature[8:]
    assert not witness.is_valid(note.text, later)


def test_keys_survive_their_files() -> None:
    private = PrivateKey.generate()
    assert PrivateKey.from_pem(private.as_pem(), where="k").public == private.public
    assert PublicKey.from_pem(private.public.as_pem(), where="k.pub") == private.public
    assert "PRIVATE" not in repr(private)
    with pytest.raises(BadInput):
        PublicKey.from_pem(private.as_pem(), where="k")
    with pytest.raises(BadInput):
        PrivateKey.from_pem(b"nothing", where="k")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "text\n",
        "text\n\n",
        NOTE[:-1],
        NOTE.replace("\u2014", "-"),
        NOTE.replace("example.com/foo", "exam+ple"),
        NOTE.replace("aQM=", "aQN="),
        NOTE.replace("This", "Th\tis"),
        "text\n\n\u2014 name AAAA\n",
    ],
)
def test_what_is_no_note_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="a test"):
        parse_note(text, where="a test")


@pytest.mark.parametrize(
    "text", ["", "a+b", VKEY[:-4], VKEY.replace("530d", "530e"), VKEY.replace("+Ae", "+Be")]
)
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_vkey(text, where="a test")
