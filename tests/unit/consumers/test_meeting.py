"""What a site concludes from what it finds at the address of a secondary, one case on a line."""

from __future__ import annotations

from itertools import product

import pytest
from notation import volume

from mirrorlog.consumers.resync.meeting import MeetingStep, forgotten, meet, resumed
from mirrorlog.consumers.resync.secondaries import FoundDevice, FoundSecondary
from mirrorlog.consumers.state.secondary_state import SecondaryIdentity, SecondaryState
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.ports.devices import DeviceIdentity

IDS = {"X": "00000000-0000-4000-8000-00000000000a", "Y": "00000000-0000-4000-8000-00000000000b"}
OURS = SecondaryMark(secondary_id=IDS["X"], site="a", volume="v")

# saved: - nothing, ! damaged, old (of a release without marks), or ID/epoch/size
# found: nothing, or size@device, 0 if all of it is zeros; P is the primary's device
# mark: - none, ! damaged, or ID/epoch, site:volume if it isn't ours; primary:volume is no mark of a
# secondary
# The volume has 100 bytes.
CASES = """
-       | nothing  | -        | CREATE
-       | nothing  | X/0      | REFUSE             gone
-       | nothing  | X/4      | REFUSE             gone
-       | nothing  | b:v      | REFUSE             gone
-       | nothing  | !        | REFUSE             gone
!       | nothing  | -        | REFUSE             gone
old     | nothing  | -        | REFUSE             gone
X/4/100 | nothing  | -        | REFUSE             gone
X/4/100 | nothing  | X/4      | REFUSE             gone
-       | 100@d0   | -        | FIRST_USE
-       | 50@d0    | -        | FIRST_USE
-       | 50@d0    | X/0      | FIRST_USE
-       | 100@d0   | X/0      | FIRST_USE
-       | 200@d0   | -        | FIRST_USE
-       | 100@d    | -        | START_OVER         nothing is known
-       | 100@d    | X/0      | START_OVER         nothing is known
-       | 100@d    | X/4      | START_OVER         nothing is known
-       | 100@d0   | X/4      | START_OVER         nothing is known
-       | 50@d     | -        | REFUSE_AND_FORGET  50 bytes
-       | 50@d0    | X/4      | REFUSE_AND_FORGET  50 bytes
!       | 100@d0   | -        | START_OVER         nothing is known
!       | 50@d0    | -        | REFUSE_AND_FORGET  50 bytes
!       | 100@d    | X/4      | START_OVER         nothing is known
-       | 100@d0   | b:v      | REFUSE             volume v at site b
-       | 100@d0   | a:w      | REFUSE             volume w at site a
X/4/100 | 100@d    | b:v      | REFUSE             volume v at site b
X/4/100 | 100@d    | !        | REFUSE             damaged
-       | 100@d0   | !        | REFUSE             damaged
-       | 100@P    | -        | REFUSE             primary
-       | 50@P     | -        | REFUSE             primary
X/4/100 | 100@P    | X/4      | REFUSE             primary
-       | 100@d0   | primary:w | REFUSE            primary of volume w
X/4/100 | 100@d    | primary:v | REFUSE            primary of volume v
old     | 100@d    | -        | ADOPT              marked now
old     | 100@d0   | -        | ADOPT              marked now
old     | 100@d    | X/0      | ADOPT              marked now
old     | 100@d    | X/1      | START_OVER         state is older
old     | 50@d     | -        | REFUSE_AND_FORGET  50 bytes
X/4/100 | 100@d    | X/4      | SAME
X/4/50  | 100@d    | X/4      | SAME
X/4/200 | 100@d    | X/4      | SAME
X/4/100 | 200@d    | X/4      | SAME
X/4/50  | 50@d     | X/4      | GROW
X/4/50  | 50@d0    | X/4      | GROW
X/4/60  | 50@d     | X/4      | REFUSE_AND_FORGET  50 bytes
X/4/50  | 60@d     | X/4      | REFUSE_AND_FORGET  60 bytes
X/4/100 | 0@d0     | X/4      | REFUSE_AND_FORGET  0 bytes
X/4/50  | 50@d     | X/5      | REFUSE_AND_FORGET  50 bytes
X/4/100 | 100@d    | -        | START_OVER         mark is gone
X/4/100 | 100@d0   | -        | START_OVER         mark is gone
X/4/100 | 100@d    | Y/4      | START_OVER         another secondary
X/4/100 | 100@e    | X/4      | START_OVER         another file or device
X/4/100 | 100@d    | X/5      | RESUME
X/4/100 | 100@d    | X/6      | START_OVER         state is older than the secondary: 2 cycles
X/4/100 | 100@d    | X/3      | START_OVER         gone back in time: it lacks 1 cycles
X/4/100 | 100@d    | X/0      | START_OVER         gone back in time: it lacks 4 cycles
"""


def saved_of(text: str) -> SecondaryState | None:
    if text in ("-", "!"):
        return None
    state = SecondaryState("v", volume().generation, applied_position=7)
    if text == "old":
        return state
    id_, epoch, size = text.split("/")
    identity = SecondaryIdentity(
        secondary_id=IDS[id_], epoch=int(epoch), size_bytes=int(size), lasting="d"
    )
    return SecondaryState("v", volume().generation, applied_position=7, identity=identity)


