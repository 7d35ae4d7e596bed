"""Tells systemd how a service does: sd_notify(3), a datagram of lines NAME=VALUE.

The protocol is stable (https://systemd.io/PORTABILITY_AND_STABILITY/) and takes less code than a
dependency would take words. Sockets of vsock, which only virtual machines have, aren't supported.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

from mirrorlog.ports.clock import Clock, SystemClock
from mirrorlog.ports.supervisor import NoSupervisor, Supervisor
from mirrorlog.settings import take_service_environment

_MAX_STATUS: Final = 500
_SEND_S: Final = 1.0
"""A datagram waits so long for room in systemd's queue, and is then dropped."""


class SystemdSupervisor:
    """Sends datagrams to the socket of the service manager. One thread calls it at a time.

    address: a path, or a name in the abstract namespace, which begins with @.
    watchdog_s: if the manager hears nothing for so long, it ends the service. None: it has no
        watchdog. Signs of life are sent four times as often at most.
    """

    def __init__(self, address: str, watchdog_s: float | None, clock: Clock) -> None:
        self._address: Final = f"\0{address[1:]}" if address.startswith("@") else address
        self._pause_s: Final = None if watchdog_s is None else watchdog_s / 4
        self._clock: Final = clock
        self._is_ready = self._is_stopping = False
        self._status = ""
        self._alive_at_s = float("-inf")

    def starting(self, status: str, *, within_s: float) -> None:
        """Do as Supervisor says."""
        if not self._is_ready:
            self._status = _line(status)
            self._send(f"EXTEND_TIMEOUT_USEC={round(within_s * 1e6)}", f"STATUS={self._status}")

    def ready(self, status: str) -> None:
        """Do as Supervisor says."""
        if self._is_ready:
            self.tell(status)
            return
        self._is_ready, self._status = True, _line(status)
        self._send("READY=1", f"STATUS={self._status}")

    def tell(self, status: str) -> None:
        """Do as Supervisor says."""
        if (line := _line(status)) != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def alive(self) -> None:
        """Do as Supervisor says."""
        if self._pause_s is None:
            return
        now_s = self._clock.monotonic_s()
        if now_s - self._alive_at_s >= self._pause_s:
            self._alive_at_s = now_s
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Do as Supervisor says."""
        if not self._is_stopping:
            self._is_stopping = True
            self._send("STOPPING=1", "STATUS=stopping")

    def _send(self, *lines: str) -> None:
        with (
            suppress(OSError),  # the manager is restarted, or isn't there any more
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
        ):
            sender.settimeout(_SEND_S)
            sender.connect(self._address)
            sender.send("\n".join(lines).encode("utf-8", "replace"))


def open_supervisor() -> Supervisor:
    """Return the service manager that started this process; NoSupervisor if none did.

    Call it once in a process: child processes no longer find the manager after that.
    """
    environment = take_service_environment()
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return NoSupervisor()
    is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    period_us = environment.get("WATCHDOG_USEC", "")
    has_watchdog = is_ours and period_us.isdecimal() and int(period_us) > 0
    return SystemdSupervisor(address, int(period_us) / 1e6 if has_watchdog else None, SystemClock())


def _line(text: str) -> str:
    return " ".join(text.split())[:_MAX_STATUS]
