"""All roles in one thread, on a broker in memory, driven by a seed.

A host writes, the node folds, a site restores. Each of them may be killed between any two of its
steps. act() checks all the time that a secondary which its site calls consistent equals the primary
as of that position (invariant 8). check_end() checks that every secondary equals its primary, and
that the log equals an independent fold of the commands (invariants 2, 3 and 5).

    >>> from mirrorlog.simulation.world.world import World
    >>> world = World(seed=1)
    >>> for _ in range(50):
    ...     world.act()
    >>> world.finish()
    >>> world.check_end()
    >>> world.site.secondary_equals_primary("v")
    True

A test may also take single steps: world.host.write(), world.node.fold(), world.run_site().

In reading order:

- world.py: World, the random steps, the end and its checks
- host.py: HostModel writes to the primaries and publishes commands, late
- node.py: NodeModel runs the real fold and compaction, on a table in memory
- site.py: SiteModel runs the real site, on devices in memory
- workers.py: WorkersWorld has several workers of the site, which share its folder
- site_faults.py: SiteFaults loses, swaps and restores secondaries, primaries and states
- history_faults.py: HistoryFaults deletes the commands topic, and takes the broker back in time
- failover.py: FailoverWorld promotes copies of a volume, and lets them follow each other again
- failover_parts.py: its hosts and its sites
- mirror.py: MirrorModel is the mirror to a site that has a cluster of its own
- device_faults.py: DeviceFaults lets disks of a site and primaries fail while it runs
- crashes.py: Fuse kills a role at one of its steps
- checked_log.py: CheckedLog reads the whole log for each check
"""
