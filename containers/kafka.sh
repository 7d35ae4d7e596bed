#!/bin/sh
# What the brokers of docker-compose.yml run:
#
#   mirrorlog-kafka NUMBER         start the broker
#   mirrorlog-kafka in-sync        exit code 0 if no partition lacks a copy
#   mirrorlog-kafka features ARG … kafka-features.sh, for the end of an upgrade
#
# A broker writes to its volume and to /tmp alone. Kafka's classes are called directly, because the
# scripts of an image write elsewhere.
set -eu
run() { # OPTIONS CLASS ARGUMENT …
  options=$1
  shift
  # shellcheck disable=SC2086 # options are words
  exec java $options -Djava.awt.headless=true -cp '/opt/kafka/libs/*' \
    -Dlog4j2.configurationFile=/etc/mirrorlog/log4j2.properties "$@"
}
tool='-Xmx128m -XX:TieredStopAtLevel=1 -Dlog.level=error'
case $1 in
in-sync)
  lacking=$(run "$tool" org.apache.kafka.tools.TopicCommand --bootstrap-server 127.0.0.1:19092 \
    --describe --under-replicated-partitions)
  [ -z "$lacking" ] || { echo "$lacking" && exit 1; }
  ;;
features)
  shift
  run "$tool" org.apache.kafka.tools.FeatureCommand --bootstrap-server 127.0.0.1:19092 "$@"
  ;;
*)
  data=/var/lib/mirrorlog/kafka settings=/tmp/server.properties
  sed -e "s/\$number/$1/g" -e "s/\$port/$KAFKA_PORT/g" /etc/mirrorlog/kafka.properties >"$settings"
  [ -e "$data/meta.properties" ] ||
    (run "$tool" kafka.tools.StorageTool format --cluster-id "$KAFKA_CLUSTER_ID" --config "$settings")
  run "$KAFKA_JVM_OPTIONS -XX:+ExitOnOutOfMemoryError" kafka.Kafka "$settings"
  ;;
esac
