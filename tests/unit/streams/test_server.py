"""The node's HTTP over a log in memory: pages, errors, which worker answers, and costs."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from certificates import Certificates, make_certificates
from deadlines import DEADLINE_S, until
from http_world import MemoryView, Worker, listening
from logs import Log
from notation import command, recorded, volume
from scraping import OPENMETRICS, read_page

from mirrorlog.adapters.http.access import HttpAccess
from mirrorlog.changed.formats import FORMATS, JSON_FORMATS, render
from mirrorlog.changed.points import AtEnd, AtOrigin, Point, parse_point
from mirrorlog.changed.query import changed_blocks
from mirrorlog.changed.remote import remote_listing
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import NotAllowed, UnknownVolume
from mirrorlog.streams.web.openapi import openapi

BLOCK = 4096


def log_of(*texts: str, of: Volume | None = None, flush: int = 2) -> Log:
    """Return a log of these writes, one a second. flush: how many of them a flush records."""
    log = Log([of or volume()])
    log.publish(
        [
            command(text, sequence=n, first_at_us=n * 10**6, last_at_us=n * 10**6)
            for n, text in enumerate(texts)
        ]
    )
    for _ in range(0, len(texts), flush):
        log.flush(flush)
    return log


WRITES = [
    f"{2 * n * BLOCK}+{BLOCK}" if n % 3 else f"z{2 * n * BLOCK}+{2 * BLOCK}" for n in range(9)
]
"""Runs with gaps between them. Every third run is zeroed, and touches the next."""


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await test()

    asyncio.run(limited())


def printed(log: Log, name: str, since: str = "origin", until: str = "now", offset: int = 0) -> str:
    """Return what the command line prints."""
    points: list[Point] = [parse_point(text, 0) for text in (since, until)]
    return "".join(render(changed_blocks("v", *points, log.ports(), 0), name, offset))


def joined(name: str, pages: list[dict[str, Any]]) -> Any:
    """Return the listings of all pages as one."""
    if name != "ebs":
        return [entry for page in pages for entry in page["listing"]]
    return [entry for page in pages for entry in page["listing"]["ChangedBlocks"]]


@pytest.mark.parametrize("name", JSON_FORMATS)
def test_all_pages_together_are_the_listing_at_every_page_size(name: str) -> None:
    log = log_of(*WRITES)
    whole = json.loads(printed(log, name))
    whole = whole["ChangedBlocks"] if name == "ebs" else whole

    async def test() -> None:
        worker = Worker(log)
        async with listening(worker):
            for limit in (1, 2, 3, len(whole) - 1, len(whole), len(whole) + 1):
                pages = await worker.pages(f"/v1/volumes/v/changed?format={name}&limit={limit}")
                assert joined(name, pages) == whole
                assert len(pages) == max(-(-len(whole) // limit), 1)

    run(test)


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_is_what_the_command_line_prints_byte_for_byte(name: str) -> None:
    log = log_of(*WRITES)

    async def test() -> None:
        worker = Worker(log)
        async with listening(worker):
            for offset in (0, 5000):
                path = f"/v1/volumes/v/changed?format={name}&limit=0&since=@0&offset={offset}"
                assert await worker.text(path) == printed(log, name, "@0", offset=offset)
            async with worker.client.get(f"/v1/volumes/v/changed?format={name}&limit=0") as answer:
                assert (answer.headers["Mirrorlog-Since"], answer.headers["Mirrorlog-Until"]) == (
                    "-1",
                    "8",
                )

    run(test)


def test_later_pages_answer_the_same_question_while_writes_go_on() -> None:
    log = log_of(*WRITES)
    whole = json.loads(printed(log, "json"))

    def write() -> None:
        log.publish([command(f"0+{30 * BLOCK}", sequence=log.next)])
        log.flush(1)

    async def test() -> None:
        worker = Worker(log)
        async with listening(worker):
            pages = await worker.pages("/v1/volumes/v/changed?limit=2", between=write)
            assert joined("json", pages) == whole
            assert {(page["since"], page["until"]) for page in pages} == {(-1, 8)}
            now = await worker.json("/v1/volumes/v/changed")
            assert now["until"] > 8
            assert now["listing"] != whole

    run(test)


def test_pages_by_own_times_answer_the_same_question_and_name_the_clock() -> None:
    seconds = [5, 2, 9, 1, 4]
    times = [second * 10**6 for second in seconds]
    rows = " ".join(f"{at_us}@{2 * n * BLOCK}+{BLOCK}" for n, at_us in enumerate(times))
    log = Log([volume(recorded_since_us=10**6)])
    log.publish([recorded(rows)], [1000.0])
    log.flush(1)
    since, until = "1970-01-01T00:00:01.000000Z", "1970-01-01T00:00:05.000000Z"
    whole = json.loads(printed(log, "json", since, until))
    assert [entry["start"] for entry in whole if entry["dirty"]] == [0, 2 * BLOCK, 8 * BLOCK]

    def write() -> None:
        times = {"first_at_us": 10**9, "last_at_us": 10**9}
        log.publish([command(f"0+{30 * BLOCK}", sequence=log.next, **times)], [1000.0])
        log.flush(1)

    async def test() -> None:
        worker, other = Worker(log), Worker(log, active=[])
        async with listening(worker, other):
            path = f"/v1/volumes/v/changed?since={since}&until={until}"
            pages = await worker.pages(f"{path}&limit=2", between=write)
            assert joined("json", pages) == whole
            assert {(page["since"], page["until"], page["clock"]) for page in pages} == {
                (since, until, "own")
            }
            asked = {"since": since, "until": until}
            for node in (worker, other):  # the second one passes the request on
                listing = await asyncio.to_thread(
                    remote_listing, node.url, HttpAccess(), "v", asked, 5.0
                )
                text = await asyncio.to_thread("".join, listing.pieces)
                assert (listing.clock, json.loads(text)) == ("own", whole)
            assert (await worker.json("/v1/volumes/v/changed"))["clock"] is None

    run(test)


def test_a_page_after_another_reads_no_table() -> None:
    log = log_of(*WRITES)
    views = 0

    class CountedView(MemoryView):
        def __init__(self, rows: Mapping[bytes, bytes]) -> None:
            nonlocal views
            views += 1
            super().__init__(rows)

    async def test() -> None:
        worker = Worker(log, view=CountedView)
        async with listening(worker):
            assert len(await worker.pages("/v1/volumes/v/changed?limit=2")) > 3
            assert views == 1

    run(test)


# path below /v1/volumes | status | what the error says
ERRORS = """
/w/changed                      | 404 | there is no volume 'w'
/v/changed?since=yesterday      | 400 | is no point
/v/changed?since=@5&until=@4    | 400 | lies after
/v/changed?since=barrier:b      | 400 | no barrier
/v/changed?since=@0             | 410 | begins later
/v/changed?since=1969-12-31     | 410 | doesn't reach back
/v/changed?since=@1&until=@99&wait=0 | 503 | isn't complete through position 99
/v/changed?format=xml           | 400 | no format 'xml'
/v/changed?format=csv&limit=5   | 400 | doesn't come in pages
/v/changed?limit=-1             | 400 | limit can't be
/v/changed?limit=10001          | 400 | limit can't be
/v/changed?limit=1e3            | 400 | limit can't be
/v/changed?limit=%D9%A3         | 400 | limit can't be
/v/changed?offset=8YiB          | 400 | unit of size
/v/changed?offset=2MiB          | 400 | lies outside
/v/changed?offset=2MiB&limit=0  | 400 | lies outside
/v/changed?sinc=@5              | 400 | no parameter 'sinc'
/v/changed?since=@5&since=@6    | 400 | more than once
/v/changed?wait=long            | 400 | isn't a duration
?limit=0                        | 400 | limit can't be 0
/v                              | 404 | Not Found
"""


@pytest.mark.parametrize("case", ERRORS.strip("\n").splitlines())
def test_errors_are_objects_as_on_the_command_line(case: str) -> None:
    path, status, says = (part.strip() for part in case.split("|"))
    log = log_of(*WRITES, of=volume(origin_position=1))

    async def test() -> None:
        worker = Worker(log)
        async with listening(worker):
            error = await worker.json(f"/v1/volumes{path}", int(status))
            assert says in error["what"]
            assert sorted(error) == ["code", "message_type", "next", "what", "where"]
            if status == "410":
                assert "from position 1 on" in error["next"]
            # The worker still answers.
            assert (await worker.json("/v1/volumes/v/changed"))["until"] == 8

    run(test)


UNKNOWN_VOLUME = [
    "/v1/volumes/w/changed",
    "/v1/volumes/w/changed?limit=1",
    "/v1/volumes/w/changed?limit=0",
    "/v1/volumes/w/changed?format=csv",
    "/v1/volumes/w/changed?since=@0&until=@3&offset=4096&limit=1",
]
"""A question about a volume that doesn't exist: a page, a stream, and a later page."""


