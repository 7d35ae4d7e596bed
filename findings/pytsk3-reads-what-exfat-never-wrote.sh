#!/bin/sh
# pytsk3 reads old contents of clusters as the end of an exFAT file that was written in part.
#
# Versions: pytsk3 20260715 (PyPI, Apache-2.0), Sleuth Kit 4.11.1, Python 3.11, exfatprogs 1.2.0.
# Seen: a file of 9,000 bytes of which 3,000 count as written (ValidDataLength, as a program leaves
# them that sets the size first). The specification (7.6.5) says that the rest reads as zeros, and
# Linux and Windows return zeros. pytsk3 returns what the clusters hold: the bytes of a file that
# was deleted, for example.
# Why: the Sleuth Kit takes the size of the data (DataLength) for what was written, too.
# In mirrorlog: consumers/backup/files/exfat_lengths.py reads the lengths from the folder, and
# `restore VOLUME files` ends with zeros there.
#
# Needs Python 3 with venv, PyPI, and exfatprogs. Prints what it saw.
# Exit code: 0 if that is as written above, 1 if not, 2 if the package or a tool can't be had.

set -eu
PATH="$PATH:/usr/sbin:/sbin"
command -v mkfs.exfat > /dev/null || exit 2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv || exit 2
venv/bin/pip install -q --disable-pip-version-check pytsk3==20260715 || exit 2

truncate -s 16M image
mkfs.exfat image > /dev/null
seen=$(venv/bin/python - << EOF
import struct
import pytsk3

data = bytearray(open("image", "rb").read())
heap, root = (int.from_bytes(data[at : at + 4], "little") for at in (88, 96))
cluster, first = 512 << data[109], root + 1
at = lambda number: heap * 512 + (number - 2) * cluster
times = [(46 << 9 | 1 << 5 | 1) << 16] * 3
file = struct.pack("<BBHHHIII", 0x85, 2, 0, 0x20, 0, *times).ljust(32, b"\0")
stream = struct.pack("<BBBBHHQIIQ", 0xC0, 3, 0, 4, 0, 0, 3000, 0, first, 9000)
entries = bytearray(file + stream + b"\xc1\0" + "file".encode("utf-16-le").ljust(30, b"\0"))
checksum = 0
for place, byte in enumerate(entries):
    if place not in (2, 3):
        checksum = ((checksum << 15 | checksum >> 1) + byte) & 0xFFFF
entries[2:4] = checksum.to_bytes(2, "little")
end = next(empty for empty in range(at(root), len(data), 32) if not data[empty])
data[end : end + 96] = entries
for used in range(first, first + -(-9000 // cluster)):
    data[heap * 512 + (used - 2) // 8] |= 1 << (used - 2) % 8
data[at(first) : at(first) + 9000] = b"written." * 375 + b"deleted." * 750
open("image", "wb").write(data)
content = pytsk3.FS_Info(pytsk3.Img_Info("image")).open("/file").read_random(0, 9000)
print(content[:3000] == b"written." * 375, content[3000:].count(b"deleted."))
EOF
)
echo "the written part is right, and so many times it read what was deleted: $seen"
[ "$seen" = "True 750" ]
