"""A line with a delay and a rate between two network namespaces of this machine, for benchmarks.

    namespace "near"                     delay_packets.py                      namespace "far"
    TUN device, tc-tbf(8)  <-------->   a process that delays   <-------->  TUN device, tc-tbf(8)

Each namespace has one TUN device (IP without Ethernet). A token bucket filter on the device limits
the rate at which packets leave it, each way for itself. The process takes each packet, keeps it for
the delay, and hands it to the other device. It keeps the order, drops nothing and has no bound, so
only the filters limit the rate. TCP sees a real round trip: its windows and its congestion control
work as on a long line, which a proxy of TCP connections would hide. netem does the same, but not
every kernel has it.

Packets cross in the size in which the kernel makes them, up to 64 KiB (TSO): a Python process can
carry a gigabit of these. The filters count each packet as the frames of MTU_BYTES into which a
network card would cut it, with the headers of each, and pace them so. The counters of the devices
count one header for all of these frames.

The namespaces have no names, and the devices belong to the process that delays. So none of them is
left when this process and those inside have ended.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pinned import ProgramFailed
from tool_commands import run_command

from mirrorlog.processes.dies_with_parent import dies_with_parent

NEAR, FAR = "10.201.7.1", "10.201.7.2"
MTU_BYTES: Final = 1500
DEVICE: Final = "line"
_THREAD_NAMESPACE: Final = "/proc/thread-self/ns/net"
_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0  # linux/if_tun.h, these and the next ones
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02
_BURST: Final = "128k"
"""Of the filter: one packet must fit."""
_QUEUE: Final = "16m"


@dataclass(frozen=True, slots=True)
class Counters:
    """What has crossed the line, both ways together.

    device_bytes: as the devices count it. frame_bytes: with a header for each frame of MTU_BYTES.
    """

    device_bytes: int
    frame_bytes: int

    def __sub__(self, other: Counters) -> Counters:
        return Counters(
            self.device_bytes - other.device_bytes, self.frame_bytes - other.frame_bytes
        )


class Namespace:
    """A network namespace with a loopback. It lasts as long as this object, or what runs in it."""

    def __init__(self) -> None:
        """Create it. OSError without the right to do so (CAP_SYS_ADMIN)."""
        with _back_here():
            _check(ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET))
            self._fd: Final = os.open(_THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
            _run("ip", "link", "set", "lo", "up")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let this thread be inside, and whatever process or thread it starts meanwhile."""
        with _back_here():
            _enter(self._fd)
            yield

    def close(self) -> None:
        """Give it up. It lasts until the last process inside has ended."""
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class SlowLink:
    """Two namespaces whose devices, DEVICE, have the addresses NEAR and FAR."""

    near: Namespace
    far: Namespace

    def counters(self) -> Counters:
        """Return what has crossed the line so far."""
        device_bytes = frame_bytes = 0
        for end in (self.near, self.far):
            with end.entered():
                device_bytes += _sent_bytes()
                frame_bytes += _frame_bytes()
        return Counters(device_bytes, frame_bytes)


@contextmanager
def slow_link(*, round_trip_s: float, rate_bits_s: int) -> Iterator[SlowLink]:
    """Give a line. Half of the round trip's time is spent each way. Raise ProgramFailed."""
    with ExitStack() as cleanup:
        link = SlowLink(Namespace(), Namespace())
        cleanup.callback(link.near.close)
        cleanup.callback(link.far.close)
        devices = []
        for end, address, peer in ((link.near, NEAR, FAR), (link.far, FAR, NEAR)):
            with end.entered():
                devices.append(_open_device())
                cleanup.callback(os.close, devices[-1])
                _run("ip", "link", "set", DEVICE, "mtu", str(MTU_BYTES), "txqueuelen", "10000")
                _run("ip", "address", "add", address, "peer", peer, "dev", DEVICE)
                _run("ip", "link", "set", DEVICE, "up")
                limits = ("rate", f"{rate_bits_s}bit", "burst", _BURST, "limit", _QUEUE)
                _run("tc", "qdisc", "add", "dev", DEVICE, "root", "tbf", *limits)
        program = [sys.executable, "-I", "-S", str(Path(__file__).with_name("delay_packets.py"))]
        process = subprocess.Popen(
            dies_with_parent([*program, str(round_trip_s / 2), *map(str, devices)]),
            pass_fds=devices,
            stdin=subprocess.DEVNULL,
        )
        # It stands for a wire, which doesn't wait until the programs at its ends leave it a CPU.
        os.setpriority(os.PRIO_PROCESS, process.pid, -20)
        try:
            yield link
            if process.poll() is not None:
                raise ProgramFailed("the process that delays has ended")
        finally:
            process.kill()
            process.wait()


def _open_device() -> int:
    """Create the device DEVICE in this thread's namespace, for packets of up to 64 KiB."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), flags))
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _sent_bytes() -> int:
    """Return how many bytes DEVICE of this thread's namespace has sent."""
    for line in Path("/proc/thread-self/net/dev").read_text("ascii").splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == DEVICE:
            return int(counts.split()[8])
    raise ProgramFailed(f"there is no device {DEVICE}")


def _frame_bytes() -> int:
    filters = json.loads(_run("tc", "-s", "-j", "qdisc", "show", "dev", DEVICE))
    return int(filters[0]["bytes"])


def _run(*command: str) -> str:
    """Run a command in this thread's namespace; return what it prints. Raise ProgramFailed."""
    try:
        return run_command(command)
    except FileNotFoundError:
        raise ProgramFailed(f"{command[0]} isn't installed: apt install iproute2") from None


@contextmanager
def _back_here() -> Iterator[None]:
    """Return this thread to the namespace in which it is now."""
    here = os.open(_THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        _enter(here)
        os.close(here)


def _enter(namespace: int) -> None:
    _check(ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET))


def _check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