@pytest.mark.parametrize("path", UNKNOWN_VOLUME)
def test_an_unknown_volume_has_one_status_and_one_code_however_it_is_asked(path: str) -> None:
    log, without_w = Log([volume(), volume("w")]), log_of(*WRITES)

    def delete_w() -> None:
        log.broker.append(log.topics.volumes, 0, b"w", None)

    async def test() -> None:
        owner, other = Worker(without_w), Worker(without_w, active=[])
        knows_w, deletes_w = Worker(log, active=[]), Worker(log)
        async with listening(owner, other, knows_w, deletes_w):
            knows_w.owners = {0: owner.url}
            # The volume goes after the worker has found it, and before the question is answered.
            check_for = deletes_w.ownership.check_for
            deletes_w.ownership.check_for = lambda partition: (delete_w(), check_for(partition))[1]
            errors = {
                "the worker that has the partition": await owner.json(path, 404),
                "another worker": await other.json(path, 404),
                "a request that is passed on": await knows_w.json(path, 404),
                "a volume that is deleted meanwhile": await deletes_w.json(path, 404),
            }
            assert "w" not in [
                entry["volume"] for entry in (await deletes_w.json("/v1/volumes"))["volumes"]
            ]
        with pytest.raises(UnknownVolume) as from_kafka:
            changed_blocks("w", AtOrigin(), AtEnd(), without_w.ports(), 0)
        errors["the command line, from Kafka"] = from_kafka.value.as_message()
        assert {asked: error["code"] for asked, error in errors.items()} == dict.fromkeys(
            errors, "UnknownVolume"
        )
        assert {error["what"] for error in errors.values()} == {"there is no volume 'w'"}
        assert len({error["next"] for error in errors.values()}) == 1

    run(test)


