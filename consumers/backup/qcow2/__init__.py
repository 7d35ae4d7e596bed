"""The qcow2 images of backups: written, read, merged and checked without QEMU, opened by QEMU.

Source of the format: QEMU's docs/interop/qcow2.txt. docs/decisions/backup-format.md says why it is
this one. Files in reading order:

- format.py: the header, and the two layouts of the tables
- unit_runs.py: which units of an image are data or zeros
- packing.py: which guest clusters share a host cluster
- image_plan.py: what an image is to hold, and where in its file
- tables.py: the tables, made from that
- zstd_clusters.py: compressed clusters
- image_digests.py: the digests of a file's pieces, which lie beside it
- image_writing.py: writes an image, its header last
- mapped_runs.py: which parts of a volume lie where in the files of a chain
- image_map.py: reads the map of an image
- image_check.py: which parts of a file are damaged, and what of the volume is lost with each
- checked_file.py: a file of which nothing is read that differs from what was written
- chain_reader.py: a chain of images as a device that is read
- merging.py: merges neighbours of a chain, for pruning and for synthetic fulls
"""
