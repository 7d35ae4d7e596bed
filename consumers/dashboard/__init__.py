"""`mirrorlog dashboard`: a web page that shows every volume at every site, and what changed when.

In reading order:

- page_items.py: what the page shows, as a pure function of reports and statuses
- live_items.py: which of it changed after a version, so that clients are sent changes only
- lag_history.py: the lag of each secondary over the last day, in memory of fixed size
- refused_events.py: the newest events of the quarantine
- topic_looks.py: one look at the topics after another, in a thread of its own
- event_stream.py: sends one client what changes, as server-sent events
- volume_answers.py: what changed in a volume between two times, and its writes by range and time
- request_points.py: the questions that requests ask, out of their parameters
- dashboard_metrics.py: the metrics of the dashboard itself
- routes.py: what each route of the server does
- wiring.py: puts the dashboard together from the settings, and runs it
- page/: the page itself, plain HTML, CSS and ES modules
"""
