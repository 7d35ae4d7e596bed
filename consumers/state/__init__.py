"""The state of each secondary that a site saves durably.

In reading order:

- secondary_state.py: SecondaryState and the port SecondaryStateStore
- site_folder.py: the id of a site's state folder
- drill_holds.py: the secondaries that drills hold
- pauses.py: which secondaries an operator has paused
- state_files.py: the store in a folder, a file a volume
"""
