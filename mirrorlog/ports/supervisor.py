"""The port to what runs a role as a service, and restarts it if it no longer works.

mirrorlog.adapters.systemd implements it.
"""

from __future__ import annotations

from typing import Protocol


class Supervisor(Protocol):
    """Is told by a role how it does. No call raises, and none waits for long.

    Texts are for people, one line each.
    """

    def starting(self, status: str, *, within_s: float) -> None:
        """Say that the role is still starting, and will say more within so many seconds."""
        ...

    def ready(self, status: str) -> None:
        """Say that the role works now. Later calls only change the text."""
        ...

    def tell(self, status: str) -> None:
        """Say how the role does. A text that was said last isn't said again."""
        ...

    def alive(self) -> None:
        """Say that the role has just made progress. Call it as often as you like.

        Never call it by a clock alone: a role that hangs must fall silent, to be restarted.
        """
        ...

    def stopping(self) -> None:
        """Say, once, that the role ends in good order."""
        ...


class NoSupervisor:
    """A Supervisor that nobody listens to."""

    def starting(self, status: str, *, within_s: float) -> None:
        """Do nothing."""

    def ready(self, status: str) -> None:
        """Do nothing."""

    def tell(self, status: str) -> None:
        """Do nothing."""

    def alive(self) -> None:
        """Do nothing."""

    def stopping(self) -> None:
        """Do nothing."""
