"""The parts that several commands need.

In reading order:
- global_options: the options that every command takes, before its name and after it.
- completing: answers a shell that asks for completions.
- lazy_commands: a group of commands that imports a command when it runs.
- context: what the global options of one call amount to.
- output: text for people, JSON for programs, and errors.
- tables: tables for people, uncut off a terminal and on a narrow one.
- log_lines: which log lines a process prints, and how often.
- lookup: volumes and topics, read once.
- settings_view: the settings, and where they come from.
- confirming: a question before something is given up for good.
- volume_view: a volume's description as a row, as lines and as fields.
- moving: which sessions have a volume open, and its new address.
- promoting: the command that promotes a secondary, and what it loses.
- primaries: which file or device becomes the primary of a volume.
- secondaries: which addresses the secondaries of a new volume may have.
- changelog: the tracking log of one partition, read once.
- sending: one tracking command, and the node's status of it.
- create_topics: the topics of a cluster.
- topics_view: the topics of a cluster, as a table.
- event_view: one message of a topic, decoded.
- tailing: the events of a topic, or of one volume.
- forking: the options of a host that forks its writes.
- metrics_option: the option that serves metrics.
- line_budget: how many lines about one part are printed in a while.
- site_addresses: the options for where primaries and secondaries are at a site.
- pairs: options of the form NAME=VALUE.
- site_lines: what a running site says.
- node_lines: what a running worker of the node says.
- host_lines: what a running host says.
- stopping: a flag that SIGTERM and SIGINT set.
- waiting: until the secondaries of a volume hold all that was written to it.
- detaching: a part that goes on in the background once it is ready.
- present: the overview of everything, read for one command.
- status_view: the overview as JSON, and as tables.
- verify_view: the report of a verification.
- plugin_line: the overview as a monitoring plug-in prints it.
"""
