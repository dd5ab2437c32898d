"""A process that handles numbers into a database, to be killed in the middle of it.

Arguments: bootstrap servers, seconds of a session, database file, topic.
"""

from __future__ import annotations

import asyncio
import sys

import sqlalchemy as sa
from google.protobuf.wrappers_pb2 import Int64Value

from tessera_kit.bus.consumer import ConsumerRunner
from tessera_kit.bus.event import Event
from tessera_kit.bus.producer import EventProducer
from tessera_kit.bus.topics import Topic, TopicRegistry
from tessera_kit.config import DatabaseConfig, KafkaConfig
from tessera_kit.store.sql import Database, UnitOfWork

EFFECTS = sa.Table("effects", sa.MetaData(), sa.Column("n", sa.Integer))


async def handle(event: Event, uow: UnitOfWork) -> None:
    number = event.data.value  # type: ignore[attr-defined]
    await uow.session.execute(sa.insert(EFFECTS).values(n=number))


async def main(bootstrap: str, session: str, file: str, topic: str) -> None:
    registry = TopicRegistry([Topic(topic, 2, 1, (Int64Value,), "the number")])
    kafka = KafkaConfig(bootstrap, float(session))
    async with (
        Database(DatabaseConfig(f"sqlite+aiosqlite:///{file}")) as database,
        EventProducer(kafka, registry=registry) as producer,
    ):
        await ConsumerRunner(
            kafka,
            group=topic,
            handlers={Int64Value: handle},
            unit_of_work=lambda: UnitOfWork(database, registry),
            dead_letters=producer,
            registry=registry,
        ).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
