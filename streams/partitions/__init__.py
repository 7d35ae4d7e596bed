"""The work on the partitions that the engine gives to this worker. It names no engine.

partition_handover.py  starts and stops the work on partitions as they come and go
start_positions.py     decides where the commands of a partition are read from (pure)
source_topic.py        asks the broker about the commands topic and what the group committed
partition_loops.py     folds the batches of each partition, one after the other
"""
