"""The trees of commands on this machine, to hold an archive against."""

from __future__ import annotations

from collections.abc import Iterator

from mirrorlog.adapters.log_folder import LogFolders
from mirrorlog.archive.archive import Archive
from mirrorlog.consumers.archive.chain_check import CheckedTree, check_against_tree
from mirrorlog.settings import Settings
from mirrorlog.streams.chain.partition_chain import read_head
from mirrorlog.transparency.log_names import LogName
from mirrorlog.transparency.tiles import TiledLog


def check_trees(settings: Settings, archive: Archive) -> Iterator[CheckedTree]:
    """Compare the archive with each tree in the setting `chain_dir`, and yield what was compared.

    Trees of histories that aren't archived are left out. Without the setting there are none.
    Errors: those of check_against_tree().
    """
    if settings.chain_dir is None:
        return
    folders = LogFolders(settings.chain_dir.absolute())
    for partition in archive.partitions():
        chains = {chain.history.id: chain for chain in archive.chains(partition)}
        for folder in folders.folders(partition):
            files = folders.open(folder)
            head = read_head(files)
            if head is None or not head.size:
                continue
            name = LogName.parse(head.origin, where=files.where)
            if name.history in chains:
                tiled = TiledLog(files.read, head.size, where=files.where)
                yield check_against_tree(archive, chains[name.history], name, tiled, head)
