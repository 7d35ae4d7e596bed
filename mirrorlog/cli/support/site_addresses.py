"""The options of `mirrorlog site run` that say where primaries and secondaries are at this site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from mirrorlog.adapters.addresses import absolute_address
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.pairs import parse_pairs

PrimaryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--primary",
        metavar="VOLUME=URI",
        help="Read the primary of a volume at this address, as in nbds://HOST/EXPORT. `*` stands "
        "for all other volumes, and {volume} in the URI for the name of each. Repeatable.",
    ),
]
SecondaryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--secondary",
        metavar="VOLUME=URI",
        help="Keep the secondary of a volume at this address: a file, a device or an NBD export. "
        "Repeatable.",
    ),
]


def with_addresses(
    call: Invocation,
    site: str,
    folder: Path,
    primaries: Sequence[str],
    secondaries: Sequence[str],
) -> Invocation:
    """Return the call with the options' addresses added to those in its settings.

    Raise BadUse for an address that is none, before anything starts.
    """
    from mirrorlog.consumers.site_addresses import SiteAddresses

    settings = call.settings
    update = {
        "site_primaries": {**settings.site_primaries, **_addresses(primaries)},
        "site_secondaries": {**settings.site_secondaries, **_addresses(secondaries)},
    }
    settings = settings.model_copy(update=update)
    SiteAddresses.from_settings(site, folder, settings)
    return replace(call, settings=settings)


def _addresses(texts: Sequence[str]) -> dict[str, str]:
    from mirrorlog.consumers.site_addresses import NAME

    return {
        volume: absolute_address(address).replace(quote(NAME), NAME)
        for volume, address in parse_pairs(texts, "VOLUME=URI").items()
    }
