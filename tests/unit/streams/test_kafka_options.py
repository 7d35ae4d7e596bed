"""librdkafka's settings, translated for the node's client."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from mirrorlog.errors import BadUse
from mirrorlog.streams.faust_worker.kafka_options import faust_settings, unsupported_settings

SERVERS = "one:9092, two:9093"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


def options(text: str, authority: Path) -> dict[str, str]:
    """Return `a=b c=d` as a mapping. CA stands for the path of a valid certificate."""
    return dict(part.replace("CA", str(authority), 1).split("=", 1) for part in text.split())


# client settings -> Faust's settings beside the addresses
PLAIN = """
                                          ->
client.id=blue                            -> broker_client_id=blue
compression.codec=zstd                    -> producer_compression_type=zstd
metadata.max.age.ms=5000                  -> consumer_metadata_max_age_ms=5000
check.crcs=FALSE                          -> broker_check_crcs=False
security.protocol=plaintext               ->
fetch.wait.max.ms=50                      ->
"""


@pytest.mark.parametrize("case", PLAIN.strip("\n").splitlines())
def test_settings_that_faust_calls_by_another_name(case: str, authority: Path) -> None:
    given, _, expected = case.partition("->")
    settings = faust_settings(SERVERS, options(given, authority))
    assert settings.pop("broker") == ["kafka://one:9092", "kafka://two:9093"]
    assert " ".join(f"{name}={value}" for name, value in settings.items()) == expected.strip()


# client settings -> protocol, mechanism, user, and what of the server is checked
SECURED = """
security.protocol=SSL ssl.ca.location=CA -> SSL - - certificate name
security.protocol=ssl ssl.ca.location=CA ssl.endpoint.identification.algorithm=none \
-> SSL - - certificate -
security.protocol=ssl enable.ssl.certificate.verification=false -> SSL - - - -
security.protocol=SASL_PLAINTEXT sasl.mechanism=PLAIN sasl.username=u -> SASL_PLAINTEXT PLAIN u - -
security.protocol=sasl_ssl sasl.mechanism=PLAIN sasl.username=u ssl.ca.location=CA \
-> SASL_SSL PLAIN u certificate name
security.protocol=sasl_ssl sasl.mechanisms=SCRAM-SHA-512 sasl.username=u \
-> SASL_SSL SCRAM-SHA-512 u certificate name
"""


@pytest.mark.parametrize("case", SECURED.strip().splitlines())
def test_security_settings(case: str, authority: Path) -> None:
    given, _, expected = case.partition("->")
    credentials = faust_settings(SERVERS, options(given, authority) | {"sasl.password": "secret"})[
        "broker_credentials"
    ]
    context = getattr(credentials, "ssl_context", None) or getattr(credentials, "context", None)
    described = [
        credentials.protocol.value,
        getattr(getattr(credentials, "mechanism", None), "value", "-"),
        getattr(credentials, "username", None) or "-",
        "certificate" if context and context.verify_mode is ssl.CERT_REQUIRED else "-",
        "name" if context and context.check_hostname else "-",
    ]
    assert " ".join(described) == expected.strip()
    assert getattr(credentials, "password", "secret") == "secret"


# client settings -> what the error names
UNUSABLE = """
security.protocol=SASL_TLS                                      -> security.protocol 'SASL_TLS'
security.protocol=SASL_SSL                                      -> sasl.mechanism ''
security.protocol=SASL_SSL sasl.mechanism=OAUTHBEARER           -> sasl.mechanism 'OAUTHBEARER'
security.protocol=SSL ssl.ca.location=missing.pem               -> TLS settings
security.protocol=SSL ssl.ca.location=CA ssl.certificate.location=CA -> TLS settings
security.protocol=SSL ssl.ca.pem=junk                           -> TLS settings
metadata.max.age.ms=soon                                        -> metadata.max.age.ms
"""


@pytest.mark.parametrize("case", UNUSABLE.strip().splitlines())
def test_the_error_names_the_setting_that_cannot_be_used(case: str, authority: Path) -> None:
    given, _, named = case.partition("->")
    with pytest.raises(BadUse, match=named.strip()):
        faust_settings(SERVERS, options(given, authority))


# client settings -> those that the node warns of
UNKNOWN = """
security.protocol=SSL ssl.ca.location=CA sasl.mechanism=PLAIN sasl.password=x client.id=y \
bootstrap.servers=z ->
ssl.cipher.suites=x fetch.wait.max.ms=1 client.id=y -> fetch.wait.max.ms ssl.cipher.suites
sasl.oauthbearer.config=x -> sasl.oauthbearer.config
"""


@pytest.mark.parametrize("case", UNKNOWN.strip().splitlines())
def test_settings_that_the_node_does_not_support(case: str, authority: Path) -> None:
    given, _, expected = case.partition("->")
    assert unsupported_settings(options(given, authority)) == expected.split()
