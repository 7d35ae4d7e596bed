"""Files out of a point: a process reads the file systems, and this one writes what it finds.

The Sleuth Kit is C code, and an image is whatever somebody wrote there. So the process that reads
may write nothing, and the one that writes believes no name.

Files in reading order:

- records.py: what is found, one record after another, and their bytes
- file_content.py: the content of one file, piece by piece
- exfat_lengths.py: how much of a file of exFAT was written
- tree_reader.py: finds what was asked for in the file systems of a device
- read_process.py: the process that reads
- asking.py: starts it, and takes its records
- named_when_whole.py: a new file that gets its name when it is whole
- tree_writer.py: writes records into a folder, and never outside of it
- restoring.py: both together, and what came of it
"""
