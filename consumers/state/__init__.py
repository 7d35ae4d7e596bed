"""The state of each secondary that a site saves durably.

In reading order:

- secondary_state.py: SecondaryState and the port SecondaryStateStore
- state_files.py: the store in a folder, a file a volume
"""
