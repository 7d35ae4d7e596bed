"""What `mirrorlog verify` makes of a report: its exit code, its text, and where it goes on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from notation import volume
from reports import GENERATION

from mirrorlog.cli.commands import verify
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.output import Output
from mirrorlog.cli.support.verify_view import failure_of, print_report
from mirrorlog.consumers.verify.schedule import VerifySchedule
from mirrorlog.consumers.verify.verifier import VerificationAborted, VerifyOptions
from mirrorlog.domain.verifications import ByteRange, VerificationReport, VerificationState
from mirrorlog.errors import ExitCode, exit_code_of
from mirrorlog.settings import load_settings

VOLUME = volume("v")
EQUAL = VerificationReport(
    verification=GENERATION,
    site="a",
    volume="v",
    generation=VOLUME.generation,
    state=VerificationState.FINISHED,
    algorithm="XXH3_128",
    primary_reader="SITE",
    size_bytes=VOLUME.size_bytes,
    range_bytes=1 << 20,
    started_at_us=5,
    at_us=7,
    reached_bytes=VOLUME.size_bytes,
    confirmed_bytes=VOLUME.size_bytes,
)
DIFFERENT = replace(EQUAL, different_blocks=9, different=(ByteRange(0, 4096),) * 9)
SKIPPED = replace(
    EQUAL,
    confirmed_bytes=VOLUME.size_bytes - 4096,
    skipped_bytes=4096,
    skipped=(ByteRange(4096, 4096),),
    reason="it changed during each attempt",
)
ABORTED = replace(EQUAL, state=VerificationState.ABORTED, confirmed_bytes=0, reached_bytes=0)
RUNNING = replace(ABORTED, state=VerificationState.RUNNING)


@pytest.mark.parametrize(
    ("report", "code", "text"),
    [
        (DIFFERENT, ExitCode.DIFFERENCE_FOUND, "--repair"),
        (replace(DIFFERENT, repaired_blocks=9), ExitCode.DIFFERENCE_FOUND, "Find out why"),
        (replace(DIFFERENT, repaired_blocks=8), ExitCode.DIFFERENCE_FOUND, "--repair"),
        (SKIPPED, ExitCode.FAILED, "4096 bytes could not be judged: it changed during each"),
    ],
)
def test_what_is_not_equal_is_an_error_with_a_way_out(
    report: VerificationReport, code: ExitCode, text: str
) -> None:
    failure = failure_of(report)
    assert failure is not None
    assert exit_code_of(failure) is code
    assert text in str(failure)


def test_equal_is_no_error() -> None:
    assert failure_of(EQUAL) is None


def test_the_report_is_printed_for_people_and_for_programs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_report(Output(json=True), replace(DIFFERENT, hashed_again=3))
    print_report(Output(json=True), SKIPPED)
    printed = capsys.readouterr()
    different, skipped = (json.loads(line) for line in printed.out.splitlines())
    assert (different["message_type"], different["result"]) == ("result", "9 blocks differ")
    assert different["different"][0] == {"offset": 0, "length": 4096}
    assert (different["confirmed_bytes"], different["hashed_again"]) == (VOLUME.size_bytes, 3)
    assert "confirmed, 3 times hashed again because the log named a change" in printed.err
    assert (skipped["is_equal"], skipped["skipped_bytes"]) == (False, 4096)
    assert "different: 0+4096, 0+4096" in printed.err
    assert "and 4 more ranges" in printed.err
    assert "reason: it changed during each attempt" in printed.err


CALL = Invocation(load_settings(None, {}), Output(), verbose=False)
OPTIONS = VerifyOptions(volume=VOLUME, site="a")


@pytest.mark.parametrize(
    ("report", "goes_on"),
    [
        (None, False),
        (EQUAL, False),
        (DIFFERENT, False),
        (SKIPPED, True),
        (ABORTED, True),
        (RUNNING, True),
        (replace(ABORTED, generation="99999999-9999-4999-8999-999999999999"), False),
        (replace(ABORTED, size_bytes=4096), False),
    ],
)
def test_a_run_goes_on_where_one_of_the_same_volume_was_cut_short(
    report: VerificationReport | None, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "last_report", lambda *_: report)
    assert verify._earlier(CALL, OPTIONS) == (report if goes_on else None)


def test_a_schedule_goes_on_after_errors_and_continues_what_was_cut_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[VerificationReport | None] = []
    results = iter([VerificationAborted("Kafka is away", next="Wait."), DIFFERENT, EQUAL])
    left = 3

    def run(*arguments: object) -> VerificationReport:
        nonlocal left
        left -= 1
        given.append(arguments[2])  # type: ignore[arg-type]
        result = next(results)
        if isinstance(result, VerificationAborted):
            raise result
        return result

    last = iter([None, ABORTED, EQUAL])
    monkeypatch.setattr(verify, "_run", run)
    monkeypatch.setattr(verify, "last_report", lambda *_: next(last))
    monkeypatch.setattr(verify, "find_volume", lambda *_: VOLUME)
    verify._repeat(CALL, OPTIONS, VerifySchedule(pause_s=1e-6), False, lambda: left == 0)
    assert given == [None, ABORTED, None]
    printed = capsys.readouterr().err
    assert "Kafka is away" in printed and "9 blocks differ" in printed
