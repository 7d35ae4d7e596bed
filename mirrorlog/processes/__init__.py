"""Child processes, and this one.

- dies_with_parent.py: a child that dies with its parent, even by kill -9
- nbd_server.py: an NBD server as such a child
- child_processes.py: `mirrorlog …` processes of a run, with their JSON messages
- numpy_features.py: what NumPy uses of the processor, where its own choice is slow
- free_memory.py: memory that this process has freed, given back to the system
"""
