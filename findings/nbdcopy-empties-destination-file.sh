#!/bin/sh
# nbdcopy can bring an old copy up to date from an export with holes, if the copy is an NBD server.
# It destroys the copy if that is named as a file, with the same options.
#
# Versions: nbdkit 1.32.5-1, libnbd-bin 1.14.2-1 (Debian 12, amd64).
# Seen: nbdkit's extentlist filter shows the blocks of a disk that changed, and holes between them.
# The copy has 64 blocks of 256 KiB, of which 8 changed; 2 of these are zero now. Wrong blocks after
#
#     nbdcopy --destination-is-zero -S 0 "$uri" [ nbdkit … file copy.raw ]      0
#     nbdcopy --destination-is-zero      "$uri" [ nbdkit … file copy.raw ]      2
#     nbdcopy                            "$uri" [ nbdkit … file copy.raw ]     56
#     nbdcopy --destination-is-zero -S 0 "$uri" copy.raw                       56
#
# Each exits with 0. The last one truncates copy.raw to 0 bytes first (file_truncate in
# copy/file-ops.c).
# Documented: nbdcopy(1) says that --destination-is-zero isn't safe unless the destination is zero;
# here it works because holes are skipped. It doesn't say that a file is emptied.
# In mirrorlog: docs/changed.md recommends the first command, and warns of the others.
#
# Needs apt-get with Debian 12's packages (after apt-get update), and no root. Prints what it saw.
# Exit code: 0 if that is as written above, 1 if not, 2 if the packages can't be had.

PACKAGES='nbdkit=1.32.5-1 libnbd-bin=1.14.2-1'
TOOLS='nbdkit nbdcopy'
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

plugin=$folder/root/usr/lib/x86_64-linux-gnu/nbdkit/plugins/nbdkit-file-plugin.so
filter=$folder/root/usr/lib/x86_64-linux-gnu/nbdkit/filters/nbdkit-extentlist-filter.so
nbdkit --version
nbdcopy --version | head -1

block() {  # block FILE: the size of the blocks, and where they are, as dd takes them
    echo "of=$1 bs=256K conv=notrunc status=none"
}
dd if=/dev/urandom of=old.raw bs=256K count=64 status=none
cp old.raw new.raw
for n in 3 4 5 20 21 40 41 63; do
    data=/dev/urandom
    case $n in 4 | 21) data=/dev/zero ;; esac
    dd if=$data $(block new.raw) seek=$n count=1
    echo "$((n * 262144)) 262144" >> changed.txt
done

wrong() {  # wrong COMMAND: run it on an old copy, and print how many blocks differ from new.raw
    cp old.raw copy.raw
    nbdkit -U - -r "$plugin" new.raw --filter="$filter" extentlist=changed.txt --run "$1"
    differ=0
    for n in $(seq 0 63); do
        cmp -s -n 262144 -i $((n * 262144)) new.raw copy.raw || differ=$((differ + 1))
    done
    echo "$differ"
}
served="[ nbdkit --exit-with-parent $plugin copy.raw ]"
seen="$(wrong "nbdcopy --destination-is-zero -S 0 -- \$uri $served")
$(wrong "nbdcopy --destination-is-zero -- \$uri $served")
$(wrong "nbdcopy -- \$uri $served")
$(wrong "nbdcopy --destination-is-zero -S 0 \$uri copy.raw")"
echo "Wrong blocks after the four commands:" $seen

if [ "$(echo $seen)" = '0 2 56 56' ]; then
    echo 'As written.'
else
    echo 'Otherwise than written.'
    exit 1
fi
