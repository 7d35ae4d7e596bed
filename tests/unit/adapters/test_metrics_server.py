"""The server of metrics: formats, its token, its limits."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection

import pytest
from certificates import Certificates, make_certificates
from deadlines import DEADLINE_S
from scraping import OPENMETRICS, read_page

from mirrorlog import metrics
from mirrorlog.adapters.http.access import HttpAccess
from mirrorlog.adapters.http.answer_headers import ANSWER_HEADERS
from mirrorlog.adapters.metrics_server import MAX_CLIENTS, MetricsServer, open_metrics_server
from mirrorlog.errors import BadUse
from mirrorlog.metric_samples import ExportingRole, MetricSample, MetricSamples

HOST = ExportingRole.HOST
ANYBODY = HttpAccess()


def collect() -> MetricSamples:
    yield MetricSample(metrics.HOST_QUEUED, 7)


def port_of(server: MetricsServer) -> int:
    return int(server.url.removesuffix("/metrics").rpartition(":")[2])


@contextmanager
def served(access: HttpAccess) -> Iterator[MetricsServer]:
    server = open_metrics_server("127.0.0.1:0", access, HOST, collect)
    assert server is not None
    with closing(server):
        yield server


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    with served(ANYBODY) as server:
        yield server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def ask(
    server: MetricsServer, path: str = "/metrics", asker: HttpAccess = ANYBODY, **headers: str
) -> tuple[HTTPResponse, bytes]:
    """Ask as `asker`, over TLS if it has any of that."""
    address, context = ("127.0.0.1", port_of(server)), asker.client_context()
    connection = (
        HTTPConnection(*address, timeout=DEADLINE_S)
        if context is None
        else HTTPSConnection(*address, timeout=DEADLINE_S, context=context)
    )
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(connection):
        connection.request("GET", path, headers=names)
        response = connection.getresponse()
        return response, response.read()


@pytest.mark.parametrize("accept", ["", "text/plain", OPENMETRICS])
def test_the_reader_chooses_the_format(accept: str, server: MetricsServer) -> None:
    response, body = ask(server, Accept=accept)
    content_type = response.getheader("Content-Type") or ""
    assert content_type.startswith(
        "application/openmetrics-text" if accept == OPENMETRICS else "text/plain"
    )
    page = read_page(content_type, body.decode())
    assert page["mirrorlog_host_queued_bytes"] == {(): 7}
    assert page["process_open_fds"][()] > 0


def test_a_page_is_compressed_for_who_asks(server: MetricsServer) -> None:
    response, body = ask(server, Accept_Encoding="gzip")
    assert response.getheader("Content-Encoding") == "gzip"
    assert b"mirrorlog_host_queued_bytes 7" in gzip.decompress(body)


def test_nothing_else_is_served(server: MetricsServer) -> None:
    assert ask(server, "/")[0].status == 404
    assert ask(server, "/metrics?name=x")[0].status == 200


def test_a_token_is_asked_for() -> None:
    with served(HttpAccess("secret")) as server:
        refused, body = ask(server)
        assert (refused.status, refused.getheader("WWW-Authenticate")) == (401, "Bearer")
        assert json.loads(body)["message_type"] == "error"
        assert ask(server, Authorization="Bearer other")[0].status == 401
        assert ask(server, Authorization="Bearer secret")[0].status == 200


def test_no_page_of_another_site_reads_the_metrics(server: MetricsServer) -> None:
    assert ask(server, Host="rebound.example")[0].status == 421
    assert ask(server, Origin="http://other.example")[0].status == 403
    assert ask(server, Origin="http://[")[0].status == 403
    assert ask(server, Sec_Fetch_Site="cross-site")[0].status == 403
    answer, _ = ask(server, Host="localhost:1", Sec_Fetch_Site="none")
    assert answer.status == 200
    assert set(ANSWER_HEADERS) <= set(answer.headers)
    assert answer.getheader("Server") == "mirrorlog "


def test_with_a_ca_only_clients_with_a_certificate_read_the_metrics(
    certificates: Certificates,
) -> None:
    with served(certificates.server) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert ask(server, asker=certificates.client)[0].status == 200
        for other in (certificates.bare, certificates.stranger):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ask(server, asker=other)
        with pytest.raises((HTTPException, ConnectionError)):
            ask(server)  # no TLS
        assert ask(server, asker=certificates.client)[0].status == 200


def test_with_a_certificate_alone_the_token_goes_over_tls(certificates: Certificates) -> None:
    with served(replace(certificates.server, ca=None, token="secret")) as server:
        assert ask(server, asker=certificates.bare)[0].status == 401
        answer, _ = ask(server, asker=certificates.bare, Authorization="Bearer secret")
        assert answer.status == 200
        with pytest.raises(ssl.SSLError):  # the server's certificate is of no authority it knows
            ask(server, asker=HttpAccess(ca=certificates.stranger.certificate))


def test_a_client_that_makes_no_handshake_holds_up_no_other(certificates: Certificates) -> None:
    with (
        served(certificates.server) as server,
        socket.create_connection(("127.0.0.1", port_of(server)), DEADLINE_S),
    ):
        assert ask(server, asker=certificates.client)[0].status == 200


def test_other_machines_are_let_in_by_certificates_too(certificates: Certificates) -> None:
    server = open_metrics_server("0.0.0.0:0", certificates.server, HOST, collect)
    assert server is not None
    with closing(server):
        assert ask(server, asker=certificates.client, Host="any.example")[0].status == 200
    encrypted_only = replace(certificates.server, ca=None)
    with pytest.raises(BadUse, match="other machines"):
        open_metrics_server("0.0.0.0:0", encrypted_only, HOST, collect)
    with pytest.raises(BadUse, match="belong together"):
        open_metrics_server("127.0.0.1:0", certificates.bare, HOST, collect)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("0.0.0.0:0", "metrics_token"), ("nonsense", "--metrics"), ("127.0.0.1:99999", "--metrics")],
)
def test_a_bad_address_is_refused(address: str, expected: str) -> None:
    with pytest.raises(BadUse) as caught:
        open_metrics_server(address, ANYBODY, HOST, collect)
    assert expected in str(caught.value)


def test_an_address_that_is_taken_is_refused(server: MetricsServer) -> None:
    with pytest.raises(BadUse, match="the metrics can't listen"):
        open_metrics_server(f"127.0.0.1:{port_of(server)}", ANYBODY, HOST, collect)


def test_off_serves_nothing() -> None:
    assert open_metrics_server("off", ANYBODY, HOST, collect) is None


def test_clients_that_say_nothing_take_no_more_than_their_share(server: MetricsServer) -> None:
    silent = [
        socket.create_connection(("127.0.0.1", port_of(server)), DEADLINE_S)
        for _ in range(MAX_CLIENTS)
    ]
    # The server accepts in the order of connections: this one is cut off.
    with socket.create_connection(("127.0.0.1", port_of(server)), DEADLINE_S) as refused:
        assert refused.recv(1) == b""
    for client in silent:
        client.close()
    while True:  # until the server has noticed that one of them is gone
        try:
            assert ask(server)[0].status == 200
        except OSError:
            continue
        break
