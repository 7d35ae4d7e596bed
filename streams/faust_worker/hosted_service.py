"""A service of the node as a part of the Faust worker: the same process, the same event loop."""

from __future__ import annotations

from mode import Service

from mirrorlog.streams.engine import EngineService


class HostedService(Service):
    """Starts and stops `service` with the worker. It serves while the worker recovers, too."""

    def __init__(self, service: EngineService) -> None:
        super().__init__()
        self._hosted = service

    async def on_start(self) -> None:
        """Begin to serve."""
        await self._hosted.start()

    async def on_stop(self) -> None:
        """Stop serving."""
        await self._hosted.stop()
