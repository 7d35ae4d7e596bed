#!/bin/sh
# A delivery report of an idempotent producer can be a success and have no offset.
#
# Versions: confluent-kafka 2.16.1 (PyPI, Apache-2.0) with its librdkafka, Python 3.11.
# Seen: the producer sends a batch, and the connection ends before the answer. It sends the batch
# again, and the broker answers that it has it already (DUPLICATE_SEQUENCE_NUMBER, 46), without a
# place, as brokers do that no longer hold the batch's metadata. The report has no error, and its
# offset is None.
# Documented: that offset() may be None; not that a report without an error may have none.
# In mirrorlog: seen with three brokers of which two hung. producers/publishing/publish_queue.py
# then bounds the position by the next one, and the node sends its rows again.
#
# The broker below is a stand-in of 40 lines, because a real one must lose its metadata for that.
# Needs Python 3 with venv, and PyPI. Prints what it saw.
# Exit code: 0 if that is as written above, 1 if not, 2 if the package can't be had.

set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv || exit 2
venv/bin/pip install -q --disable-pip-version-check confluent-kafka==2.16.1 || exit 2

cat > seen.py << EOF
import socket, struct, threading
from confluent_kafka import Producer

server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
batches = 0

def string(text):
    return struct.pack(">h", len(text)) + text.encode()

def answer(api, version):
    global batches
    if api == 18 and version:  # ApiVersions: only version 0 is spoken
        return struct.pack(">hi", 35, 0)
    if api == 18:
        spoken = (0, 3, 3), (1, 4, 4), (3, 1, 1), (18, 0, 0), (22, 0, 0)
        return struct.pack(">hi", 0, 5) + b"".join(struct.pack(">hhh", *line) for line in spoken)
    if api == 3:  # Metadata: this broker leads the topic's only partition
        broker = struct.pack(">ii", 1, 1) + string("127.0.0.1") + struct.pack(">ihi", port, -1, 1)
        topic = struct.pack(">ih", 1, 0) + string("t") + struct.pack(">bi", 0, 1)
        return broker + topic + struct.pack(">hiiiiii", 0, 0, 1, 1, 1, 1, 1)
    if api == 22:  # InitProducerId
        return struct.pack(">ihqh", 0, 0, 7, 0)
    batches += 1  # Produce
    if batches > 1:
        head = struct.pack(">i", 1) + string("t") + struct.pack(">i", 1)
        return head + struct.pack(">ihqqi", 0, 46, -1, -1, 0)

def serve(connection):
    stream = connection.makefile("rb")
    while size := stream.read(4):
        request = stream.read(*struct.unpack(">i", size))
        body = answer(*struct.unpack_from(">hh", request))
        if body is None:
            return connection.shutdown(socket.SHUT_RDWR)
        connection.sendall(struct.pack(">i", len(body) + 4) + request[4:8] + body)

def accept():
    while True:
        threading.Thread(target=serve, args=server.accept()[:1], daemon=True).start()

threading.Thread(target=accept, daemon=True).start()
reports = []
servers = {"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0}
producer = Producer({**servers, "acks": "all", "enable.idempotence": True})
note = lambda error, message: reports.append((error, message.offset()))
producer.produce("t", b"value", partition=0, on_delivery=note)
producer.flush(60)
print("batches sent:", batches, "reports of (error, offset):", reports)
EOF
seen=$(timeout 120 venv/bin/python seen.py)
echo "$seen"
[ "$seen" = "batches sent: 2 reports of (error, offset): [(None, None)]" ]
