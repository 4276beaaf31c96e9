"""A Kafka cluster of one broker in memory, librdkafka's mock. Prints where it listens and obeys the lines of its input.

`down` refuses connections, until `up`. `refuse TOPIC` lets no new client use a topic, until `accept TOPIC`.
`slow 50` delays each answer by 50 ms. What it holds stays.
"""

import ctypes
import sys
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
print(kafka.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)

TOPIC_AUTHORIZATION_FAILED = 29
for line in sys.stdin:
    command, *arguments = line.split()
    match command:
        case "down":
            kafka.rd_kafka_mock_broker_set_down(cluster, 1)
        case "up":
            kafka.rd_kafka_mock_broker_set_up(cluster, 1)
        case "refuse":
            kafka.rd_kafka_mock_topic_set_error(cluster, arguments[0].encode(), TOPIC_AUTHORIZATION_FAILED)
        case "accept":
            kafka.rd_kafka_mock_topic_set_error(cluster, arguments[0].encode(), 0)
        case "slow":
            kafka.rd_kafka_mock_broker_set_rtt(cluster, 1, int(arguments[0]))
