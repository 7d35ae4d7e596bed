#!/bin/sh
# How docker-compose.yml starts its services:
#
#   mirrorlog-service setup        once: the topics, and the token that HTTP requests carry
#   mirrorlog-service node
#   mirrorlog-service host VOLUME [OPTION …]
#                                  with the volume, which is made at the first start
#   mirrorlog-service site SITE
#   mirrorlog-service healthy URL  exit code 0 if it answers with 200
set -eu
token=/run/mirrorlog/token

if [ -r $token ]; then
  MIRRORLOG_NODE_HTTP_TOKEN=$(cat $token)
  MIRRORLOG_METRICS_TOKEN=$MIRRORLOG_NODE_HTTP_TOKEN
  export MIRRORLOG_NODE_HTTP_TOKEN MIRRORLOG_METRICS_TOKEN
fi

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
node)
  exec mirrorlog node
  ;;
host)
  volume=$2
  shift 2
  mirrorlog -q volume show "$volume" >/dev/null 2>&1 ||
    mirrorlog volume create "$volume" --size "$VOLUME_SIZE"
  exec mirrorlog host serve "$volume" --through filter --port 10809 --address 0.0.0.0 "$@"
  ;;
site)
  exec mirrorlog site run "$2" --dir /var/lib/mirrorlog/state/site
  ;;
healthy)
  exec python -I -S -c '
import sys
from http.client import HTTPConnection
connection = HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=4)
connection.request("GET", sys.argv[3], headers={"Authorization": "Bearer " + sys.argv[4]})
sys.exit(connection.getresponse().status != 200)
' 127.0.0.1 "$2" "$3" "${MIRRORLOG_METRICS_TOKEN:-}"
  ;;
*)
  echo "mirrorlog-service: there is no service $1" >&2
  exit 2
  ;;
esac