def found_of(device: str, mark: str) -> FoundSecondary:
    present = None
    if device != "nothing":
        size, name = device.split("@")
        identity = DeviceIdentity(storage=name.rstrip("0"), lasting=name.rstrip("0"))
        present = FoundDevice(size_bytes=int(size), identity=identity, is_zeroed=name[-1] == "0")
    if mark in ("-", "!"):
        return FoundSecondary(device=present, mark_damage="damaged" if mark == "!" else None)
    if mark.startswith("primary:"):
        return FoundSecondary(device=present, primary_of=mark.removeprefix("primary:"))
    left, middle, right = mark.partition("/")
    if not middle:
        site, _, name = mark.partition(":")
        return FoundSecondary(
            device=present, mark=SecondaryMark(secondary_id=IDS["X"], site=site, volume=name)
        )
    return FoundSecondary(
        device=present,
        mark=SecondaryMark(secondary_id=IDS[left], site="a", volume="v", epoch=int(right)),
    )


PRIMARY = FoundDevice(
    size_bytes=100, identity=DeviceIdentity(storage="P", lasting="P"), is_zeroed=False
)


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_meet(case: str) -> None:
    saved, device, mark, expected = (part.strip() for part in case.split("|"))
    meeting = meet(
        OURS,
        volume(size_bytes=100),
        saved_of(saved),
        found_of(device, mark),
        primary=PRIMARY,
        is_state_damaged=saved == "!",
    )
    step, _, reason = expected.partition(" ")
    assert meeting.step.name == step
    assert reason.strip() in meeting.reason


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_a_seed_is_met_as_others_are_but_it_is_never_created(case: str) -> None:
    saved, device, mark, expected = (part.strip() for part in case.split("|"))
    meeting = meet(
        OURS,
        volume(size_bytes=100),
        saved_of(saved),
        found_of(device, mark),
        primary=PRIMARY,
        is_state_damaged=saved == "!",
        has_seed=True,
    )
    expected = expected.replace("CREATE", "REFUSE no seed")
    step, _, reason = expected.partition(" ")
    assert meeting.step.name == step
    assert reason.strip() in meeting.reason


def test_what_is_never_done_whatever_is_found() -> None:
    """All combinations: nothing used is created, grown or taken for known without proof."""
    devices = ["nothing", *(f"{size}@{name}" for size in (0, 50, 100, 200) for name in "deP")]
    devices += [f"{device}0" for device in devices[1:]]
    saves = ["-", "!", "old", *(f"X/4/{size}" for size in (50, 100, 200))]
    marks = ["-", "!", "b:v", "a:w", *(f"{id_}/{epoch}" for id_ in "XY" for epoch in (0, 3, 4, 5))]
    for saved, device, mark in product(saves, devices, marks):
        present, state = found_of(device, mark), saved_of(saved)
        step = meet(
            OURS,
            volume(size_bytes=100),
            state,
            present,
            primary=PRIMARY,
            is_state_damaged=saved == "!",
        ).step
        is_refused = step in (MeetingStep.REFUSE, MeetingStep.REFUSE_AND_FORGET)
        case = f"{saved} | {device} | {mark}: {step}"
        if "P" in device or mark in ("!", "b:v", "a:w"):
            assert is_refused, case
        if device == "nothing":
            assert is_refused or (step is MeetingStep.CREATE and (saved, mark) == ("-", "-")), case
        if present.device is not None and present.device.size_bytes < 100 and not is_refused:
            was_used = saved != "-" or mark not in ("-", "X/0", "Y/0")
            if was_used or not present.device.is_zeroed:
                assert step is MeetingStep.GROW and saved == f"X/4/{present.device.size_bytes}", (
                    case
                )
        if step in (MeetingStep.SAME, MeetingStep.GROW):
            assert mark == "X/4" and "@d" in device and saved.startswith("X/4"), case
        if step is MeetingStep.RESUME:
            assert mark == "X/5" and "@d" in device and saved.startswith("X/4"), case


def test_without_serial_numbers_the_mark_alone_decides() -> None:
    identity = SecondaryIdentity(secondary_id=IDS["X"], epoch=4, size_bytes=100, lasting=None)
    device = FoundDevice(
        size_bytes=100, identity=DeviceIdentity(storage="disk 7:1"), is_zeroed=False
    )
    meeting = meet(
        OURS,
        volume(size_bytes=100),
        SecondaryState("v", volume().generation, applied_position=7, identity=identity),
        FoundSecondary(
            device=device,
            mark=SecondaryMark(secondary_id=IDS["X"], site="a", volume="v", epoch=4),
        ),
        primary=None,
        is_state_damaged=False,
    )
    assert meeting.step is MeetingStep.SAME


def test_a_resumed_secondary_claims_nothing_and_a_forgotten_one_less() -> None:
    saved = saved_of("X/4/100")
    assert saved is not None
    state = resumed(
        SecondaryState(
            "v", saved.generation, 7, consistent_position=7, identity=saved.identity, rung=None
        ),
        5,
    )
    assert (state.applied_position, state.consistent_position, state.cycle_through) == (7, None, 7)
    assert state.identity is not None and state.identity.epoch == 5
    unfinished = resumed(SecondaryState("v", saved.generation, identity=saved.identity), 5)
    assert (unfinished.applied_position, unfinished.cycle_through) == (None, None)
    assert forgotten(volume(), saved, saved.identity).applied_position is None
