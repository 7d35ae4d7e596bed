"""A session: one run of a host, from the lock of its state folder to its end.

In reading order:

- host.py: the door. It starts the session, opens and closes volumes.
- host_ports.py: HostPorts, what a host needs.
- opening.py: the checks before a volume is opened, and what excludes other hosts.
- primaries.py: each volume is opened on its own primary.
- clones.py: a copy of the state folder that runs beside its original is refused.
- fence.py: which sessions of other hosts may write to a volume.
- renewals.py, description_watch.py: open volumes take over a generation that was renewed.
- broken_histories.py: acknowledged commands are gone, and their volumes dirty as a whole.
- unvouched.py: what the log knows and the state folder doesn't, because it went back in time.
- session_search.py: how a session asks the log for both.
- settling.py: what a dead session left unpublished is published, and the session is closed.
- figures.py: what a host is doing now, as numbers for metrics and reports.
- reporting.py: publishes these numbers as reports.
- parts.py: what these share of one session.
"""
