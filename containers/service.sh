#!/bin/sh
# How docker-compose.yml starts its services:
#
#   mirrorlog-service setup                   once: the topics, and the token that HTTP requests carry
#   mirrorlog-service node | dashboard
#   mirrorlog-service host VOLUME [OPTION…]   the volume is made at the first start
#   mirrorlog-service site SITE [OPTION…]
#   mirrorlog-service healthy PORT PATH       exit code 0 if this answers with 200
set -eu
token=/run/mirrorlog/token

case $1 in
setup)
  if [ ! -s $token ]; then
    (umask 333 && od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >$token.new)
    mv $token.new $token
  fi
  # A broker takes connections a little before it counts in the cluster.
  for _ in 1 2 3 4; do mirrorlog topics create && exit; sleep 2; done
  exec mirrorlog topics create
  ;;
node | dashboard)
  exec mirrorlog "$1"
  ;;
host)
  volume=$2
  shift 2
  mirrorlog -q volume show "$volume" >/dev/null 2>&1 ||
    mirrorlog volume create "$volume" --size "$VOLUME_SIZE"
  exec mirrorlog host serve "$volume" --through filter --port 10809 --address 0.0.0.0 "$@"
  ;;
site)
  site=$2
  shift 2
  exec mirrorlog site run "$site" --dir /var/lib/mirrorlog/state/site "$@"
  ;;
healthy)
  exec python -I -S -c '
import os, ssl, sys
from http.client import HTTPConnection, HTTPSConnection
where, own = (sys.argv[1], int(sys.argv[2])), os.environ.get("MIRRORLOG_HTTP_CERTIFICATE")
if own:  # asked at the loopback, which is no name of the certificate
    context = ssl._create_unverified_context()
    context.load_cert_chain(own, os.environ["MIRRORLOG_HTTP_KEY"])
    connection = HTTPSConnection(*where, timeout=4, context=context)
else:
    connection = HTTPConnection(*where, timeout=4)
connection.request("GET", sys.argv[3], headers={"Authorization": "Bearer " + open(sys.argv[4]).read()})
sys.exit(connection.getresponse().status != 200)
' 127.0.0.1 "$2" "$3" $token
  ;;
*)
  echo "mirrorlog-service: there is no service $1" >&2
  exit 2
  ;;
esac
