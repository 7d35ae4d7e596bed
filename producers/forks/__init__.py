"""Forked writes: a host sends its writes to secondaries too (docs/forked-writes.md).

In reading order:

- fork_plans: the command line's forks, and when a write is acknowledged to its writer
- forked_volume: all secondaries of one volume, and the order of a forked write
- forked_secondary: one secondary, its queue and its flushes
- fork_states: the states of a secondary, and what people hear of their changes
- forked_write: writes with one fate, and what became of them at each secondary
- missed_writes: what a secondary has missed, and when it may join the fork again
- marked_secondary: a secondary that is opened only if its site has marked it
- fork_links: another process that forks the writes (nbd/ring_forks.py)
- fork_spans: what became of its writes at a secondary, from their numbers
- linked_writes: its writes, until their outcomes are known
- fork_calls: calls to a secondary, the threads that make them, and the ports of this package
"""
