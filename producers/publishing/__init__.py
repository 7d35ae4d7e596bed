"""Publishing: tracking commands on their way to Kafka, until they are acknowledged.

In reading order:

- outbox.py: the door: publishes commands, and has their way as numbered steps.
- session_commands.py: makes the commands of a session, numbers and counts them.
- acknowledged_positions.py: what Kafka has acknowledged, and in which histories it counts.
- publish_queue.py: keeps their order; the client gets them, or the spool if the client is full.
- clock_watch.py: whether this machine's clock agrees with the broker's.
- traced_publisher.py: traces of commands, if they are switched on.
- write_gate.py: whether writes may begin, and what was refused.
- node_statuses.py: reads the node's statuses, and waits for them (`host_confirm = "recorded"`).
- confirmations.py: which commands the node has recorded.
"""
