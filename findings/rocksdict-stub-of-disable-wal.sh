#!/bin/sh
# What rocksdict's type stub says of WriteOptions.disable_wal raises an error, and what works is
# refused by a type checker.
#
# Versions: rocksdict 0.3.29 (PyPI, MIT), mypy 1.18.2, Python 3.11.
# Seen: the stub of the package (rocksdict.pyi) declares a method, disable_wal(disable). mypy takes
# a call of it, and the call raises a TypeError. The assignment `disable_wal = True`, which is how
# the other options of the class are set, works: a row that is written so is gone after a kill. mypy
# refuses the assignment.
# Why: the attribute is a property in the compiled module, and its stub was written by hand.
# Documented: nothing of it. A program that only assigns it without a check by types finds out.
# In mirrorlog: streams/faust_worker/faust_store.py assigns it, past the type checker.
#
# Needs Python 3 with venv, and PyPI. Prints what it saw.
# Exit code: 0 if that is as written above, 1 if not, 2 if the packages can't be had.

set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv || exit 2
venv/bin/pip install -q --disable-pip-version-check rocksdict==0.3.29 mypy==1.18.2 || exit 2

cat > called.py << EOF
from rocksdict import WriteOptions

WriteOptions().disable_wal(True)
EOF
cat > assigned.py << EOF
import os
import signal

from rocksdict import Options, Rdict, WriteOptions

unlogged = WriteOptions()
unlogged.disable_wal = True
table = Rdict("table", options=Options(raw_mode=True))
table.put(b"logged", b"1")
table.put(b"unlogged", b"1", unlogged)
os.kill(os.getpid(), signal.SIGKILL)
EOF
cat > left.py << EOF
from rocksdict import Options, Rdict

table = Rdict("table", options=Options(raw_mode=True))
print("logged" if table.get(b"logged") else "-", "unlogged" if table.get(b"unlogged") else "-")
EOF

types() { venv/bin/mypy "$1" >/dev/null 2>&1 && echo accepted || echo refused; }
called="$(types called.py), $(venv/bin/python called.py 2>&1 | sed -n 's/^\([A-Za-z]*Error\):.*/\1/p')"
(venv/bin/python assigned.py || true) 2>/dev/null
assigned="$(types assigned.py), left after a kill: $(venv/bin/python left.py)"
echo "called:   $called"
echo "assigned: $assigned"
[ "$called" = "accepted, TypeError" ] && [ "$assigned" = "refused, left after a kill: logged -" ]
