"""What every command that runs a host needs."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack

from mirrorlog.adapters.file_device import FileDevice, open_primary
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.producers.forks.fork_plans import ForkPlan
from mirrorlog.producers.publishing.confirmations import StatusPorts
from mirrorlog.producers.session.host import OpenRequest
from mirrorlog.reading.open_sessions import SessionPorts
from mirrorlog.settings import Settings


def statuses(settings: Settings, stack: ExitStack) -> StatusPorts | None:
    """The node's answers, where the settings say that the host waits for them."""
    if settings.host_confirm == "published":
        return None
    reader, admin = KafkaReader(settings.kafka_client()), KafkaAdmin(settings.kafka_client())
    stack.callback(admin.close)
    stack.callback(reader.close)
    return StatusPorts(reader, admin)


def sessions(settings: Settings, stack: ExitStack) -> SessionPorts:
    """How a host finds out who else has its volumes open."""
    client = settings.kafka_client()
    admin = KafkaAdmin(client)
    stack.callback(admin.close)
    return SessionPorts(lambda: KafkaReader(client), admin)


def opened_primary(volume: Volume, stack: ExitStack, address: str | None = None) -> FileDevice:
    """The primary, open for writing until the stack is left, for this process alone unless the volume is shared."""
    return stack.enter_context(open_primary(address or volume.primary, exclusive=not volume.shared))


def opening(
    volume: Volume,
    device: BlockDevice,
    *,
    new: bool = False,
    take_over: Collection[str] = (),
    forks: ForkPlan | None = None,
) -> OpenRequest:
    """A primary without a byte in it was never written to: a host that died before it opened it left nothing unknown."""
    empty = volume.initially_zeroed and next(device.allocated(), None) is None
    return OpenRequest(volume, device, newly_created=new or empty, take_over=take_over, forks=forks)
