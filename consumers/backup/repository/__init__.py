"""A repository of backups: the images of points, and what is known of each, in a folder or in S3.

Files in reading order:

- image_files.py: the port to the format of images
- qcow2_files.py: this port over the qcow2 images
- manifests.py: what is known of a point, and its bytes
- object_names.py: the names of a repository's objects
- catalog.py: all points of a volume, and on which image each one stands
- repository.py: opens repositories, and reads them
- opening.py: opens the repository at an address
- open_point.py: opens a point as a device
- repository_writer.py: adds points, and removes what killed writers left
- keep.py: which points are kept, by hour, day, week, month and year
- prune_plan.py: the steps that remove points and leave all others as they are
- prune.py: takes these steps
- prune_by_rules.py: removes what no rule keeps
- drop.py: removes single points, also damaged ones
- point_diff.py: in which blocks two points differ
- check.py: what is damaged, and which points that takes along
"""
