"""`mirrorlog audit`: the history of a volume, and proofs that nothing in it was altered."""

from __future__ import annotations

from typing import Final

import typer

from mirrorlog.cli.support.lazy_commands import LazyCommand, lazy_group

_PACKAGE = "mirrorlog.cli.commands"
AUDIT_COMMANDS: Final = (
    LazyCommand(
        "volume",
        f"{_PACKAGE}.audit_volume",
        "List each write of a volume, with its host, its times and its outcome.",
    ),
    LazyCommand(
        "seal",
        f"{_PACKAGE}.audit_seal",
        "Sign a checkpoint of each partition: what the log holds now.",
    ),
    LazyCommand(
        "check",
        f"{_PACKAGE}.audit_check",
        "Prove that no command was altered, dropped, added or reordered since a checkpoint.",
    ),
    LazyCommand(
        "prove",
        f"{_PACKAGE}.audit_prove",
        "Write a file that proves one command to whoever has the public key, without a cluster.",
    ),
    LazyCommand(
        "verify",
        f"{_PACKAGE}.audit_verify",
        "Check a proof of one command. Nothing but the file and the public key is needed.",
    ),
    LazyCommand(
        "cosign",
        f"{_PACKAGE}.audit_cosign",
        "Sign a checkpoint as a witness, if it continues what this key has signed before.",
    ),
    LazyCommand(
        "chain",
        f"{_PACKAGE}.audit_chain",
        "Grow the Merkle trees of the commands, which `audit seal` signs.",
    ),
    LazyCommand(
        "keygen", f"{_PACKAGE}.audit_keygen", "Make a key pair for `audit seal` or `audit cosign`."
    ),
)

app = typer.Typer(cls=lazy_group(AUDIT_COMMANDS, default="volume"), no_args_is_help=True)


@app.callback()
def audit() -> None:
    """Say who wrote what and when, and prove that nothing of it was altered.

    `mirrorlog audit VOLUME` is short for `mirrorlog audit volume VOLUME`. A volume that has the
    name of a command below needs the long form.
    """
