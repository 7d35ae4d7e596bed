"""An embedded Apache Kafka: a child process with its data in one folder, on loopback addresses
only.

Files in reading order:

- first_start.py: prepare_runtime, everything that a broker needs to start fast
- runtime.py: Java, and the class path of the pinned jars
- artifacts.py, renew.py: the list of pinned jars, and the tool that rewrites it
- embedded.py: EmbeddedBroker, which starts and stops Kafka
- folder.py: the files of a broker's folder
- kafka_versions.py: which Kafka may use the data of a folder
- ports.py: free ports that a broker can keep
- control.py: the status of a folder's broker, and its end
- files.py: files replaced atomically, and locks
- server.properties, log4j2.properties: Kafka's configuration
"""
