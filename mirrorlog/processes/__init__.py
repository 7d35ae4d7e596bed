"""Child processes.

- dies_with_parent.py: a child that dies with its parent, even by kill -9
- child_processes.py: `mirrorlog …` processes of a run, with their JSON messages
"""
