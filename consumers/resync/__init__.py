"""A site's secondaries, and the cycles that bring them up to date.

In reading order:

- site.py: Site, one round of all secondaries; the order of a cycle's steps
- cycle.py: the decision what to do next with one secondary, and the rules behind it
- restoration.py: reads blocks from the primary and writes them to the secondary
- secondary.py: Secondary, the state of one secondary while the site runs
- reporting.py: the progress that a site publishes
- failure_log.py: what it logs of secondaries that fail again at each retry
"""
