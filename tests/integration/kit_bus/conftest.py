"""What the tests of the bus on a real broker share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devstack import Stack
from tessera_kit.bus.topics import Topic, TopicRegistry
from tessera_kit.config import KafkaConfig


@pytest.fixture
def registry(topic: Topic) -> TopicRegistry:
    """The topic of the test, alone."""
    return TopicRegistry([topic])


@pytest.fixture
def kafka(stack: Stack) -> KafkaConfig:
    """The broker, with groups that notice soon.

    A group is formed in half of a session, and misses a killed member after a whole one.
    """
    return replace(KafkaConfig.from_env(stack.environment), session_seconds=2.0)
