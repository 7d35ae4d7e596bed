"""Which Kafka servers this process talks to, who named them, and what to do if they don't answer.

Servers that an option, the environment or a file names are used. If none does, the embedded broker
of the state folder is used, and without one the default. A broker keeps its port, so a folder's
broker that doesn't run is named as well: only it can answer there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirrorlog.broker_record import BrokerRecord, broker_folder, read_record
from mirrorlog.errors import StateDamaged

DEFAULT_SERVERS: Final = "127.0.0.1:9092"
SERVERS_KEY: Final = "mirrorlog.servers"
"""The key of a client's settings that holds its BootstrapServers. librdkafka doesn't get it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapServers:
    """The servers of a client.

    addresses: HOST:PORT, separated by commas.
    given_by: the option, variable or file that names them; None if nothing does.
    state_dir: the state folder. recorded: the record of its embedded broker; None if it has none.
    damage: why the record can't be read; None if it can.
    connect_within_s: a command that is answered at once or not at all gives up if no server has
        taken a connection by then. None: it waits as long as the request may take.
    """

    addresses: str
    given_by: str | None
    state_dir: Path
    recorded: BrokerRecord | None = None
    damage: str | None = None
    connect_within_s: float | None = None

    @property
    def is_embedded(self) -> bool:
        """Return whether these are the servers of the folder's embedded broker."""
        return self.given_by is None and self.recorded is not None

    def chosen_by(self) -> str:
        """Return in words why these servers are used."""
        folder = broker_folder(self.state_dir)
        if self.given_by is not None:
            return f"named by {self.given_by}"
        if self.recorded is not None:
            ending = "" if self._runs() else ", which doesn't run"
            return f"the embedded broker of {folder}{ending}"
        why = f"{folder} has no embedded broker" if self.damage is None else self.damage
        return f"the default, because nothing names servers and {why}"

    def next_step(self) -> str:
        """Return what the reader can do if nothing answers at these servers."""
        others = "--bootstrap-servers or MIRRORLOG_BOOTSTRAP_SERVERS"
        if self.is_embedded and self._runs():
            log = broker_folder(self.state_dir) / "log" / "kafka.log"
            return f"It runs, and its log is {log}. Or name another cluster with {others}."
        if self.is_embedded:
            return (
                f"Start it with `mirrorlog broker start`, or name another cluster with {others} "
                f"(without that broker, the default is {DEFAULT_SERVERS})."
            )
        if self.given_by is None:
            return (
                "Start an embedded broker with `mirrorlog broker start`, or name your cluster with "
                f"{others}."
            )
        return f"Check that a broker runs there, and the address.{self._hint_of_embedded()}"

    def _hint_of_embedded(self) -> str:
        """Return a sentence about the folder's broker, for servers that aren't its own."""
        if self.recorded is None or self.recorded.bootstrap_servers == self.addresses:
            return ""
        its = f"The embedded broker of {broker_folder(self.state_dir)}"
        if self._runs():
            address = self.recorded.bootstrap_servers
            return f" {its} runs at {address}: it is used if nothing names servers."
        return f" {its} doesn't run: `mirrorlog broker start` starts it."

    def _runs(self) -> bool:
        return self.recorded is not None and self.recorded.process() is not None


def choose_servers(
    addresses: str | None, given_by: str | None, state_dir: Path
) -> BootstrapServers:
    """Return the servers at `addresses`, which `given_by` names, or else those of the folder.

    addresses: None if nothing names servers.
    """
    recorded, damage = None, None
    try:
        recorded = read_record(broker_folder(state_dir))
    except StateDamaged as error:
        damage = f"{error.where} can't be read"
    default = DEFAULT_SERVERS if recorded is None else recorded.bootstrap_servers
    return BootstrapServers(
        addresses=addresses or default,
        given_by=given_by if addresses else None,
        state_dir=state_dir,
        recorded=recorded,
        damage=damage,
    )
