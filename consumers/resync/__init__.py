"""A site's secondaries, and the cycles that bring them up to date.

In reading order:

- site.py: Site, one round of all secondaries
- in_place_cycles.py: cycles that write what they read; the order of their steps
- cycle_calls.py: what a site does about a secondary while its cycles run
- paused_secondaries.py: what an operator has paused, and drills hold
- site_ports.py: SitePorts, what a site needs
- partition_share.py: the partitions for which this process works
- share_follower.py: takes partitions and gives them back, between two rounds
- chosen_volumes.py: which volumes a site mirrors
- cycle_steps.py: what that decision takes and returns
- staging_step.py: the same decision where cycles are staged in a journal
- journaled_cycles.py: the journals, from their beginning to the secondary
- staged_cycles.py: reads cycles into journals, and applies them when they are proved
- cycle.py: the decision what to do next with one secondary, and the rules behind it
- snapshot_step.py: the part of the decision that reads the primary as of one position
- snapshot_reads.py: the snapshots of primaries that a site holds
- cycle_copier.py: copies the blocks of one cycle
- parting.py: the state of a secondary when another copy was promoted
- restoration.py: reads blocks from the primary and writes them to the secondary
- whole_copy.py: copies everything, in chunks
- comparison.py: compares both sides, and writes only what differs
- primary_comparison.py: the port to digests that are computed beside the primary
- seeds.py: whether it does so
- copy_counts.py: what was read, equal and written
- meeting.py: the decision whether a secondary is the one that the saved state is about
- meetings.py: meets secondaries, marks them, and does what was decided
- replica_logs.py: what the log says of each secondary
- log_watch.py: LogWatch, the log and the saved positions held against the commands topic
- command_ends.py: where the commands end, asked of Kafka, or of the source of a mirror
- read_ends.py: asks that whenever the reads of a cycle are over
- hole_doubts.py: whether a hole in a mirror is one in the log
- history_watch.py: whether the commands topic is still the one of the site's positions
- samples.py: samples of what cycles wrote, which find a secondary that went back in time
- primary_doubts.py: the same for a primary that is reached by a new connection
- secondaries.py: the port to the secondaries of a site
- secondary.py: Secondary, the state of one secondary while the site runs
- copy_rate.py: how fast a site may copy, by the time of day
- copy_yield.py: how fast it may copy so that it yields to the primary's own load
- copy_pace.py: waits so that a copy keeps its rate
- copy_speed.py: how fast a copy runs, and how long it will take
- next_action.py: what an operator can do about a secondary
- reporting.py: the progress that a site publishes
- state_changes.py: the changes of state, each told once
- traced_cycles.py: traces of cycles, if they are switched on
- log_lag.py: finds partitions whose log doesn't follow their commands
- failure_log.py: what it logs of secondaries that fail again at each retry
"""
