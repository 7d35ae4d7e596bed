"""Kafka, devices and state folders in memory, for tests of code that uses mirrorlog.

They keep the contracts of mirrorlog.ports. They lose what isn't durable when a test says so, and
they fail when a test says so. Nothing here waits, starts a process or touches the disk.

For example, a device that loses power, and a topic that is read from its start:

    >>> from mirrorlog.simulation.memory_devices import MemoryDevice
    >>> device = MemoryDevice(1 << 20)
    >>> device.pwrite(0, b"durable"); device.flush(); device.pwrite(0, b"LOST")
    >>> device.crash()
    >>> device.reopen().pread(offset=0, length=7)
    b'durable'

    >>> from mirrorlog.simulation.memory_broker import MemoryBroker
    >>> from mirrorlog.topics import TopicSpec
    >>> broker = MemoryBroker()
    >>> broker.create([TopicSpec("events", {})], partitions=1)
    >>> publisher, reader = broker.publisher(), broker.reader()
    >>> publisher.publish("events", 0, b"key", b"value", lambda position: print("at", position))
    >>> publisher.flush(1.0)
    at 0
    >>> reader.assign("events", {0: None})
    >>> [message.value for message in reader.poll(0)]
    [b'value']

Files:

- memory_broker.py: MemoryBroker, the ports of mirrorlog.ports.streams
- coroutines.py: CoroutineRunner, an event loop without files
- memory_engine.py: MemoryEngine, the port of mirrorlog.streams.engine, and MemoryStore
- memory_devices.py: MemoryDevice and MemoryDevices, the ports of mirrorlog.ports.devices
- memory_archive.py: MemoryArchive, the port of mirrorlog.ports.archive_stores
- memory_backups.py: MemoryBackups, the port of mirrorlog.ports.backup_stores
- memory_folder.py: MemoryFolder, the ports of mirrorlog.ports.folders
- memory_secondary_states.py: MemorySecondaryStates, a site's store of its secondaries' states
- memory_journals.py: MemoryJournals, a site's journals
- memory_locks.py: LockTable, the locks of a site's workers
- memory_log_files.py: MemoryLogStore, the port of mirrorlog.ports.log_files
- memory_group.py: MemoryGroup, what the workers of a site tell each other
- memory_secondaries.py: MemorySecondaries, the secondaries of a site and their marks
- manual_clock.py: ManualClock, the port of mirrorlog.ports.clock
- world/: all roles together, moved by a seed
"""
