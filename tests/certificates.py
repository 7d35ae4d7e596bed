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
    stranger: trusts that CA, and has a certificate of another one. false_server: is at 127.0.0.1,
              with a certificate of that other CA, whose own is in `false_ca`.
    """

    server: HttpAccess
    client: HttpAccess
    bare: HttpAccess
    stranger: HttpAccess
    false_server: HttpAccess
    false_ca: Path


def make_certificates(folder: Path) -> Certificates:
    """Write the files into `folder`, which is there."""
    ours, theirs = trustme.CA(), trustme.CA()
    ca, false_ca = folder / "ca.pem", folder / "false-ca.pem"
    ours.cert_pem.write_to_path(ca)
    theirs.cert_pem.write_to_path(false_ca)

    def access(name: str, of: trustme.CA, file: str = "") -> HttpAccess:
        issued = of.issue_cert(name)
        certificate, key = (folder / f"{file or name}.{kind}" for kind in ("pem", "key"))
        issued.private_key_pem.write_to_path(key)
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(certificate, append=number > 0)
        return HttpAccess(certificate=certificate, key=key, ca=ca)

    return Certificates(
        server=access("127.0.0.1", ours),
        client=access("client.example", ours),
        bare=HttpAccess(ca=ca),
        stranger=access("stranger.example", theirs),
        false_server=access("127.0.0.1", theirs, "false"),
        false_ca=false_ca,
    )
