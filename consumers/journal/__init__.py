"""The redo journal of a site: a cycle is staged in it, sealed, and then applied as a whole.

docs/decisions/redo-journal.md says why, and in which order. In reading order:

- journal_format.py: the bytes of a journal, and which of them count
- journal_store.py: the port to the place where journals are kept
- journal_writer.py: JournalWriter stages what a cycle reads, and seals the journal
- apply_journal.py: writes a sealed journal to its secondary
- group_commit.py: which sealed journals of a consistency group count, all of them at once
- redo.py: whether a sealed journal is of the secondary that a saved state is about
- journal_folder.py: the journals in a folder, a file a volume
- journal_mark.py: the mark of that folder, by which a disk that isn't mounted is noticed
"""
