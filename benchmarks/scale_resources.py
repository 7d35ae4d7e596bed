"""The resources that grow, by axis: what each is called, how it grows, and how much there is.

How much there is (`limit`) is an assumption about one machine of each role, not a measurement: a
worker of the node has one core and 8 GiB, a broker two cores, and a line of 1 Gbit/s leads to
Kafka, to each site and to the primary. An installation with more of a resource reaches further in
proportion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

GBIT_BYTES_S: Final = 125e6


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource: its name for people, and how it grows (scale_model.SHAPES).

    limit: how much of it there is; None where nothing bounds it.
    """

    label: str
    shape: str
    limit: float | None


@dataclass(frozen=True, slots=True)
class AxisText:
    """An axis for people. largest: the size up to which the model is drawn and asked."""

    label: str
    largest: float


AXIS_TEXTS: Final[Mapping[str, AxisText]] = {
    "writes": AxisText("writes a second, 100 of each host", 1e6),
    "volumes": AxisText("volumes", 1e6),
    "size": AxisText("size of a volume, bytes", 1e15),
    "sites": AxisText("sites, at 2,000 writes a second", 100),
    "days": AxisText("days of log, at 10 writes a second to 10 GiB", 3650),
}

RESOURCES: Final[Mapping[str, Mapping[str, Resource]]] = {
    "writes": {
        "node_cpu_cores": Resource("CPU of the node, cores", "linear", 1.0),
        "commands_bytes_s": Resource("commands, bytes/s", "linear", GBIT_BYTES_S),
        "changelog_bytes_s": Resource("changelog, bytes/s", "linear", GBIT_BYTES_S),
    },
    "volumes": {
        "node_memory_bytes": Resource("memory of the node, bytes", "linear", 8 * 2.0**30),
        "node_idle_cores": Resource("CPU of an idle node, cores", "linear", 1.0),
        "flush_cpu_s": Resource("CPU of a flush of ten volumes, s", "linear", 1.0),
    },
    "size": {
        "bytes_a_write": Resource("changelog of a random write, bytes", "containers", None),
        "day_record_bytes": Resource("record of a day, a tenth written, bytes", "linear", 2.0**30),
    },
    "sites": {
        "node_cpu_cores": Resource("CPU of the node, cores", "linear", 1.0),
        "broker_cpu_cores": Resource("CPU of the broker, cores", "linear", 2.0),
        "sites_bytes_s": Resource("log to all sites, bytes/s", "linear", GBIT_BYTES_S),
        "primary_bytes_s": Resource(
            "named to read from primaries, bytes/s", "linear", GBIT_BYTES_S
        ),
    },
    "days": {
        "table_bytes": Resource("table, bytes", "linear", 1e12),
        "question_cpu_s": Resource("what changed in all days, CPU s", "linear", 10.0),
    },
}
