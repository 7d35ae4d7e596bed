"""Asks this machine for the addresses at which its roles serve HTTP, with or without TLS."""

from __future__ import annotations

import ssl
from dataclasses import replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final, NamedTuple

from mirrorlog.acls import Role
from mirrorlog.adapters.http.access import HttpAccess, http_access
from mirrorlog.adapters.listening import OFF, ListeningWords, listen_at
from mirrorlog.cli.doctor.snapshot import PortFacts
from mirrorlog.errors import BadUse
from mirrorlog.settings import Settings

_PROBE_S: Final = 0.5


class _Served(NamedTuple):
    """What roles serve at the address in a setting; `token` is the setting of its token.

    only_named: it is looked at only if doctor is asked about one of the roles.
    """

    setting: str
    token: str
    roles: tuple[Role, ...]
    who: str
    option: str
    only_named: bool = False


_SERVED: Final = (
    _Served("node_http", "node_http_token", (Role.NODE,), "the node", "--http"),
    _Served(
        "metrics",
        "metrics_token",
        (Role.HOST, Role.SITE, Role.ARCHIVE),
        "a host, a site or an archiver",
        "--metrics",
    ),
    _Served(
        "dashboard_http",
        "dashboard_http_token",
        (Role.DASHBOARD,),
        "the dashboard",
        "--listen",
        only_named=True,  # its port is fixed by default, and most machines have no dashboard
    ),
)


def http_ports(settings: Settings, role: Role | None) -> list[PortFacts]:
    """Return the addresses at which the role serves HTTP; of every role if it is None."""
    return [
        _port(settings, served)
        for served in _SERVED
        if role in served.roles or (role is None and not served.only_named)
    ]


def _port(settings: Settings, served: _Served) -> PortFacts:
    address = str(getattr(settings, served.setting))
    facts = PortFacts(setting=served.setting, address=address)
    if address == OFF:
        return facts
    access = http_access(settings, str(getattr(settings, served.token)))
    words = ListeningWords(who=served.who, option=served.option, token=served.token)
    try:
        access.server_context()
    except BadUse as error:
        return replace(facts, problem=error)
    try:
        listen_at(address, words, is_guarded=access.is_guarded).close()
    except BadUse as error:
        if _serves_http(address, access):
            return replace(facts, answers=True)
        return replace(facts, problem=error)
    return facts


def _serves_http(address: str, access: HttpAccess) -> bool:
    """Return whether something at HOST:PORT answers a request; over TLS, if `access` has it."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        return False
    connection = _connection(host.strip("[]"), int(port), access)
    has_shaken_hands = False
    try:
        connection.connect()
        has_shaken_hands = access.certificate is not None
        connection.request("GET", "/healthz")
        connection.getresponse()
    except ssl.SSLError as error:
        # What refuses this machine's certificate speaks TLS; what speaks no TLS is something else.
        return has_shaken_hands or "ALERT" in (error.reason or "")
    except ConnectionError:
        # In TLS 1.3 a certificate is refused after the client's handshake. The end of the
        # connection, because the request wasn't read any more, may overtake the alert.
        return has_shaken_hands
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return True


def _connection(host: str, port: int, access: HttpAccess) -> HTTPConnection:
    if access.certificate is None:
        return HTTPConnection(host, port, timeout=_PROBE_S)
    context = access.client_context()
    assert context is not None
    # No secret is sent, and the address needn't be a name of the certificate.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return HTTPSConnection(host, port, timeout=_PROBE_S, context=context)
