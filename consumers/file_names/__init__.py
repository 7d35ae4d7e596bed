"""The files that the blocks of a volume belong to.

A process of its own reads the file systems, because the library that does it is C code and an image
is whatever somebody wrote there. Its answer is an index of the whole device, made in one walk; to
ask it is a bisection (docs/decisions/file-names.md).

In reading order:

- owners.py: what a byte of a volume may belong to
- name_table.py: the names of files by inode
- file_index.py: the index, and the questions to it
- claims.py: makes one map without gaps of ranges that may overlap
- map_builder.py: collects what the readers find
- index_format.py: an index as bytes
- reading_process.py: a process that reads file systems, and why it ended
- scan_process.py: asks a process of its own for an index
- scan.py: that process
- image_reading.py: a device as pytsk3 reads it
- tsk_reader.py: partitions, and which reader maps each of them
- signatures.py: what lies where no file system can be read
- layout_reading.py: a file system as the readers of layouts read it
- tsk_walk.py: the files of a file system, by The Sleuth Kit
- ext_reader.py, ext_layout.py: ext2, ext3 and ext4
- ext_unwritten.py: blocks of ext4 that are reserved for a file, and not written yet
- ntfs_reader.py: NTFS
- fat_reader.py: FAT and exFAT
- hfs_reader.py: HFS+
- xfs_reader.py: XFS, by xfs_db
- changed_files.py: the files in which blocks changed
- file_formats.py: that as a table, JSON and CSV
- extent_files.py: the files of the rows of a history
- mapping.py: what is said of an index, beside an answer
"""
