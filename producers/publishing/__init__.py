"""Publishing: tracking commands on their way to Kafka, until they are acknowledged.

In reading order:

- outbox.py: builds the commands, and has their way as numbered steps.
- acknowledged_positions.py: what Kafka has acknowledged, and in which histories it counts.
- publish_queue.py: keeps their order; the client gets them, or the spool if the client is full.
- clock_watch.py: whether this machine's clock agrees with the broker's.
- traced_publisher.py: traces of commands, if they are switched on.
- confirmations.py: which commands the node has recorded (`host_confirm = "recorded"`).
"""
