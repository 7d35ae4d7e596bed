#!/bin/sh
# `qemu-nbd --bitmap` on an overlay serves the bitmap of the layer below, without the overlay's
# writes.
#
# Versions: qemu-utils 1:7.2+dfsg-7+deb12u18+b3 (Debian 12, amd64).
# Seen: base.qcow2 has a bitmap, and 64 KiB at 0 were written to it. An overlay is made, and 64 KiB
# at 512 KiB are written to the overlay. `qemu-nbd -B changes overlay.qcow2` succeeds, and calls the
# first range dirty and the second one clean. A client can't see which layer the bitmap is of.
# Documented: qemu-nbd(8) says "if filename has a qcow2 persistent bitmap NAME". The search through
# the chain is in nbd/server.c, and QMP's block-export-add can name the bitmap's node since 7.1.
# In mirrorlog: docs/import.md warns of it, because the exported bitmap doesn't show it.
#
# Needs apt-get with Debian 12's packages (after apt-get update), and no root. Prints what it saw.
# Exit code: 0 if that is as written above, 1 if not, 2 if the packages can't be had.

PACKAGES='qemu-utils=1:7.2+dfsg-7+deb12u18+b3'
TOOLS='qemu-img qemu-io qemu-nbd'
set -eu
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" || true; rm -rf "$folder"' EXIT
cd "$folder"

# Install the packages and all that they need in the folder.
mkdir -p archives/partial bin
: > status
apt-get -qq -y --no-install-recommends --download-only -o Debug::NoLocking=1 \
    -o Dir::State::status="$folder/status" -o Dir::Cache::archives="$folder/archives" \
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= install $PACKAGES > apt.log 2>&1 ||
    { cat apt.log; exit 2; }
for archive in archives/*.deb; do dpkg-deb -x "$archive" root; done
libraries=$folder/root/lib/x86_64-linux-gnu
for tool in $TOOLS; do
    cat > "bin/$tool" << EOF
#!/bin/sh
libraries='$libraries:$folder/root/usr/lib/x86_64-linux-gnu'
exec '$libraries/ld-linux-x86-64.so.2' --library-path "\$libraries" \
    '$folder'/root/usr/*bin/$tool "\$@"
EOF
    chmod +x "bin/$tool"
done
PATH=$folder/bin:$PATH

qemu-img --version | head -1
qemu-img create -q -f qcow2 base.qcow2 1M
qemu-img bitmap --add base.qcow2 changes
qemu-io -f qcow2 -c 'write -q 0 64K' base.qcow2
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2
qemu-io -f qcow2 -c 'write -q 512K 64K' overlay.qcow2

qemu-nbd -r -t -f qcow2 -B changes -k "$folder/socket" overlay.qcow2 &
server=$!
for _ in $(seq 300); do [ ! -S socket ] || break; sleep 0.1; done
echo 'What the bitmap says ("data": false is dirty with x-dirty-bitmap):'
bitmap=qemu:dirty-bitmap:changes
qemu-img map --output=json --image-opts \
    "driver=nbd,server.type=unix,server.path=$folder/socket,x-dirty-bitmap=$bitmap" > map.json
cat map.json

if [ "$(grep -c start map.json)" = 2 ] &&
    grep -q '"start": 0, "length": 65536,.*"data": false' map.json &&
    grep -q '"start": 65536, "length": 983040,.*"data": true' map.json; then
    echo 'As written: the write to the base is dirty, and the write to the overlay is clean.'
else
    echo 'Otherwise than written.'
    exit 1
fi
