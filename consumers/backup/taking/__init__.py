"""Taking a point: the operation behind `mirrorlog backup VOLUME`.

Files in reading order:

- base_choice.py: on which point the next one stands
- attempts.py: when a point is begun again, and with what
- counted_reads.py: tells how much of a source was read, and whether it failed
- image_writers.py: the port that writes an image, and its adapter for qcow2
- taking.py: the steps, from the lock to the registration
- rounds.py: the backups of several volumes, again and again
"""
