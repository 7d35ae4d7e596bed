"""Adapters: the ports on this machine and on a Kafka cluster.

- addresses.py: addresses of devices, and opening them
- file_device.py: a file or a block device, through the page cache
- range_transfers.py: reads and writes many ranges of a file at once
- kernel_aio.py: Linux's asynchronous reads and writes, with which it does that
- writeback.py: begins to write a file's pages out before they are flushed
- direct_device.py: the same past the page cache (O_DIRECT)
- range_locks.py: locks of ranges between threads
- nbd_client/: an NBD export, through libnbd
- device_identity.py: which storage an open file or block device is
- task_threads.py: threads that share work
- sealed_json.py: small files of JSON with a checksum
- mark_format.py: how a mark lies on disk
- primary_marks.py: where the mark of a primary is kept
- ofd_locks.py: locks of bytes of a file, which end with the process
- image_locks.py: locks that keep other writers off an image
- secondary_marks.py: the mark beside a secondary
- folders.py: durable folders and their locks
- log_folder.py: the files of the logs of commands
- os_failures.py: what the operating system refuses, as an error for operators
- machine.py: which machine this is, and whose folder a folder is
- listening.py: TCP sockets for what answers over HTTP
- metrics_page.py: metrics as the text that Prometheus reads
- metrics_server.py: a small HTTP server for metrics alone
- tracing.py: the switch of traces
- otel.py: traces through OpenTelemetry
- kafka/: a Kafka cluster through confluent-kafka
"""