def test_the_command_line_raises_the_error_that_the_node_answers() -> None:
    log = log_of(*WRITES)

    async def test() -> None:
        worker = Worker(log)
        async with listening(worker):
            with pytest.raises(UnknownVolume, match="no volume 'w'"):
                await asyncio.to_thread(remote_listing, worker.url, HttpAccess(), "w", {}, 5.0)

    run(test)


def test_a_listing_over_http_says_its_positions_and_that_the_volume_is_younger() -> None:
    log = log_of(*WRITES, of=volume(created_at_us=500_000))

    async def test() -> None:
        worker = Worker(log)
        async with listening(worker):
            for since, began_at in (
                ("origin", None),
                ("1969-12-31T23:00:00Z", "1970-01-01T00:00:00.500000Z"),
            ):
                listing = await asyncio.to_thread(
                    remote_listing, worker.url, HttpAccess(), "v", {"since": since}, 5.0
                )
                assert (listing.since, listing.until) == (-1, 8)
                assert listing.volume_began_at == began_at
                assert json.loads(await asyncio.to_thread("".join, listing.pieces))

    run(test)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_workers_and_the_command_line_prove_to_each_other_who_they_are(
    certificates: Certificates,
) -> None:
    log = log_of(*WRITES)
    ours, asker = certificates.server, certificates.client

    def listed(node: Worker, of: HttpAccess) -> str:
        asked = {"since": "origin"}
        return "".join(remote_listing(node.url, of, "v", asked, DEADLINE_S).pieces)

    async def test() -> None:
        owner = Worker(log, access=ours, asker=asker)
        other = Worker(log, active=[], access=ours, asker=asker, view=forbidden)
        async with listening(owner, other):
            assert other.url.startswith("https://")
            whole = printed(log, "json")
            for node in (owner, other):  # the second one passes the request on
                assert await asyncio.to_thread(listed, node, asker) == whole
            for of, says in (
                (certificates.bare, "alert certificate required"),
                (certificates.stranger, "alert unknown ca"),
                (HttpAccess(), "its certificate isn't trusted"),
            ):
                with pytest.raises(NotAllowed, match=says) as caught:
                    await asyncio.to_thread(listed, owner, of)
                assert "http_c" in (caught.value.next or "")

    run(test)


