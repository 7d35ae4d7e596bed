"""An NBD export of a tracked volume, served by nbdkit.

- nbdkit_process.py: nbdkit as a child process.
- export.py: the two ways in which nbdkit's requests reach the volume.
- plugin.py: one end of the first way, a plugin in nbdkit's own Python.
- relay.py: its other end, in the host's process.
- ring.h: the second way: how a native filter of nbdkit and the host share memory, step by step.
- fork_state.h: a part of the segment, the secondaries that nbdkit forks to.
- filter.c: the filter.
- forked_writes.h: nbdkit's side of fork_state.h.
- forked_writes.c: the queues, and a thread for each secondary.
- snapshot_store.h: old contents of what is overwritten while a snapshot of the primary exists.
- snapshot_store.c: the store.
- snapshot_units.h: a part of the store, the units of one snapshot.
- snapshot_exports.h: the gate in front of writes, and the snapshots that connections share.
- snapshot_exports.c: how a snapshot is taken, step by step.
- host_link.h: nbdkit's end of the socket to the host.
- host_link.c: the messages, and who waits for their answers.
- ring.c: the host's side of ring.h.
- native.py: builds these files.
- ring.py: ring.c for Python.
- ring_forks.py: the host's side of fork_state.h.
- region_grants.py: the regions in which nbdkit may write without asking, and its writes there.
- grant_server.py: answers nbdkit when it asks.
"""
