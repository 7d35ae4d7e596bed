"""The forks of open volumes, as the write tracker drives them (producers/forks)."""

from __future__ import annotations

from functools import partial

from mirrorlog.errors import DeviceFailed
from mirrorlog.producers.forks.fork_calls import ForkPorts
from mirrorlog.producers.forks.fork_plans import ForkPlan
from mirrorlog.producers.forks.forked_secondary import ForkContext
from mirrorlog.producers.forks.forked_volume import ForkedVolume
from mirrorlog.producers.writes.batch_sending import send_batch
from mirrorlog.producers.writes.open_batch import collect_ended, end_forked_writes
from mirrorlog.producers.writes.tracker_state import OpenVolume, TrackerState


def attach_forks(state: TrackerState, opened: OpenVolume, plan: ForkPlan, ports: ForkPorts) -> None:
    """Send the writes of the volume to these secondaries, too. Call it with the lock held.

    Nothing may have been written to the volume yet.
    """
    context = ForkContext(
        ports=ports,
        lock=state.lock,
        clock=state.clock,
        settings=state.settings,
        report=state.report,
        on_outcomes_known=partial(end_forked_writes, state, opened),
    )
    position = state.outbox.last_positions.get(opened.name, -1)
    opened.forks = ForkedVolume(
        opened.volume, plan, context, opened.lock_free, known_position=position
    )
    state.forked[opened.name] = opened


def advance_all_forks(state: TrackerState, now_s: float) -> None:
    """Do what is due at the secondaries. Call it without the lock.

    A batch leaves as soon as it is known what became of its writes at the secondaries.
    """
    for opened in list(state.forked.values()):
        forks = opened.forks
        if forks is None:
            continue
        forks.poll(now_s)
        with state.lock:
            collect_ended(state, opened)
            position = state.outbox.last_positions.get(opened.name, -1)
            forks.tick(now_s, position, state.outbox.is_acknowledged)
            if forks.take_batch_due() and opened.batch:
                send_batch(state, opened)


def settle_all_forks(state: TrackerState) -> None:
    """Wait until the outcomes of all writes that ended before are known; hung calls are left out.

    Call it with the lock held.
    """
    for opened in list(state.forked.values()):
        if opened.forks is not None:
            collect_ended(state, opened)
            opened.forks.settle()


def wait_until_forks_idle(state: TrackerState, opened: OpenVolume, forks: ForkedVolume) -> None:
    """Wait until no write of the volume is in flight. Call it with the lock held.

    None of them is on its way to the primary. If hung calls keep writes in flight until the
    deadline, the volume fails.
    """
    until_s: float | None = None
    while opened.in_flight:
        forks.settle()
        if not opened.in_flight or not forks.are_hung(opened.in_flight.values()):
            forks.wait()
            continue
        if until_s is None:
            until_s = state.clock.monotonic_s() + state.outbox.deadline_s
            state.report(
                f"volume {opened.name} waits for writes to a secondary that haven't returned"
            )
        if state.clock.monotonic_s() >= until_s:
            error = DeviceFailed(
                "a write to a secondary hasn't returned, so the session can't be closed",
                where=f"volume {opened.name}",
                next="Look at the secondary. When the host starts again, what may be unpublished "
                "is published as dirty.",
            )
            state.fail(opened, error)
            return
        forks.wait()


def close_all_forks(state: TrackerState) -> None:
    """Let no call to a secondary begin any more. Call it with the lock held."""
    for opened in state.forked.values():
        if opened.forks is not None:
            opened.forks.close()
