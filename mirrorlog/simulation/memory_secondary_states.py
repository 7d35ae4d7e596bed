"""SecondaryStateStore in memory, which can lose power between any two steps of a save."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final, TypeAlias

from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.consumers.state.state_files import decode_state, encode_state
from mirrorlog.domain.volumes import check_volume_name

StateHook: TypeAlias = Callable[[str, str], None]
"""Called with (step, volume) before each step of a save. It may raise.

The steps are "write", "rename" and "sync"."""


class MemorySecondaryStates:
    """A double of SecondaryStateFiles with the same steps.

    contents: by volume, the bytes that load() reads. A test may change them.
    hook: called before each step of a save.
    """

    def __init__(self) -> None:
        self.contents: Final[dict[str, bytes]] = {}
        self._durable: dict[str, bytes] = {}
        self._decoded: dict[str, tuple[bytes, SecondaryState]] = {}
        self.hook: StateHook | None = None

    def load(self, volume: str) -> SecondaryState | None:
        """Return the state that was saved last; raise StateDamaged as the files do."""
        content = self.contents.get(check_volume_name(volume))
        if content is None:
            return None
        known, state = self._decoded.get(volume, (b"", None))
        if state is None or known != content:
            state = decode_state(content, volume, f"memory, {volume}")
            self._decoded[volume] = (content, state)
        return state

    def save_all(self, states: Sequence[SecondaryState]) -> None:
        """Save each state."""
        for state in states:
            self.save(state)

    def save(self, state: SecondaryState) -> None:
        """Save a state. It survives a crash once this has returned."""
        content = encode_state(state)
        self._before("write", state.volume)
        self._before("rename", state.volume)
        self.contents[state.volume] = content
        self._before("sync", state.volume)
        self._durable[state.volume] = content

    def crash(self, keep: Random | None = None) -> None:
        """Switch the power off and on: saves that didn't return are lost.

        keep: draws which of those survive all the same.
        """
        if keep is not None:
            self._durable |= {
                volume: content for volume, content in self.contents.items() if keep.getrandbits(1)
            }
        self.contents.clear()
        self.contents.update(self._durable)

    def restore(self, volume: str, content: bytes | None) -> None:
        """Put back what load() reads, durably, as a restored folder does; None removes it."""
        for contents in (self.contents, self._durable):
            contents.pop(volume, None)
            if content is not None:
                contents[volume] = content

    def _before(self, step: str, volume: str) -> None:
        if self.hook is not None:
            self.hook(step, volume)
