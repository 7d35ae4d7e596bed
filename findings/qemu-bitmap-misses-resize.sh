#!/bin/sh
# A persistent dirty bitmap of a qcow2 image doesn't record that `qemu-img resize` changed content.
#
# Versions: qemu-utils 1:7.2+dfsg-7+deb12u18+b3 (Debian 12, amd64).
# Seen: an image of 1 MiB holds sevens everywhere. A bitmap is added. The image is shrunk to 512 KiB
# and grown to 1 MiB again. Its second half reads as zeros now, and the bitmap calls every byte
# clean. An incremental backup that goes by the bitmap keeps the sevens.
# Documented: qemu-img(1) says of `resize --shrink` that data beyond the end is lost, and nothing of
# bitmaps.
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
qemu-img create -q -f qcow2 image.qcow2 1M
qemu-io -f qcow2 -c 'write -q -P 7 0 1M' image.qcow2
qemu-img bitmap --add image.qcow2 changes
qemu-img resize -q --shrink image.qcow2 512K
qemu-img resize -q image.qcow2 1M

echo 'A read of the second half, compared with zeros:'
qemu-io -r -f qcow2 -c 'read -P 0 512K 512K' image.qcow2 > read.txt || true
head -1 read.txt

qemu-nbd -r -t -f qcow2 -B changes -k "$folder/socket" image.qcow2 &
server=$!
for _ in $(seq 300); do [ ! -S socket ] || break; sleep 0.1; done
echo 'What the bitmap says ("data": true is clean with x-dirty-bitmap):'
bitmap=qemu:dirty-bitmap:changes
qemu-img map --output=json --image-opts \
    "driver=nbd,server.type=unix,server.path=$folder/socket,x-dirty-bitmap=$bitmap" > map.json
cat map.json

if grep -q '^read 524288/524288' read.txt && ! grep -q 'verification failed' read.txt &&
    [ "$(grep -c start map.json)" = 1 ] && grep -q '"length": 1048576.*"data": true' map.json; then
    echo 'As written: the content changed, and the bitmap is clean.'
else
    echo 'Otherwise than written.'
    exit 1
fi
