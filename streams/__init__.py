"""The processing node: it folds tracking commands into the tracking log and answers questions.

`run_node` runs one worker of the node in this process, without the command line. Importing this
package imports neither Faust nor a Kafka client.

    wiring.py      puts a node together from the settings and runs it
    node_figures.py, node_metrics.py  what a worker is doing now, as numbers
    liveness.py    tells whether a worker makes progress
    node_reporting.py publishes these numbers as reports
    backup_watch.py  what registered backups report, for their metrics
    node_folder.py the folder of a worker's state, which one process at a time uses
    engine.py      the port to the engine: partitions, batches, commits, messages, the table
    faust_worker/  the engine on Faust: the app, its transport, assignment, recovery, store
    partitions/    the work on the partitions that the engine gives to this worker
    fold/          a batch of events becomes one flush of the log (mostly pure)
    history/       what shows that a partition's history ended, and how the next one begins
    table/         the table that holds the log, and the follower that fills it from the changelog
    chain/         the commands of a partition become a Merkle tree, which is signed and proved
    questions/     answers to sites that read a mirror of the log
    compaction/    records roll up to coarser tiers and are deleted when they are too old
    web/           which blocks changed, over HTTP (docs/http.md)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mirrorlog.streams.wiring import run_node

__all__ = ["run_node"]


def __getattr__(name: str) -> Any:
    """Import `run_node` on its first use (PEP 562)."""
    if name != "run_node":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mirrorlog.streams.wiring import run_node

    return run_node
