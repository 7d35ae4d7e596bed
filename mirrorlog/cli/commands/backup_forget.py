"""`mirrorlog backup forget`: end a backup's registration."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from mirrorlog.cli.support.confirming import DryRunOption, YesOption, is_confirmed
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.consumers.backup.repository.opening import open_repository
from mirrorlog.consumers.backup.sources.wiring import open_registrar
from mirrorlog.errors import BadUse

app = typer.Typer()


@app.command()
def forget(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    repo: Annotated[
        str | None,
        typer.Option(
            "--repo", metavar="REPO", help="The repository: a folder or s3://BUCKET/PREFIX."
        ),
    ] = None,
    repository_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="UUID",
            help="The id of a repository that is gone (`mirrorlog status --json` has it).",
        ),
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """End a backup's registration: the log no longer keeps what the next point needs.

    The points stay. A later backup of the volume registers it again, and copies all that is
    allocated if the log has let something go meanwhile.
    """
    call = invocation(context)
    if (repo is None) == (repository_id is None):
        raise BadUse("one repository must be named", next="Give either --repo or --id.")
    known_id = _given_id(repository_id) if repo is None else _id_of(call, repo)
    with open_registrar(call.settings, known_id, repo or "") as registrar:
        known = registrar.registered().get(name)
        if known is None:
            raise BadUse(
                f"no backup of volume {name} is registered for repository {registrar.id}",
                next="`mirrorlog status` shows those that are.",
            )
        cost = (
            f"The log no longer keeps what the next backup of {name} to {known.address} needs "
            f"(position {known.position} and later). The points stay."
        )
        if not is_confirmed(call, name, cost, yes=yes, dry_run=dry_run):
            return
        registrar.end(name)
    fields = {"volume": name, "repository_id": registrar.id, "position": known.position}
    call.output.print_json({"schema_version": 1, **fields})
    call.output.print_text(f"the backup of {name} to {known.address} is no longer registered")


def _id_of(call: Invocation, repo: str) -> str:
    """Return the id of the repository at an address."""
    with open_repository(call.settings, repo) as repository:
        return repository.repository_id


def _given_id(text: str | None) -> str:
    """Return an id in its canonical form. Raise BadUse if it is none."""
    try:
        return str(UUID(text))
    except ValueError as error:
        raise BadUse(
            f"'{str(text)[:60]}' is no id of a repository",
            next="`mirrorlog status --json` has it: the field `repository` of the backup.",
        ) from error
