"""Which Kafka may use the data of a broker's folder (pure).

Tried with 4.1.1 and 4.4.0: data that 4.1.1 formatted serve 4.4.0 as they are, with the metadata
version that they have. 4.1.1 doesn't start on data that 4.4.0 formatted ("Can't read version 4 of
BrokerEndpoint"). So the folder remembers the newest Kafka that has used it, and goes to none older.
"""

from __future__ import annotations

from typing import Final

from mirrorlog.errors import BadUse

BEFORE_RECORDS: Final = "4.1.1"
"""The Kafka of the releases that recorded no version beside their data."""


def check_kafka_version(used_by: str, pinned: str, where: str) -> str | None:
    """Return what to tell before Kafka `pinned` starts on data; None if there is nothing to tell.

    used_by: the newest Kafka that has used the data in the folder `where`. BadUse if that is newer.
    """
    if _order(used_by) > _order(pinned):
        raise BadUse(
            f"the data of this folder were used by Kafka {used_by}, and this release of mirrorlog "
            f"brings Kafka {pinned}, which may not read them",
            where=where,
            next="Use the release of mirrorlog that was used last, or name another folder with "
            "--state-dir.",
        )
    if _order(used_by) == _order(pinned):
        return None
    return (
        f"the data in {where} were used by Kafka {used_by}. Kafka {pinned} takes them over now, "
        f"as they are. Releases of mirrorlog with an older Kafka can't use them any more"
    )


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
