#!/bin/sh
# A partition without messages holds up the others of its broker, if the program is a little slow.
#
# Versions: aiokafka 0.14.0 (PyPI, Apache-2.0), Python 3.11.
# Seen: a consumer has two partitions of one broker. One has messages waiting, the other has none.
# If the program works for 0.05 s on each message, the next one is there at once. If it works for
# 0.3 s, it waits up to fetch_max_wait_ms longer, again and again, with messages at the broker.
# Why: one request to a broker is under way at a time. What was fetched ahead and isn't read within
# 0.1 s no longer keeps the consumer from asking for the partitions that have nothing. The broker
# keeps that request for fetch_max_wait_ms, and nobody asks for the partition with messages.
# Documented: that patience (prefetch_backoff in Fetcher), so that a partition that nobody reads
# doesn't block others. Not that it blocks the one that is read. faust-streaming 0.15.3 sets
# fetch_max_wait_ms to 1500, and offers no setting for either.
# In mirrorlog: a node that folded at full speed stood still for 1.2 s of 4.4 s when the first of
# its four partitions had no more commands. streams/faust_worker/fetched_columns.py is more patient.
#
# The broker below is a stand-in that speaks three requests, so that nothing else takes time.
# Needs Python 3 with venv, and PyPI. Prints what it saw.
# Exit code: 0 if that is as written above, 1 if not, 2 if the package can't be had.

set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv || exit 2
venv/bin/pip install -q --disable-pip-version-check aiokafka==0.14.0 || exit 2

cat > seen.py << EOF
import asyncio, struct, time
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.record.default_records import DefaultRecordBatchBuilder

BUSY, IDLE = TopicPartition("t", 0), TopicPartition("t", 1)
WAIT_S = 1.5

def string(text):
    return struct.pack(">h", len(text)) + text.encode()

def batch(offset):
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, 0, 1000)
    builder.append(0, 1, b"key", b"value", [])
    return struct.pack(">q", offset) + bytes(builder.build())[8:]

def metadata(port):  # version 0: this broker leads both partitions
    host = struct.pack(">ii", 1, 1) + string("127.0.0.1") + struct.pack(">i", port)
    lead = lambda number: struct.pack(">hiiiiii", 0, number, 1, 1, 1, 1, 1)
    return host + struct.pack(">ih", 1, 0) + string("t") + struct.pack(">i", 2) + lead(0) + lead(1)

async def fetch(body):  # version 4
    _, max_wait_ms, _, _, _, _ = struct.unpack_from(">iiiibi", body)
    at = 21 + 2 + len("t")
    (count,) = struct.unpack_from(">i", body, at)
    asked = [struct.unpack_from(">iqi", body, at + 4 + 16 * n)[:2] for n in range(count)]
    if all(number == IDLE.partition for number, _ in asked):
        await asyncio.sleep(max_wait_ms / 1000)
    answer = struct.pack(">ii", 0, 1) + string("t") + struct.pack(">i", count)
    for number, offset in asked:
        data = batch(offset) if number == BUSY.partition else b""
        answer += struct.pack(">ihqqii", number, 0, 1000, 1000, 0, len(data)) + data
    return answer

async def serve(reader, writer):
    port = writer.get_extra_info("sockname")[1]
    while size := await reader.read(4):
        request = await reader.readexactly(*struct.unpack(">i", size))
        api, version, _, name = struct.unpack_from(">hhih", request)
        body = request[10 + name :]
        if api == 18 and version:  # ApiVersions: only version 0 is spoken
            answer = struct.pack(">hi", 35, 0)
        elif api == 18:
            spoken = (1, 4, 4), (3, 0, 0), (18, 0, 0)
            answer = struct.pack(">hi", 0, 3) + b"".join(struct.pack(">hhh", *s) for s in spoken)
        else:
            answer = metadata(port) if api == 3 else await fetch(body)
        writer.write(struct.pack(">i", len(answer) + 4) + request[4:8] + answer)

async def longest_wait_s(port, work_s):
    consumer = AIOKafkaConsumer(
        bootstrap_servers=f"127.0.0.1:{port}", fetch_max_wait_ms=round(WAIT_S * 1000)
    )
    await consumer.start()
    consumer.assign([BUSY, IDLE])
    consumer.seek(BUSY, 0)
    consumer.seek(IDLE, 0)
    waits = []
    for _ in range(6):
        began = time.monotonic()
        assert await consumer.getmany(timeout_ms=30_000)
        waits.append(time.monotonic() - began)
        await asyncio.sleep(work_s)
    await consumer.stop()
    return max(waits)

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    quick, slow = [await longest_wait_s(port, work_s) for work_s in (0.05, 0.3)]
    await asyncio.sleep(WAIT_S)  # The broker's last answer is on its way.
    print("work of 0.05 s a message: waits are short:", quick < 0.5)
    print("work of 0.3 s a message: some waits are long:", slow > WAIT_S - 0.5)

asyncio.run(main())
EOF
seen=$(timeout 120 venv/bin/python seen.py)
echo "$seen"
[ "$seen" = "work of 0.05 s a message: waits are short: True
work of 0.3 s a message: some waits are long: True" ]
