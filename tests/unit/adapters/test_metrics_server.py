"""The server of metrics: formats, its token, its limits."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse

import pytest
from deadlines import DEADLINE_S
from scraping import OPENMETRICS, read_page

from mirrorlog import metrics
from mirrorlog.adapters.metrics_server import MAX_CLIENTS, MetricsServer, open_metrics_server
from mirrorlog.errors import BadUse
from mirrorlog.metric_samples import ExportingRole, MetricSample, MetricSamples

HOST = ExportingRole.HOST


def collect() -> MetricSamples:
    yield MetricSample(metrics.HOST_QUEUED, 7)


def port_of(server: MetricsServer) -> int:
    return int(server.url.removesuffix("/metrics").rpartition(":")[2])


def opened(token: str = "") -> MetricsServer:
    server = open_metrics_server("127.0.0.1:0", token, HOST, collect)
    assert server is not None
    return server


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    server = opened()
    yield server
    server.close()


def ask(
    server: MetricsServer, path: str = "/metrics", **headers: str
) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", port_of(server), timeout=DEADLINE_S)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET", path, headers=names)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


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
    server = opened(token="secret")
    try:
        assert ask(server)[0].status == 401
        assert ask(server, Authorization="Bearer other")[0].status == 401
        assert ask(server, Authorization="Bearer secret")[0].status == 200
    finally:
        server.close()


@pytest.mark.parametrize(
    ("address", "expected"),
    [("0.0.0.0:0", "metrics_token"), ("nonsense", "--metrics"), ("127.0.0.1:99999", "--metrics")],
)
def test_a_bad_address_is_refused(address: str, expected: str) -> None:
    with pytest.raises(BadUse) as caught:
        open_metrics_server(address, "", HOST, collect)
    assert expected in str(caught.value)


def test_an_address_that_is_taken_is_refused(server: MetricsServer) -> None:
    with pytest.raises(BadUse, match="the metrics can't listen"):
        open_metrics_server(f"127.0.0.1:{port_of(server)}", "", HOST, collect)


def test_off_serves_nothing() -> None:
    assert open_metrics_server("off", "", HOST, collect) is None


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
