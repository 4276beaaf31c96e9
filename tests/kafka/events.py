"""The event flow of the service under test: what is handled, and by which process, is a line in the file HANDLED."""

import asyncio
import os
import time
from typing import Any

from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from fastapi import FastAPI
from my_service.ops.kafka import Subscription
from pydantic import BaseModel

HANDLED = os.open(os.environ["HANDLED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

assign = RoundRobinPartitionAssignor.assign


def assign_last(*arguments: Any) -> Any:
    """Give out partitions after all have asked: librdkafka's mock refuses who asks later, which Kafka does not."""
    time.sleep(0.3)
    return assign(*arguments)


RoundRobinPartitionAssignor.assign = assign_last


class Order(BaseModel):
    """A message of the topic orders."""

    number: int
    seconds: float = 0
    fails: int = 0


tries: dict[int, int] = {}


async def ship(order: Order, app: FastAPI) -> None:
    """Take as long and fail as often as the order says."""
    tries[order.number] = tries.get(order.number, 0) + 1
    await asyncio.sleep(order.seconds)
    if tries[order.number] <= order.fails:
        raise RuntimeError(f"no stock for {order.number}")
    os.write(HANDLED, f"{order.number} {os.getpid()}\n".encode())


SUBSCRIPTIONS = [Subscription("orders", Order, ship)]
