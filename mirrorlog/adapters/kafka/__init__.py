"""Kafka through confluent-kafka: the ports of mirrorlog.ports.streams on a real cluster.

Every librdkafka setting that the user passes is handed on. Settings on which an invariant depends
are set last and can't be overruled, the isolation level of every consumer among them.

- client.py: a librdkafka client that repeats a request until the cluster answers or refuses it
- first_answer.py: whether a client that no broker has answered yet goes on waiting
- outage_log.py: logs when Kafka is away, and when it answers again
- publisher.py: KafkaPublisher
- report_publisher.py: ReportPublisher, for reports that nothing depends on
- reader.py: KafkaReader
- admin.py: KafkaAdmin
- acls.py: KafkaAcls
- descriptions.py: KafkaDescriptions, for `mirrorlog doctor`
"""

from mirrorlog.adapters.kafka.admin import KafkaAdmin
from mirrorlog.adapters.kafka.client import ClientSettings
from mirrorlog.adapters.kafka.publisher import KafkaPublisher
from mirrorlog.adapters.kafka.reader import KafkaReader
from mirrorlog.adapters.kafka.report_publisher import ReportPublisher

__all__ = ["ClientSettings", "KafkaAdmin", "KafkaPublisher", "KafkaReader", "ReportPublisher"]
