#!/bin/sh
# nbdkit --exit-with-parent doesn't exit with its parent while a client is connected. It serves
# nobody any more, but keeps its files open, and their locks, until that client leaves.
#
# Versions: nbdkit 1.32.5-1, libnbd-bin 1.14.2-1 (Debian 12, amd64).
# Seen: a shell starts nbdkit with --exit-with-parent, and is killed with SIGKILL. Then nbdkit
#
#     without a client                          is gone within two seconds
#     with an idle client (nbdkit's nbd plugin) is still there after five seconds, and takes no
#                                               new client
#     when the client sends a request           refuses it, and is still there
#     when the client has gone                  is gone within two seconds
#
# The kernel sends the SIGTERM that nbdkit asked for (PR_SET_PDEATHSIG), and SIGTERM lets nbdkit
# wait for its connections. It asks for it at its start, so a parent that set SIGKILL before exec
# doesn't get that either.
# Documented: nbdkit(1) says of --exit-with-parent that if the parent process exits, nbdkit exits.
# In mirrorlog: the filter of `host serve` asks for SIGKILL again when nbdkit has loaded it.
#
# Needs apt-get with Debian 12's packages (after apt-get update), and no root. Prints what it saw.
# Exit code: 0 if that is as written above, 1 if not, 2 if the packages can't be had.

PACKAGES='nbdkit=1.32.5-1 libnbd-bin=1.14.2-1'
TOOLS='nbdkit nbdcopy nbdinfo'
set -eu
folder=$(mktemp -d)
started=
trap 'for each in $started; do kill -9 "$each" 2> kill.log || true; done; rm -rf "$folder"' EXIT
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

plugins=$folder/root/usr/lib/x86_64-linux-gnu/nbdkit/plugins
nbdkit --version

appears() {  # appears SOCKET: wait until it is there
    for _ in $(seq 100); do [ -S "$1" ] && return; sleep 0.1; done
    echo "no server at $1"
    exit 1
}
ends() {  # ends PID SECONDS: whether the process has ended within that time
    for _ in $(seq "$2"); do
        case $(sed 's/.*) //' "/proc/$1/stat" 2> stat.log) in Z* | '') echo gone; return ;; esac
        sleep 1
    done
    echo there
}
serve() {  # serve NAME: let a shell start nbdkit, and set parent and server to their ids
    sh -c "nbdkit -f --exit-with-parent -U $folder/$1.sock $plugins/nbdkit-file-plugin.so \
        $folder/disk.raw & echo \$! > $1.pid; wait" &
    parent=$!
    appears "$folder/$1.sock"
    server=$(cat "$1.pid")
    started="$started $parent $server"
}
truncate -s 65536 disk.raw

serve alone
kill -9 "$parent"
alone=$(ends "$server" 2)

serve busy
nbdkit -f -U "$folder/client.sock" "$plugins/nbdkit-nbd-plugin.so" \
    socket="$folder/busy.sock" shared=true &
client=$!
started="$started $client"
appears "$folder/client.sock"
kill -9 "$parent"
busy=$(ends "$server" 5)
new=taken
timeout 5 nbdinfo --size "nbd+unix:///?socket=$folder/busy.sock" > info.log 2>&1 || new=refused
asked=answered
nbdcopy "nbd+unix:///?socket=$folder/client.sock" copy.raw > copy.log 2>&1 || asked=refused
still=$(ends "$server" 2)
kill "$client"
left=$(ends "$server" 2)

echo "Without a client: $alone. With a client: $busy; a new client: $new; a request: $asked."
echo "After the request: $still. When the client has gone: $left."
if [ "$alone $busy $new $asked $still $left" = 'gone there refused refused there gone' ]; then
    echo 'As written.'
else
    echo 'Otherwise than written.'
    exit 1
fi
