"""The records of what each site with a forked secondary has missed of one volume. Pure.

A host may send its writes to secondaries itself. Each of its commands says which extents which
secondary has (docs/decisions/forked-writes.md). For each such site the node keeps a log of what the
site has missed, named by `missed_log`. It is a chain of its own: a record begins where the last
record of the same site ended. The chain begins where the volume's own record begins, in the batch
whose commands name the site first.

These records hold no zeroed blocks: a block that was zeroed and missed may have been written since,
and not missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mirrorlog.domain.extraction import MAX_FORKS
from mirrorlog.streams.fold.response import CommandResponse
from mirrorlog.streams.fold.volume_fold import chain_end, fold_changed, newest_volume
from mirrorlog.tracking_log.heads import ForkHead, VolumeHead
from mirrorlog.tracking_log.keys import missed_log
from mirrorlog.tracking_log.records import LogRecord


def fold_missed(
    responses: Sequence[CommandResponse],
    head: VolumeHead | None,
    *,
    after: int,
    first: int,
    through: int,
) -> tuple[list[LogRecord], dict[str, ForkHead]]:
    """Return the records of what each site has missed, and the heads of these logs after the flush.

    responses: to the commands of one volume. head: the volume's head before the flush.
    after: where the volume's own record begins. first, through: the positions of the flush.
    """
    volume = newest_volume(responses)
    records: list[LogRecord] = []
    forks = _forks_before(responses, head, after=after)
    for site, fork in forks.items():
        if through <= fork.after:
            continue  # a replay of a range that lies before the site was named
        missed = [response.missed_by(site) for response in responses]
        start = min(fork.through, first - 1)
        record = fold_changed(responses, missed, after=start, through=through)
        if record is not None:
            records.append(replace(record, volume=missed_log(volume.volume, site)))
            forks[site] = replace(fork, through=max(fork.through, through))
    return records, forks


def _forks_before(
    responses: Sequence[CommandResponse], head: VolumeHead | None, *, after: int
) -> dict[str, ForkHead]:
    """Return the heads of the missed logs, with an empty log for each site that is named first.

    At most MAX_FORKS sites have a log. Any other site copies what the volume's own log names.
    """
    volume = newest_volume(responses)
    forks = dict(head.forks) if head else {}
    if head and head.generation != volume.generation_of_log:
        end = chain_end(volume, head)
        forks = {site: replace(fork, through=end) for site, fork in forks.items()}
    for site in (site for response in responses for site in response.forks.missed):
        if site not in forks and len(forks) < MAX_FORKS:
            forks[site] = ForkHead(after, after)
    return forks