@pytest.mark.parametrize("is_owner_false", [False, True])
def test_a_worker_with_a_certificate_of_another_ca_gets_and_gives_no_answer(
    certificates: Certificates, is_owner_false: bool
) -> None:
    log = log_of(*WRITES)
    # Their CA of clients is ours, and their own certificate is of another one.
    theirs = replace(certificates.false_server, ca=certificates.server.ca)

    async def test() -> None:
        kinds = (certificates.server, theirs)
        of_owner, of_other = kinds[is_owner_false], kinds[not is_owner_false]
        asker = certificates.client
        if not is_owner_false:
            asker = replace(asker, ca=certificates.false_ca)
        owner = Worker(log, access=of_owner, asker=certificates.client)
        other = Worker(log, active=[], access=of_other, asker=asker, view=forbidden)
        async with listening(owner, other):
            error = await other.json("/v1/volumes/v/changed", 503)
            assert error["where"] == owner.url
            says = "its certificate isn't trusted" if is_owner_false else "alert unknown ca"
            assert says in error["what"]
            assert error["next"].startswith("On the worker that was asked: Set http_c")

    run(test)


def test_any_worker_answers_for_any_volume() -> None:
    log = log_of(*WRITES)

    async def test() -> None:
        owner, other = Worker(log), Worker(log, active=[], view=forbidden)
        other.ownership.assign([1])
        async with listening(owner, other):
            for path in (
                "/v1/volumes/v/changed?limit=2",
                "/v1/volumes/v/changed?limit=0",
                "/v1/volumes",
            ):
                assert await owner.text(path) == await other.text(path)
            assert await owner.pages("/v1/volumes/v/changed?limit=2") == await other.pages(
                "/v1/volumes/v/changed?limit=2"
            )
            assert (await other.json("/v1/volumes"))["volumes"][0]["worker"] == owner.url
            error = await other.json("/v1/volumes/v/changed?since=@-1&until=@99&wait=0", 503)
            assert "isn't complete" in error["what"]

    run(test)


def forbidden(_: Mapping[bytes, bytes]) -> MemoryView:
    """Fail: a standby has the rows, but must not answer from them."""
    raise AssertionError("a standby's copy was read")


