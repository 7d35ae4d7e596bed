#!/bin/sh
# pytsk3 gives blocks that ext4 reserved for a file the address 0, as if they were a hole.
#
# Versions: pytsk3 20260715 (PyPI, Apache-2.0), Sleuth Kit 4.11.1, Python 3.11, e2fsprogs 1.47.0.
# Seen: a file of 3 written blocks and 98 reserved ones (debugfs `fallocate`, as fallocate(2) makes
# them). debugfs says where all of them are. pytsk3 yields the written run with its address, and one
# of 98 blocks with address 0 and the flag of a sparse run. Nothing tells it from a real hole.
# Why: for who reads the content that is right, because such blocks read as zeros. Who asks which
# file has a block gets no answer for these.
# In mirrorlog: consumers/file_names/ext_unwritten.py reads them from the extent trees.
#
# Needs Python 3 with venv, PyPI, and e2fsprogs. Prints what it saw.
# Exit code: 0 if that is as written above, 1 if not, 2 if the package or a tool can't be had.

set -eu
PATH="$PATH:/usr/sbin:/sbin"
command -v mke2fs > /dev/null && command -v debugfs > /dev/null || exit 2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv || exit 2
venv/bin/pip install -q --disable-pip-version-check pytsk3==20260715 || exit 2

head -c 12288 /dev/urandom > written
truncate -s 32M image
mke2fs -q -F -t ext4 -b 4096 image
printf 'write written file\nfallocate /file 3 100\n' | debugfs -w -f /dev/stdin image > /dev/null 2>&1
debugfs -R 'ex /file' image 2> /dev/null | tee extents
seen=$(venv/bin/python - << EOF
import pytsk3
fs = pytsk3.FS_Info(pytsk3.Img_Info("image"))
print([(run.addr > 0, run.len, int(run.flags)) for stream in fs.open("/file") for run in stream][:2])
EOF
)
echo "$seen"
grep -q '98 Uninit' extents && [ "$seen" = "[(True, 3, 0), (False, 98, 2)]" ]
