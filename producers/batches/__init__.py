"""The open batch of a volume, and the regions that its writes keep hot.

In reading order:

- hot_regions: which regions are hot, and which may leave the activity log to make room
- look_ahead: which regions become hot before a write needs them
- idle_regions: which regions may leave because nobody writes to them
- batch: the writes that the next tracking command names
- lock_free_writes: the protocol by which most writes begin and end without a lock
"""