def test_neither_a_recovering_worker_nor_a_standby_nor_a_second_hop_answers() -> None:
    log = log_of(*WRITES)
    path = "/v1/volumes/v/changed"

    async def test() -> None:
        recovering, other = (
            Worker(log, active=[], view=forbidden),
            Worker(log, active=[], view=forbidden),
        )
        async with listening(recovering, other):
            # Each believes that the other owns the partition: without the mark of the first hop
            # they would pass the request to and fro for ever.
            recovering.owners, other.owners = {0: other.url}, {0: recovering.url}
            for _ in range(2):
                assert "no worker answers" in (await recovering.json(path, 503))["what"]
            recovering.owners = {0: recovering.url}
            assert "no worker answers" in (await recovering.json(path, 503))["what"]
            recovering.owners = {0: "off://other"}
            assert "no worker answers" in (await recovering.json(path, 503))["what"]
            assert (await recovering.json("/v1/volumes"))["volumes"][0]["worker"] is None
            assert (await recovering.json("/healthz", 503))["status"] == "recovering"

    run(test)


def test_the_error_names_the_worker_that_does_not_answer() -> None:
    log = log_of(*WRITES)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    async def test() -> None:
        worker = Worker(log, active=[], owners={0: f"http://127.0.0.1:{port}"})
        async with listening(worker):
            error = await worker.json("/v1/volumes/v/changed", 503)
            assert (error["code"], error["where"]) == (
                "NodeUnavailable",
                f"http://127.0.0.1:{port}",
            )

    run(test)


def test_a_rebalance_ends_a_question_and_releases_the_table() -> None:
    log = log_of(*WRITES)
    opened: list[MemoryView] = []

    async def test() -> None:
        class MovingView(MemoryView):
            def first_from(self, key: bytes) -> tuple[bytes, bytes] | None:
                opened.append(self)
                worker.ownership.revoke()
                return super().first_from(key)

        worker = Worker(log, view=MovingView)
        async with listening(worker):
            assert "is being moved" in (await worker.json("/v1/volumes/v/changed", 503))["what"]
            worker.ownership.assign([0])
        assert opened[0]._rows is None

    run(test)


def test_the_table_is_released_before_commands_are_replayed() -> None:
    log = log_of(*WRITES, flush=9)
    opened: list[MemoryView] = []
    held: list[bool] = []

    class RecordedView(MemoryView):
        def __init__(self, rows: Mapping[bytes, bytes]) -> None:
            super().__init__(rows)
            opened.append(self)

    async def test() -> None:
        worker = Worker(log, view=RecordedView)
        async with listening(worker):
            log.on_poll(lambda: held.append(any(view._rows is not None for view in opened)))
            assert (await worker.json("/v1/volumes/v/changed?since=@2&until=@5"))[
                "changed_blocks"
            ] > 0
        assert (len(opened), opened[0]._rows) == (1, None)
        assert held == [False] * len(held) != []

    run(test)


def test_a_question_without_a_free_slot_gets_503_until_a_client_goes() -> None:
    log = log_of(*WRITES)
    log.publish([command("0+1", sequence=9)])  # no node folds it: a question about now waits

    async def test() -> None:
        worker = Worker(log, query_limit=2, wait_s=600)
        async with listening(worker):
            waiting = [
                asyncio.create_task(worker.client.get("/v1/volumes/v/changed")) for _ in range(2)
            ]
            await until(lambda: len(worker.query_threads._taken) == 2)
            assert (
                "2 questions are being answered"
                in (await worker.json("/v1/volumes/v/changed", 503))["what"]
            )
            assert (await worker.json("/healthz"))["partitions"] == [0]
            for task in waiting:
                task.cancel()
            await until(lambda: not worker.query_threads._taken)
            assert (await worker.json("/v1/volumes/v/changed?until=@8"))["next"] is None

    run(test)


