"""The public keys that a command of `audit` trusts, from files and from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirrorlog.errors import BadInput, BadUse, DifferenceFound
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.notes import (
    ForgedNote,
    NoteSignature,
    NoteVerifier,
    SignedNote,
    parse_note,
    verified_signatures,
)

if TYPE_CHECKING:
    from mirrorlog.transparency.ed25519_keys import NoteKey, PrivateKey, WitnessKey

LogKeyOption = Annotated[
    Path, typer.Option(help="File of the public key of whoever sealed the log (KEY.pub).")
]
WitnessOption = Annotated[
    list[str] | None,
    typer.Option(help="Verifier key of a witness that must have signed, too. Repeatable."),
]


def read_text(path: Path, what: str) -> str:
    """Return the text of a file. Raise BadUse if it can't be read, BadInput if it is no text."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise BadUse(f"{what} can't be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise BadInput(f"this is no {what}", where=str(path)) from error


def read_private_key(path: Path) -> PrivateKey:
    """Return the private key in a file. Raise BadUse or BadInput."""
    from mirrorlog.transparency.ed25519_keys import PrivateKey

    return PrivateKey.from_pem(read_text(path, "the private key").encode(), where=str(path))


def read_log_key(path: Path, origin: str) -> NoteKey:
    """Return the key of the log `origin` from a file: a public key in PEM, or a verifier key.

    Raise BadUse or BadInput, also if a verifier key names another log.
    """
    from mirrorlog.transparency.ed25519_keys import NoteKey, PublicKey, parse_vkey

    text = read_text(path, "the public key")
    if text.lstrip().startswith("-----BEGIN"):
        return NoteKey(origin, PublicKey.from_pem(text.encode(), where=str(path)))
    key = parse_vkey(text, where=str(path))
    if not isinstance(key, NoteKey) or key.name != origin:
        raise BadUse(
            f"this verifier key isn't that of the log {origin}",
            where=str(path),
            next="Name the public key (PEM) of whoever sealed the log, or its verifier key.",
        )
    return key


def read_witness_keys(texts: Sequence[str]) -> list[WitnessKey]:
    """Return the keys of witnesses, each from its verifier key. Raise BadInput."""
    from mirrorlog.transparency.ed25519_keys import WitnessKey, parse_vkey

    keys = []
    for text in texts:
        key = parse_vkey(text, where="--witness")
        if not isinstance(key, WitnessKey):
            raise BadInput("this verifier key is a log's, not a witness's", where="--witness")
        keys.append(key)
    return keys


def read_checkpoint(path: Path) -> tuple[SignedNote, TreeHead]:
    """Return a checkpoint in a file. No signature is checked. Raise BadUse or BadInput."""
    note = parse_note(read_text(path, "the checkpoint"), where=str(path))
    return note, TreeHead.of_note(note, where=str(path))


def check_signatures(
    note: SignedNote,
    log_key: NoteKey,
    witnesses: Sequence[WitnessKey],
    *,
    where: str,
    covers: str,
) -> list[NoteSignature]:
    """Return the witnesses' signatures. Raise DifferenceFound unless the log and all have signed.

    covers: what the checkpoint claims ("7 leaves, through position 9"), for the error.
    """
    advice = "Don't believe it. Ask whoever has an earlier checkpoint or another copy of this one."
    try:
        signatures = verified_signatures(note, [log_key, *witnesses])
    except ForgedNote as error:
        raise DifferenceFound(
            f"this checkpoint is forged: key {error.name} didn't sign it ({covers})",
            where=where,
            next=advice,
        ) from error
    signed = {(signature.name, signature.key_id) for signature in signatures}
    needed: list[NoteVerifier] = [log_key, *witnesses]
    for key in needed:
        if (key.name, key.key_id) not in signed:
            raise DifferenceFound(
                f"this checkpoint isn't signed by key {key.name} ({covers})",
                where=where,
                next=advice,
            )
    return [
        item for item in signatures if (item.name, item.key_id) != (log_key.name, log_key.key_id)
    ]
