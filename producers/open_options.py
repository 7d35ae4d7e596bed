"""The options with which open_volume() and TrackedVolume.open() open a volume."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypedDict


class OpenOptions(TypedDict, total=False):
    """The options of open_volume().

    host: the name of the host, which keeps its state under it. Default: default_host_name().
    primary: where this machine reaches the primary, if not at the described address.
    direct: open the primary with O_DIRECT, past the page cache.
    take_over: sessions of other hosts that are gone for good. The whole volume becomes dirty.
    report: called with each line that people should read. Default: the logger `mirrorlog.host`.
    forks: the secondaries that each write goes to as well, each SITE or SITE=URI.
    fork_mode: sync, async (the default) or 'quorum N' (docs/forked-writes.md).
    """

    host: str
    primary: str
    direct: bool
    take_over: Collection[str]
    report: Callable[[str], None]
    forks: Sequence[str]
    fork_mode: str
