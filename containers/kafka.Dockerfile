# A broker of docker-compose.yml: Kafka from KAFKA_IMAGE, with settings of its own and without rights.
ARG KAFKA_IMAGE=apache/kafka:4.4.0
FROM ${KAFKA_IMAGE}
USER root
RUN mkdir -p /var/lib/mirrorlog/kafka && chown 10001:10001 /var/lib/mirrorlog/kafka
COPY containers/kafka.properties containers/log4j2.properties /etc/mirrorlog/
COPY --chmod=755 containers/kafka.sh /usr/local/bin/mirrorlog-kafka
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["mirrorlog-kafka"]
