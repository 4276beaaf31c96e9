"""The event flow of the service under test: what is handled, and by which process, is a line in the file HANDLED."""

import asyncio
import os
import time
from typing import Any, Self

import structlog
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from fastapi import FastAPI
from my_service.ops.kafka import ConsumerRecord, Subscription
from pydantic import BaseModel, model_validator

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
    ends: bool = False

    @model_validator(mode="after")
    def check(self) -> Self:
        """Fail as a validator's own code may, and not as pydantic expects it to."""
        if self.number < 0:
            raise KeyError(self.number)
        return self


tries: dict[int, int] = {}


async def ship(order: Order, app: FastAPI) -> None:
    """Take as long and fail as often as the order says; one that `ends` cancels the service's consumer."""
    tries[order.number] = tries.get(order.number, 0) + 1
    if order.seconds > 5:
        structlog.get_logger().info("a long order", number=order.number)
    await asyncio.sleep(order.seconds)
    if tries[order.number] <= order.fails:
        raise RuntimeError(f"no stock for {order.number}")
    if order.ends:
        (consumer,) = [task for task in asyncio.all_tasks() if task.get_name() == "consumer"]
        consumer.cancel()
    os.write(HANDLED, f"{order.number} {os.getpid()}\n".encode())


async def cancel(message: ConsumerRecord, app: FastAPI) -> None:
    """Handle the order that is gone as if it were one."""
    os.write(HANDLED, f"{message.key.decode()} {os.getpid()}\n".encode())


SUBSCRIPTIONS = [Subscription("orders", Order, ship, cancel)]
