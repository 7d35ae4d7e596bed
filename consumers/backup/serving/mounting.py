"""Mounts what an NBD export serves, read-only, until it is closed.

Linux mounts block devices. nbdfuse (of libnbd) makes a file of the export, and a loop device makes
a block device of the file: that needs root and FUSE, and no module for NBD in the kernel.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

from mirrorlog.errors import BadInput, BadUse, PartFailed
from mirrorlog.json_text import parse_json

_GUARD: Final = Path(__file__).with_name("mount_guard.py")
_TOOLS: Final = {
    "nbdfuse": "libnbd-bin",
    "losetup": "mount",
    "sfdisk": "fdisk",
    "mount": "mount",
    "umount": "mount",
    "fusermount3": "fuse3",
}
"""The programs, and the packages of Debian and Ubuntu that bring them."""
_SAFE: Final = "nosuid,nodev"
BY_HAND: Final = (
    "By hand, where the kernel has the module nbd: `modprobe nbd`, `qemu-nbd --read-only "
    "--connect=/dev/nbd0 POINT.qcow2`, `mount -o ro /dev/nbd0 FOLDER`. Without root: `guestmount "
    "-a POINT.qcow2 -i --ro FOLDER`, or `mirrorlog restore VOLUME files`."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRequest:
    """What to mount, and where: as mount_guard.main says.

    target: a folder that is there and empty. work: an empty folder. options: of mount(8).
    """

    uri: str
    target: str
    work: str
    partition: int | None = None
    options: str = ""
    busy_s: float = 10.0
    left: Sequence[str] = ()


def missing_for_mount() -> list[str]:
    """Return what this machine or this user lacks, in words; nothing if all is there."""
    lacking = []
    if os.geteuid() != 0:
        lacking.append("mounting needs root")
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not Path(device).exists():
            lacking.append(f"{device} isn't there (modprobe {device.split('/')[2].split('-')[0]})")
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            lacking.append(f"{tool} isn't installed (apt install {package})")
    return lacking


def check_mountable(target: Path) -> None:
    """Raise BadUse if nothing can be mounted here: what is missing, or what the folder lacks."""
    if lacking := missing_for_mount():
        raise BadUse(f"nothing can be mounted: {'; '.join(lacking)}", next=BY_HAND)
    if not target.is_dir() or any(target.iterdir()) or target.is_mount():
        raise BadUse("the folder must be there, and empty", where=str(target), next="Make one.")


class MountedPoint:
    """A mount, until close(). It is unmounted, too, when this process is killed."""

    def __init__(self, request: MountRequest, *, command: Sequence[str] | None = None) -> None:
        """Mount. command: the guard's; None: mount_guard.py.

        Raise BadInput if what is there can't be mounted, PartFailed if the guard ends.
        """
        request_text = json.dumps(
            {**asdict(request), "options": ",".join(filter(None, (_SAFE, request.options)))}
        )
        guard = command or (sys.executable, "-I", str(_GUARD))
        self._target: Final = Path(request.target)
        self._work: Final = Path(request.work)
        self._process: Final = subprocess.Popen(
            [*guard, request_text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: Final[IO[bytes]] = self._process.stdin
        self._stdout: Final[IO[bytes]] = self._process.stdout
        try:
            error = self._answer("error")
        except BaseException:
            self.close()
            raise
        if error is not None:
            self.close()
            raise BadInput(
                f"the file system can't be mounted: {error}",
                where=request.target,
                next="Name the partition (--partition) if there are several, and look at the file "
                "system's options for mount(8) (--options). XFS with the identity of one that is "
                "mounted needs nouuid.",
            )

    @property
    def pid(self) -> int:
        """The process id of the guard."""
        return self._process.pid

    @property
    def is_mounted(self) -> bool:
        """Whether the mount is there. Somebody may have unmounted it."""
        return self._target in _mounts()

    def check(self) -> None:
        """Raise PartFailed if the guard, or what it needs, has ended by itself."""
        if self._process.poll() is not None:
            raise PartFailed(
                "the process that mounted the point has ended",
                where=str(self._target),
                next="Read its message above, then start this command again.",
            )

    def close(self) -> bool:
        """Unmount. Return whether somebody uses the mount still, which is detached then."""
        is_left = False
        with suppress(BrokenPipeError):
            self._stdin.close()
        with suppress(PartFailed):
            is_left = bool(self._answer("left"))
        self._process.wait()
        self._stdout.close()
        for path in (self._target, self._work):
            if path in _mounts():  # the guard was killed
                subprocess.run(["umount", "--lazy", str(path)], check=False)
                is_left = True
        return is_left

    def _answer(self, key: str) -> Any:
        for line in self._stdout:
            fields = parse_json(line)
            if key in fields:
                return fields[key]
        raise PartFailed("the process that mounts the point ended", where=str(self._target))


def _mounts() -> set[Path]:
    """Return where something is mounted. A mount whose server died can't be asked itself."""
    lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    return {Path(_unescaped(line.split(" ")[4])) for line in lines}


def _unescaped(path: str) -> str:
    r"""Return a path of mountinfo, in which octal numbers stand for spaces: `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
