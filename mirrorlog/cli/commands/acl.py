"""`mirrorlog acl`: the ACLs that each role needs, printed or created."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from mirrorlog.acls import Acl, Role, acls_for, kafka_acls_commands
from mirrorlog.cli.support.confirming import DryRunOption, YesOption, is_confirmed
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.errors import BadUse

app = typer.Typer()


@app.command()
def acl(
    context: typer.Context,
    role: Annotated[
        Role | None, typer.Option(help="Of this role only. By default, of every role.")
    ] = None,
    principal: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE:NAME",
            help="Who gets the rights, as User:alice. By default, User:mirrorlog-ROLE.",
        ),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Create the ACLs that the cluster doesn't have.")
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Print the Kafka ACLs that each role needs, or create them.

    They are printed as commands of kafka-acls.sh, with the topic prefix of the settings, and no
    broker is asked. With --apply, they are created by a principal that may alter the cluster.
    """
    call = invocation(context)
    if principal is not None and not all(principal.partition(":")):
        raise BadUse(
            f"'{principal[:60]}' is no principal of Kafka", next="Use TYPE:NAME, as in User:alice."
        )
    if (dry_run or yes) and not apply:
        raise BadUse("--dry-run and --yes belong to --apply", next="Add --apply.")
    acls = acls_for(list(Role) if role is None else [role], call.settings.topics, principal)
    if apply:
        _apply(call, acls, dry_run=dry_run, yes=yes)
        return
    commands = kafka_acls_commands(acls, call.settings.servers.addresses)
    call.output.print_json({**_fields(acls), "commands": commands})
    call.output.print_text("\n".join(commands))


def _apply(call: Invocation, acls: list[Acl], *, dry_run: bool, yes: bool) -> None:
    """Create the ACLs that are missing. With `dry_run`, only say which."""
    from mirrorlog.adapters.kafka.acls import KafkaAcls

    with closing(KafkaAcls(call.settings.kafka_client())) as cluster:
        missing = cluster.missing(acls)
        if missing and not dry_run:
            servers = call.settings.servers.addresses
            question = f"{len(missing)} ACLs are created at {servers}: {_holders(missing)}."
            is_confirmed(call, servers, question, yes=yes, dry_run=False)
            cluster.create(missing)
    there = len(acls) - len(missing)
    call.output.print_json({**_fields(missing), "dry_run": dry_run, "already_there": there})
    verb = "would be created" if dry_run else "created"
    lines = [_line(right) for right in missing]
    lines.append(f"{len(missing)} ACLs {verb}, {there} were there")
    call.output.print_text("\n".join(lines))


def _holders(acls: list[Acl]) -> str:
    return ", ".join(dict.fromkeys(acl.principal for acl in acls))


def _line(acl: Acl) -> str:
    """Return an ACL as a line for people."""
    right = acl.right
    name = f"{right.name}*" if right.is_prefix else right.name
    return f"{acl.principal} may {right.operation} {right.resource} {name}: {right.why}"


def _fields(acls: list[Acl]) -> dict[str, object]:
    return {"schema_version": 1, "acls": [acl.as_fields() for acl in acls]}
