#!/bin/sh
# blocksync's local_to_local writes blocks that differ into its source, and leaves the destination.
#
# Versions: blocksync 3.0.0 and 3.0.1 (PyPI, MIT), Python 3.11. 2.0.0 does it right.
# Seen: of two files of 3 MiB and 5 bytes that differ in one byte, the destination stays as it is,
# and the source is another afterwards. Nothing is reported: the status counts the blocks as done.
# Why: _local_to_local in blocksync/sync.py calls srcdev.write(src_block) where it seeks in destdev.
# In mirrorlog: bench_site.py compares with 2.0.0.
#
# Needs Python 3 with venv, and PyPI. Prints what it saw.
# Exit code: 0 if that is as written above, 1 if not, 2 if the package can't be had.

set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv || exit 2
venv/bin/pip install -q --disable-pip-version-check blocksync==3.0.1 || exit 2

head -c 3145733 /dev/urandom > source
cp source destination
printf x | dd of=destination bs=1 seek=1000000 conv=notrunc status=none
printf y | dd of=source bs=1 seek=1000000 conv=notrunc status=none
cp source source.before
cp destination destination.before
venv/bin/python - << EOF
from blocksync import local_to_local
print(local_to_local("source", "destination", wait=True)[1])
EOF

seen=
cmp -s source source.before || seen="the source changed"
cmp -s destination destination.before && seen="$seen, the destination didn't"
echo "$seen"
[ "$seen" = "the source changed, the destination didn't" ]
