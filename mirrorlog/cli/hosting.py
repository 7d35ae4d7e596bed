"""What every command that runs a host needs."""

from __future__ import annotations

from contextlib import ExitStack

from mirrorlog.adapters.devices import open_device
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.producers.confirmation import StatusPorts
from mirrorlog.producers.host import Opening
from mirrorlog.settings import Settings
from mirrorlog.volumes import Volume


def statuses(settings: Settings, stack: ExitStack) -> StatusPorts | None:
    """The node's answers, where the settings say that the host waits for them."""
    if settings.host_confirm == "published":
        return None
    reader, admin = KafkaReader(settings.kafka_client()), KafkaAdmin(settings.kafka_client())
    stack.callback(admin.close)
    stack.callback(reader.close)
    return StatusPorts(reader, admin)


def opened_primary(address: str, stack: ExitStack) -> BlockDevice:
    """The primary, open for writing until the stack is left."""
    return stack.enter_context(open_device(address, writable=True))


def opening(volume: Volume, device: BlockDevice, *, new: bool = False) -> Opening:
    """A primary without a byte in it was never written to: a host that died before it opened it left nothing unknown."""
    empty = volume.initially_zeroed and next(device.allocated(), None) is None
    return Opening(volume, device, newly_created=new or empty)
