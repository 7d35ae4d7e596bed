"""Client settings under librdkafka's names, translated for Faust and aiokafka.

Users write librdkafka's names (CONFIGURATION.md of librdkafka) for every role. This is the only
place that translates them.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

import faust

from mirrorlog.errors import BadUse

_PLAIN: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "client.id": ("broker_client_id", str),
    "compression.type": ("producer_compression_type", str),
    "compression.codec": ("producer_compression_type", str),
    "metadata.max.age.ms": ("consumer_metadata_max_age_ms", int),
    "check.crcs": ("broker_check_crcs", lambda text: text.lower() == "true"),
}
_TLS: Final = frozenset(
    {
        "ssl.ca.location",
        "ssl.ca.pem",
        "ssl.certificate.location",
        "ssl.key.location",
        "ssl.key.password",
        "ssl.endpoint.identification.algorithm",
        "enable.ssl.certificate.verification",
    }
)
_SASL: Final = frozenset({"sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password"})
_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def faust_settings(bootstrap_servers: str, client: Mapping[str, str]) -> dict[str, Any]:
    """Return the keyword arguments of faust.App for a client's librdkafka settings.

    Raise BadUse for a value that isn't valid, and for a protocol or SASL mechanism that Faust can't
    speak.
    """
    addresses = client.get("bootstrap.servers", bootstrap_servers).split(",")
    options: dict[str, Any] = {"broker": [f"kafka://{address.strip()}" for address in addresses]}
    for name, value in client.items():
        if name in _PLAIN:
            target, convert = _PLAIN[name]
            try:
                options[target] = convert(value)
            except ValueError as error:
                raise BadUse(
                    f"{name} can't be '{value[:40]}'", next="Check -X, -F and [kafka]."
                ) from error
    credentials = _credentials(client)
    return options if credentials is None else options | {"broker_credentials": credentials}


def unsupported_settings(client: Mapping[str, str]) -> list[str]:
    """Return the names of settings that aiokafka has no equivalent for. The node warns of them."""
    known = {*_PLAIN, *_TLS, *_SASL, "bootstrap.servers", "security.protocol"}
    return sorted(name for name in client if name not in known)


def _credentials(client: Mapping[str, str]) -> Any:
    """Return Faust's credentials for the security settings, None for plaintext."""
    given = client.get("security.protocol", "plaintext")
    protocol = given.lower()
    if protocol == "plaintext":
        return None
    if protocol == "ssl":
        return faust.SSLCredentials(context=_tls(client))
    if protocol in ("sasl_plaintext", "sasl_ssl"):
        mechanism = client.get("sasl.mechanism", client.get("sasl.mechanisms", ""))
        if mechanism not in _MECHANISMS:
            raise BadUse(
                f"the node can't speak sasl.mechanism '{mechanism}'",
                next=f"Use one of {', '.join(_MECHANISMS)}.",
            )
        return faust.SASLCredentials(
            username=client.get("sasl.username"),
            password=client.get("sasl.password"),
            mechanism=mechanism,
            ssl_context=_tls(client) if protocol == "sasl_ssl" else None,
        )
    raise BadUse(
        f"security.protocol '{given}' is unknown",
        next="Use plaintext, ssl, sasl_plaintext or sasl_ssl.",
    )


def _tls(client: Mapping[str, str]) -> ssl.SSLContext:
    """Return the TLS context for the ssl.* settings.

    Raise BadUse if a certificate can't be read.
    """
    try:
        context = ssl.create_default_context(
            cafile=client.get("ssl.ca.location"), cadata=client.get("ssl.ca.pem")
        )
        if client.get("ssl.certificate.location"):
            context.load_cert_chain(
                client["ssl.certificate.location"],
                client.get("ssl.key.location"),
                client.get("ssl.key.password"),
            )
    except (OSError, ssl.SSLError) as error:
        raise BadUse(
            f"the TLS settings can't be used: {error}",
            next="Check ssl.ca.location and the certificate.",
        ) from error
    if client.get("ssl.endpoint.identification.algorithm", "https").lower() == "none":
        context.check_hostname = False
    if client.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
