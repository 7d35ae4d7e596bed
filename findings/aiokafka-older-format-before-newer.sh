#!/bin/sh
# A record batch of an older format keeps the newer one behind it from being read in the same fetch.
#
# Versions: aiokafka 0.14.0 (PyPI, Apache-2.0), Python 3.11.
# Seen: a fetch holds a batch of message format 1 and then one of format 2, as in a topic whose
# format was raised. The reader in C, which its wheels use, returns the first message and raises an
# error at the second. The reader in Python of the same package returns both. Each batch alone is
# read by both readers.
# Why: the reader in C takes the format of each batch from the first batch of the fetch, and so
# reads the second by the older format (MemoryRecords._get_next).
# Documented: nothing of it. Where the fetch begins decides whether a message can be read at all.
# In mirrorlog: the node reads each batch of commands by its own format
# (streams/faust_worker/record_batches.py).
#
# Both batches come from the builders of the package. Needs Python 3 with venv, and PyPI.
# Prints what it saw.
# Exit code: 0 if that is as written above, 1 if not, 2 if the package can't be had.

set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv || exit 2
venv/bin/pip install -q --disable-pip-version-check aiokafka==0.14.0 || exit 2

cat > seen.py << EOF
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

def older():
    builder = LegacyRecordBatchBuilder(1, 0, 1000)
    builder.append(0, 1000, b"key", b"older")
    return bytes(builder.build())

def newer(offset):
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, 0, 1000)
    builder.append(0, 1001, b"key", b"newer", [])
    return offset.to_bytes(8, "big") + bytes(builder.build())[8:]

def read(fetched):
    records, seen = MemoryRecords(fetched), []
    try:
        while records.has_next():
            seen += [record.value.decode() for record in records.next_batch()]
    except Exception:
        seen.append("an error")
    return ", ".join(seen)

print(f"{read(older())}; {read(newer(0))}; together: {read(older() + newer(1))}")
EOF

in_c=$(venv/bin/python seen.py)
in_python=$(AIOKAFKA_NO_EXTENSIONS=1 venv/bin/python seen.py)
echo "in C:      $in_c"
echo "in Python: $in_python"
[ "$in_c" = "older; newer; together: older, an error" ] &&
  [ "$in_python" = "older; newer; together: older, newer" ]
