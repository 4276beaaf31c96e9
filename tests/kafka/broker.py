"""A Kafka cluster of one broker in memory, librdkafka's mock. Prints where it listens and runs until it is ended.

After SIGUSR1 it refuses connections, until SIGUSR2; what it holds stays.
"""

import ctypes
import signal
from pathlib import Path

import confluent_kafka

(library,) = Path(confluent_kafka.__file__).parents[1].glob("confluent_kafka.libs/librdkafka*")
kafka = ctypes.CDLL(str(library))
pointer = ctypes.c_void_p
kafka.rd_kafka_conf_new.restype = kafka.rd_kafka_new.restype = kafka.rd_kafka_mock_cluster_new.restype = pointer
kafka.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p

client = kafka.rd_kafka_new(0, pointer(kafka.rd_kafka_conf_new()), None, 0)
cluster = pointer(kafka.rd_kafka_mock_cluster_new(pointer(client), 1))
kafka.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 100)  # in place of three seconds
signal.signal(signal.SIGUSR1, lambda *_: kafka.rd_kafka_mock_broker_set_down(cluster, 1))
signal.signal(signal.SIGUSR2, lambda *_: kafka.rd_kafka_mock_broker_set_up(cluster, 1))
print(kafka.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)
while True:
    signal.pause()