def test_a_listing_that_breaks_off_breaks_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_of(*WRITES)

    def broken(*_: object) -> Iterator[str]:
        yield "0 4096\n" * 20_000
        raise ValueError("planted")

    monkeypatch.setattr("mirrorlog.streams.web.handlers.render", broken)

    async def test() -> None:
        owner, other = Worker(log), Worker(log, active=[])
        async with listening(owner, other):
            for worker in (owner, other):
                with pytest.raises(Exception, match=r"payload|disconnected|reset"):
                    await worker.text("/v1/volumes/v/changed?format=extentlist")
            assert (await owner.json("/v1/volumes/v/changed"))["until"] == 8

    run(test)


def test_everything_about_volumes_requires_the_token() -> None:
    log = log_of(*WRITES)

    async def test() -> None:
        owner, other = (
            Worker(log, access=HttpAccess("sésame")),
            Worker(log, active=[], access=HttpAccess("sésame")),
        )
        async with listening(owner, other):
            correct = {"Authorization": "Bearer sésame"}
            for worker in (owner, other):
                for path in ("/v1/volumes", "/v1/volumes/v/changed"):
                    for wrong in (
                        {},
                        {"Authorization": "Bearer sesame"},
                        {"Authorization": "sésame"},
                    ):
                        assert (await worker.json(path, 401, **wrong))["code"] == "NotAllowed"
                    await worker.json(path, 200, **correct)
                await worker.json("/healthz", 200 if worker is owner else 503)

    run(test)


def test_metrics_are_served_to_who_has_the_token() -> None:
    async def test() -> None:
        worker = Worker(Log([volume()]), access=HttpAccess("secret"))
        async with listening(worker):
            assert (await worker.json("/metrics", 401))["code"] == "NotAllowed"
            for accept in ("", OPENMETRICS):
                headers = {"Authorization": "Bearer secret", "Accept": accept}
                async with worker.client.get("/metrics", headers=headers) as answer:
                    page = read_page(answer.headers["Content-Type"], await answer.text())
                assert page["mirrorlog_node_partitions"] == {("n",): 1}
                assert [labels[0] for labels in page["mirrorlog_build_info"]] == ["node"]

    run(test)


def test_volumes_come_in_pages() -> None:
    log = Log([volume(name) for name in "cab"])

    async def test() -> None:
        worker = Worker(log)
        async with listening(worker):
            first = await worker.json("/v1/volumes?limit=2")
            assert ([entry["volume"] for entry in first["volumes"]], first["next"]) == (
                ["a", "b"],
                "b",
            )
            second = await worker.json("/v1/volumes?limit=2&after=b")
            assert ([entry["volume"] for entry in second["volumes"]], second["next"]) == (
                ["c"],
                None,
            )

    run(test)


def test_the_description_matches_what_is_answered() -> None:
    log = log_of(*WRITES)
    schemas = openapi()["components"]["schemas"]

    async def test() -> None:
        worker = Worker(log)
        async with listening(worker):
            assert await worker.json("/openapi.json") == openapi()
            page = await worker.json("/v1/volumes/v/changed?limit=1")
            listed = await worker.json("/v1/volumes")
            for answer, name in (
                (page, "Page"),
                (listed, "Volumes"),
                (await worker.json("/healthz"), "Health"),
                (await worker.json("/v1/volumes/w/changed", 404), "Error"),
            ):
                assert sorted(answer) == sorted(schemas[name]["required"])
            described = schemas["Volumes"]["properties"]["volumes"]["items"]
            assert sorted(listed["volumes"][0]) == sorted(described["required"])
            parameters = [
                parameter["name"]
                for parameter in openapi()["paths"]["/v1/volumes/{volume}/changed"]["get"][
                    "parameters"
                ]
            ]
            allowed = (await worker.json("/v1/volumes/v/changed?x=1", 400))["next"]
            assert allowed == f"There are {', '.join(parameters[1:])}."
            text = await worker.text("/docs")
            assert "://" not in text.replace("<!doctype html>", "")
            async with worker.client.post("/v1/volumes") as answer:
                assert (answer.status, answer.headers["Allow"]) == (405, "GET")

    run(test)
