"""The state store of a site in memory: the double of SecondaryStateFiles, with a power switch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final, TypeAlias

from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.consumers.state.state_files import decode_state, encode_state
from mirrorlog.domain.volumes import check_volume_name

StateHook: TypeAlias = Callable[[str, str], None]
"""Called with (step, volume) before each step of a save: "write", "rename", "sync"; it may raise."""


class MemorySecondaryStates:
    """SecondaryStateStore in memory, with the steps of the files: `contents` is what load() finds, by volume."""

    def __init__(self) -> None:
        self.contents: Final[dict[str, bytes]] = {}
        self._durable: dict[str, bytes] = {}
        self.hook: StateHook | None = None

    def load(self, volume: str) -> SecondaryState | None:
        content = self.contents.get(check_volume_name(volume))
        return None if content is None else decode_state(content, volume, f"memory, {volume}")

    def save_all(self, states: Sequence[SecondaryState]) -> None:
        for state in states:
            self.save(state)

    def save(self, state: SecondaryState) -> None:
        content = encode_state(state)
        self._before("write", state.volume)
        self._before("rename", state.volume)
        self.contents[state.volume] = content
        self._before("sync", state.volume)
        self._durable[state.volume] = content

    def crash(self, keep: Random | None = None) -> None:
        """Power off, power on: a save that didn't return is gone or, with `keep`, may have got through by its draw."""
        if keep is not None:
            self._durable |= {
                volume: content for volume, content in self.contents.items() if keep.getrandbits(1)
            }
        self.contents.clear()
        self.contents.update(self._durable)

    def _before(self, step: str, volume: str) -> None:
        if self.hook is not None:
            self.hook(step, volume)
