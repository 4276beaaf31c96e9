"""A Kafka cluster of one broker in memory, librdkafka's mock, where the official image has its listener for containers.

It tells clients the address of KAFKA_ADVERTISED_LISTENERS and passes on what comes there; the mock listens on loopback.
"""

import asyncio
import ctypes
import os
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
inside = int(kafka.rd_kafka_mock_cluster_bootstraps(cluster).decode().rpartition(":")[2])
listeners = dict(each.split("://") for each in os.environ["KAFKA_ADVERTISED_LISTENERS"].split(","))
host, _, port = listeners["NETWORK"].rpartition(":")
kafka.rd_kafka_mock_broker_set_host_port(cluster, 1, host.encode(), int(port))


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy from one end to the other."""
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Connect a client with the mock."""
    to_mock, from_mock = await asyncio.open_connection("127.0.0.1", inside)
    await asyncio.gather(pass_on(reader, from_mock), pass_on(to_mock, writer), return_exceptions=True)


async def serve() -> None:
    """Serve until the process is ended."""
    async with await asyncio.start_server(connect, "", int(port)) as server:
        await server.serve_forever()


asyncio.run(serve())
