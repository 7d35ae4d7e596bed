"""Certificates for HTTPS: of a server, of a client, and of a stranger with another CA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

from mirrorlog.adapters.http.access import HttpAccess


@dataclass(frozen=True)
class Certificates:
    """Who may ask, with files of a CA.

    server:   at 127.0.0.1. client: of the same CA. bare: trusts that CA, and has no certificate.
    stranger: trusts that CA, and has a certificate of another one.
    """

    server: HttpAccess
    client: HttpAccess
    bare: HttpAccess
    stranger: HttpAccess


def make_certificates(folder: Path) -> Certificates:
    """Write the files into `folder`, which is there."""
    ours, theirs = trustme.CA(), trustme.CA()
    ca = folder / "ca.pem"
    ours.cert_pem.write_to_path(ca)

    def access(name: str, of: trustme.CA) -> HttpAccess:
        issued = of.issue_cert(name)
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(folder / f"{name}.pem", append=number > 0)
        return HttpAccess(
            certificate=folder / f"{name}.pem", key=folder / f"{name}.key", ca=folder / "ca.pem"
        )

    return Certificates(
        server=access("127.0.0.1", ours),
        client=access("client.example", ours),
        bare=HttpAccess(ca=ca),
        stranger=access("stranger.example", theirs),
    )
