"""How a schema registry is reached, and what it has answered in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final

from mirrorlog.domain.retry_reports import RetryReports

REGISTRY_KEY: Final = "mirrorlog.schema_registry"
"""Under this name the settings of a Kafka client hold a RegistryAccess."""
EVERY_KIND: Final = ("", b"")


@dataclass(frozen=True, slots=True)
class RegistryAccess:
    """A schema registry with Confluent's interface. All clients of a process share one of these.

    url:         where it answers, http:// or https://.
    user_info:   USER:PASSWORD for HTTP's basic authentication; empty for none.
    ca:          certificates that it is trusted by, as PEM; None: those of the machine.
    ids_file:    where known ids are kept for the next start; None: nowhere.
    headers:     by id, the header of an event in the plain format; None for schemas of others.
    ids:         by topic and header, the id.
    retry_at_s:  when the registry is asked for it again, by topic and header, in seconds of the
                 monotonic clock. Under EVERY_KIND: when one that didn't answer is asked at all.
    reports:     which failures are logged; take `reporting` first.
    """

    url: str
    user_info: str = field(default="", repr=False)
    ca: Path | None = None
    ids_file: Path | None = None
    headers: dict[int, bytes | None] = field(default_factory=dict, repr=False)
    ids: dict[tuple[str, bytes], int] = field(default_factory=dict, repr=False)
    retry_at_s: dict[tuple[str, bytes], float] = field(default_factory=dict, repr=False)
    reports: RetryReports = field(default_factory=RetryReports, repr=False, compare=False)
    reporting: Lock = field(default_factory=Lock, repr=False, compare=False)
