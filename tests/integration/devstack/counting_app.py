"""A Faust worker that counts words in a table: `counting_app.py BOOTSTRAP NAME DIRECTORY`."""

from __future__ import annotations

import sys

import faust


def main(bootstrap: str, name: str, directory: str) -> None:
    """Runs the worker until it is stopped."""
    app = faust.App(
        name,
        broker=f"kafka://{bootstrap}",
        topic_partitions=1,
        datadir=directory,
        # Tansu lets the first member of a group wait for half of its session timeout.
        broker_session_timeout=6.0,
        broker_heartbeat_interval=1.0,
    )
    words = app.topic(f"{name}-words", value_type=str, value_serializer="raw")
    counts = app.topic(f"{name}-counts", key_type=str, value_type=str, value_serializer="raw")
    table = app.Table("counts", default=int, partitions=1)

    async def count(stream: faust.StreamT[str]) -> None:
        async for word in stream:
            table[word] += 1
            await counts.send(key=word, value=str(table[word]))

    app.agent(words)(count)
    sys.argv[1:] = ["worker", "--without-web", "-l", "warn"]
    app.main()


if __name__ == "__main__":
    main(*sys.argv[1:4])
