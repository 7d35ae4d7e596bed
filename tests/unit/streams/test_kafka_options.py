"""librdkafka's settings as the node's client takes them."""

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
    """`a=b c=d`; CA stands for a certificate file that is one."""
    return dict(part.replace("CA", str(authority), 1).split("=", 1) for part in text.split())


# client settings -> what Faust gets beside the addresses
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
def test_settings_that_have_another_name(case: str, authority: Path) -> None:
    given, _, expected = case.partition("->")
    found = faust_settings(SERVERS, options(given, authority))
    assert found.pop("broker") == ["kafka://one:9092", "kafka://two:9093"]
    assert " ".join(f"{name}={value}" for name, value in found.items()) == expected.strip()


# client settings -> protocol, mechanism, user, whether the server's certificate and its name are checked
SECURED = """
security.protocol=SSL ssl.ca.location=CA                                        -> SSL - - certificate name
security.protocol=ssl ssl.ca.location=CA ssl.endpoint.identification.algorithm=none -> SSL - - certificate -
security.protocol=ssl enable.ssl.certificate.verification=false                 -> SSL - - - -
security.protocol=SASL_PLAINTEXT sasl.mechanism=PLAIN sasl.username=u           -> SASL_PLAINTEXT PLAIN u - -
security.protocol=sasl_ssl sasl.mechanism=PLAIN sasl.username=u ssl.ca.location=CA -> SASL_SSL PLAIN u certificate name
security.protocol=sasl_ssl sasl.mechanisms=SCRAM-SHA-512 sasl.username=u        -> SASL_SSL SCRAM-SHA-512 u certificate name
"""


@pytest.mark.parametrize("case", SECURED.strip().splitlines())
def test_ways_in(case: str, authority: Path) -> None:
    given, _, expected = case.partition("->")
    found = faust_settings(SERVERS, options(given, authority) | {"sasl.password": "secret"})[
        "broker_credentials"
    ]
    context = getattr(found, "ssl_context", None) or getattr(found, "context", None)
    told = [
        found.protocol.value,
        getattr(getattr(found, "mechanism", None), "value", "-"),
        getattr(found, "username", None) or "-",
        "certificate" if context and context.verify_mode is ssl.CERT_REQUIRED else "-",
        "name" if context and context.check_hostname else "-",
    ]
    assert " ".join(told) == expected.strip()
    assert getattr(found, "password", "secret") == "secret"


# client settings -> the setting that the error names
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
def test_what_cannot_be_used_is_named(case: str, authority: Path) -> None:
    given, _, named = case.partition("->")
    with pytest.raises(BadUse, match=named.strip()):
        faust_settings(SERVERS, options(given, authority))


# client settings -> those that the node warns of
UNKNOWN = """
security.protocol=SSL ssl.ca.location=CA sasl.mechanism=PLAIN sasl.password=x client.id=y bootstrap.servers=z ->
ssl.cipher.suites=x fetch.wait.max.ms=1 client.id=y             -> fetch.wait.max.ms ssl.cipher.suites
sasl.oauthbearer.config=x                                       -> sasl.oauthbearer.config
"""


@pytest.mark.parametrize("case", UNKNOWN.strip().splitlines())
def test_what_the_node_does_not_know(case: str, authority: Path) -> None:
    given, _, expected = case.partition("->")
    assert unsupported_settings(options(given, authority)) == expected.split()
