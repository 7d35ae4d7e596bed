"""Everything of Faust, mode and aiokafka that this package touches beside their documented calls.

Most of it is private, and any release may drop it. tests/contract/test_faust_parts.py fails in a
second if a part is gone, has other parameters, or isn't called any more where it was. It also fails
if this package touches a part that isn't listed. The bounds in pyproject.toml keep releases away
that nobody has tried. After raising one, run that test first.

A line names a part as `module:Class.attribute`, with its parameters if it is a function. Behind
`called by` stands the function of the library that calls what is overridden here.
"""

from __future__ import annotations

from typing import Final

PARTS: Final = """
faust.app.base:App._fetcher
faust.app.base:App.add_dependency(service)
faust.app.base:App.agent
faust.app.base:App.assignor
faust.app.base:App.conf
faust.app.base:App.consumer
faust.app.base:App.consumer_generation_id
faust.app.base:App.flow_control
faust.app.base:App.on_before_shutdown
faust.app.base:App.on_partitions_assigned
faust.app.base:App.on_partitions_revoked
faust.app.base:App.on_rebalance_complete
faust.app.base:App.on_rebalance_end()
faust.app.base:App.producer
faust.app.base:App.router
faust.app.base:App.Table
faust.app.base:App.tables
faust.app.base:App.topic
faust.app.base:App.transport
faust.app.router:Router.table_metadata(table_name)
faust.assignor.client_assignment:ClientAssignment.actives
faust.assignor.client_assignment:ClientAssignment.standbys
faust.assignor.client_assignment:ClientMetadata.assignment
faust.assignor.partition_assignor:PartitionAssignor.__init__(app, replicas) \
    | called by faust.app.base:App.assignor
faust.assignor.partition_assignor:PartitionAssignor._global_table_standby_assignments( \
    assignments, partitions_by_topic) \
    | called by faust.assignor.partition_assignor:PartitionAssignor._perform_assignment
faust.assignor.partition_assignor:PartitionAssignor._table_manager
faust.assignor.partition_assignor:PartitionAssignor._update_member_urls(clients_metadata) \
    | called by faust.assignor.partition_assignor:PartitionAssignor._perform_assignment
faust.assignor.partition_assignor:PartitionAssignor.app
faust.assignor.partition_assignor:PartitionAssignor.assigned_actives()
faust.assignor.partition_assignor:PartitionAssignor.assigned_standbys()
faust.stores.rocksdb:RocksDBOptions.as_options() \
    | called by faust.stores.rocksdb:RocksDBOptions.open
faust.stores.rocksdb:RocksDBOptions.open(path, read_only) \
    | called by faust.stores.rocksdb:Store._open_for_partition
faust.stores.rocksdb:Store._db_for_partition(partition)
faust.stores.rocksdb:Store._dbs
faust.stores.rocksdb:Store.apply_changelog_batch(batch, to_key, to_value)
faust.stores.rocksdb:Store.partition_path(partition)
faust.stores.rocksdb:Store.persisted_offset(tp)
faust.stores.rocksdb:Store.rocksdb_options
faust.streams:Stream.ack(event)
faust.streams:Stream.events()
faust.streams:Stream.noack()
faust.events:Event.value
faust.tables.base:Collection.data
faust.tables.base:Collection.name
faust.tables.base:Collection.on_recover(fun)
faust.tables.base:Collection.on_recovery_completed(active_tps, standby_tps)
faust.tables.manager:TableManager._recovery
faust.tables.manager:TableManager.app
faust.tables.manager:TableManager.beacon
faust.tables.manager:TableManager.changelog_topics
faust.tables.manager:TableManager.loop
faust.tables.manager:TableManager.on_actives_ready()
faust.tables.manager:TableManager.on_standbys_ready()
faust.tables.manager:TableManager.recovery \
    | called by faust.tables.manager:TableManager.on_rebalance
faust.tables.recovery:Recovery._set_recovery_ended()
faust.tables.recovery:Recovery._wait(coro, timeout)
faust.tables.recovery:Recovery.add_active(table, tp) \
    | called by faust.tables.recovery:Recovery.on_rebalance
faust.tables.recovery:Recovery.add_standby(table, tp) \
    | called by faust.tables.recovery:Recovery.on_rebalance
faust.tables.recovery:Recovery.app
faust.tables.recovery:Recovery.completed
faust.tables.recovery:Recovery.on_partitions_revoked(revoked) \
    | called by faust.tables.manager:TableManager.on_partitions_revoked
faust.tables.recovery:Recovery.on_recovery_completed(generation_id) \
    | called by faust.tables.recovery:Recovery._restart_recovery
faust.tables.recovery:Recovery.on_stop()
faust.tables.recovery:Recovery.tables
faust.transport.consumer:Consumer._acked
faust.transport.consumer:Consumer._acked_index
faust.transport.consumer:Consumer._add_gap(tp, offset_from, offset_to) \
    | called by faust.transport.consumer:Consumer._drain_messages
faust.transport.consumer:Consumer._committed_offset
faust.transport.consumer:Consumer._get_active_partitions()
faust.transport.consumer:Consumer._new_offset(tp) \
    | called by faust.transport.consumer:Consumer._filter_committable_offsets
faust.transport.consumer:Consumer._wait_next_records(timeout) \
    | called by faust.transport.consumer:Consumer.getmany
faust.transport.consumer:Consumer.app
faust.transport.consumer:Consumer.perform_seek()
faust.transport.consumer:Consumer.resume_flow()
faust.transport.consumer:Consumer.resume_partitions(tps)
faust.transport.consumer:Consumer.should_stop
faust.transport.consumer:Consumer.sleep(n)
faust.transport.consumer:Consumer.wait
faust.transport.consumer:ThreadDelegateConsumer._thread
faust.transport.consumer:ThreadDelegateConsumer.assignment()
faust.transport.consumer:ThreadDelegateConsumer.highwater(tp)
faust.transport.consumer:ThreadDelegateConsumer.seek_to_committed() \
    | called by faust.transport.consumer:Consumer.perform_seek
faust.transport.consumer:ThreadDelegateConsumer.seek_wait(partitions)
faust.transport.drivers.aiokafka:AIOKafkaConsumerThread
faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._create_consumer(loop) \
    | called by faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.on_start
faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._ensure_consumer()
faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._fetch_records( \
    consumer, active_partitions, timeout, max_records) \
    | called by faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.getmany
faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.consumer
faust.transport.drivers.aiokafka:Consumer._new_consumer_thread() \
    | called by faust.transport.consumer:ThreadDelegateConsumer.__init__
faust.transport.drivers.aiokafka:Consumer.__init__
faust.transport.drivers.aiokafka:Consumer._to_message(tp, record) \
    | called by faust.transport.consumer:Consumer.getmany
faust.transport.drivers.aiokafka:Consumer.verify_event_path(now, tp) \
    | called by faust.transport.consumer:Consumer.verify_all_partitions_active
faust.transport.drivers.aiokafka:Producer.send( \
    topic, key, value, partition, timestamp, headers, transactional_id)
faust.transport.drivers.aiokafka:Producer._new_producer(transactional_id) \
    | called by faust.transport.drivers.aiokafka:Producer.on_start
faust.transport.drivers.aiokafka:Transport.Consumer
faust.transport.drivers.aiokafka:Transport.Producer
faust.types.settings:Settings.broker_consumer
faust.types.settings:Settings.broker_request_timeout
faust.types.settings:Settings.stream_processing_timeout
faust.types.settings:Settings.topic_partitions
faust.types.tuples:ConsumerMessage.key
faust.types.tuples:ConsumerMessage.value
faust.types.tuples:TP.partition
faust.types.tuples:TP.topic
faust.worker:Worker.spinner
faust:App
faust:SASLCredentials
faust:SSLCredentials
faust:Worker
faust.transport.drivers.aiokafka:Transport
mode:Service.maybe_start()
mode:Service.on_start()
mode:Service.on_stop()
mode.utils.locks:Event.set()
mode.signals:BaseSignal.connect
mode.signals:Signal.send
mode.utils.queues:FlowControlEvent.resume()
mode.worker:Worker.execute_from_commandline()
aiokafka.client:AIOKafkaClient._get_conn(node_id, group, no_hint) \
    | called by aiokafka.client:AIOKafkaClient.ready
aiokafka.conn:AIOKafkaConnection._handle_frame(resp) \
    | called by aiokafka.conn:AIOKafkaConnection._read
aiokafka.conn:AIOKafkaConnection._last_action
aiokafka.conn:AIOKafkaConnection._protocol
aiokafka.conn:AIOKafkaConnection._requests
aiokafka.conn:AIOKafkaConnection._writer
aiokafka.conn:AIOKafkaConnection.close(reason, exc)
aiokafka.conn:AIOKafkaConnection.connected()
aiokafka.conn:AIOKafkaConnection.host
aiokafka.conn:AIOKafkaConnection.port
aiokafka.conn:CloseReason.CONNECTION_BROKEN
aiokafka.consumer.consumer:AIOKafkaConsumer._client
aiokafka.consumer.consumer:AIOKafkaConsumer._fetcher
aiokafka.consumer.fetcher:Fetcher._records
aiokafka.consumer.fetcher:Fetcher._subscriptions
aiokafka.consumer.fetcher:FetchResult._backoff
aiokafka.consumer.fetcher:FetchResult._partition_records
aiokafka.consumer.fetcher:PartitionRecords._check_crcs
aiokafka.consumer.fetcher:PartitionRecords._consumer_record(tp, record)
aiokafka.consumer.fetcher:PartitionRecords._records
aiokafka.consumer.fetcher:PartitionRecords._records_iterator
aiokafka.consumer.fetcher:PartitionRecords._tp
aiokafka.consumer.fetcher:PartitionRecords.next_fetch_offset
aiokafka.consumer.subscription_state:Assignment.state_value(tp)
aiokafka.consumer.subscription_state:Subscription.assignment
aiokafka.consumer.subscription_state:SubscriptionState.subscription
aiokafka.consumer.subscription_state:TopicPartitionState.highwater
aiokafka.consumer.subscription_state:TopicPartitionState.timestamp
aiokafka.errors:KafkaError.retriable
aiokafka.producer.message_accumulator:BatchBuilder._builder
aiokafka.producer.message_accumulator:MessageAccumulator._batch_size
aiokafka.producer.message_accumulator:MessageAccumulator._compression_type
aiokafka.producer.message_accumulator:MessageAccumulator._txn_manager
aiokafka.producer.message_accumulator:MessageAccumulator.create_builder( \
    key_serializer, value_serializer) \
    | called by aiokafka.producer.message_accumulator:MessageAccumulator.add_message
aiokafka.producer.producer:AIOKafkaProducer._message_accumulator
aiokafka.producer.producer:AIOKafkaProducer.client
aiokafka.protocol.api:RequestStruct.parse_response_header(read_buffer)
aiokafka.protocol.api:RequestStruct.RESPONSE_TYPE
aiokafka.protocol.api:Response.decode
aiokafka.record.default_records:DefaultRecord.headers
aiokafka.record.default_records:DefaultRecord.key
aiokafka.record.default_records:DefaultRecord.offset
aiokafka.record.default_records:DefaultRecord.timestamp
aiokafka.record.default_records:DefaultRecord.timestamp_type
aiokafka.record.default_records:DefaultRecord.value
aiokafka.record.default_records:DefaultRecordBatch.is_control_batch
aiokafka.record.default_records:DefaultRecordBatch.next_offset
aiokafka.record.default_records:DefaultRecordBatch.validate_crc()
aiokafka.record.memory_records:MemoryRecords.has_next()
aiokafka.record.memory_records:MemoryRecords.next_batch()
aiokafka.structs:RecordMetadata.offset
rocksdict:Options.set_keep_log_file_num
rocksdict:Options.set_max_log_file_size
rocksdict:Rdict.delete
rocksdict:Rdict.flush
rocksdict:Rdict.iter
rocksdict:Rdict.property_int_value
rocksdict:Rdict.put
rocksdict:Rdict.set_write_options
rocksdict:Rdict.write
rocksdict:RdictIter.next
rocksdict:RdictIter.seek
rocksdict:RdictIter.status
rocksdict:RdictIter.valid
rocksdict:WriteBatch.delete
rocksdict:WriteBatch.put
rocksdict:WriteOptions.disable_wal
"""
