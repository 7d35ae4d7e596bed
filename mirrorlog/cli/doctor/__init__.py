"""`mirrorlog doctor`: what breaks mirrorlog on this machine and its cluster.

Gathering asks the machine and the cluster, and changes nothing that stays. Judging is pure.

In reading order:
- snapshot: what is gathered, and what couldn't be asked.
- machine: gathers libraries, the state folder, tools and limits.
- http_ports: gathers the addresses at which roles serve HTTP.
- cluster: gathers what the cluster says.
- gathering: gathers all of it, one question after the other.
- findings: what a check finds.
- machine_checks: judges the machine.
- cluster_checks: judges the cluster.
- topic_checks: judges the topics, their settings and the rights on them.
- checks: the one table of checks.
"""
