"""A point over NBD, or mounted: what QEMU's own server reads of its images.

Files in reading order:

- qemu_nbd.py: qemu-nbd, which serves the chain of images of a point
- mounting.py: mounts what is served, through FUSE and a loop device, until it is closed
- mount_guard.py: the process that mounts, and unmounts whatever becomes of the other one
"""
