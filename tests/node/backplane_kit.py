"""Fixtures and helpers for tests of the backplane; import the fixtures where they are used."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from channels import layers
from channels.layers import BaseChannelLayer, get_channel_layer
from django.test import override_settings

from graceful_ws.envelopes import pending_envelope
from graceful_ws.node import backplane as module
from graceful_ws.node.backplane import Backplane, stream_group
from tests.support.waiting import eventually

CORE = "channels_redis.core.RedisChannelLayer"
PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
WITHIN = 10.0  # seconds
both = pytest.mark.parametrize("backend", [CORE, PUBSUB], ids=["core", "pubsub"])


def group() -> str:
    return stream_group(uuid.uuid4().hex)


class Ear(Backplane):
    """A backplane that keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.joins: list[str] = []
        super().__init__(self.heard.append, self.joins.append)

    async def in_force(self, *groups: str) -> None:
        for name in groups:
            self.join(name)
        await eventually(lambda: self.works, WITHIN, "it works")


Start = Callable[[], Awaitable[Ear]]


@pytest.fixture
def use(redis_url: str) -> Iterator[Callable[..., None]]:
    """Configures a layer: ``use(CORE)``; no backend: none."""
    overrides: list[override_settings] = []

    def use(backend: str | None, **config: Any) -> None:
        value: dict[str, Any] = {}
        if backend is not None:
            if backend in (CORE, PUBSUB):
                config["hosts"] = [{"address": redis_url, **config.pop("host", {})}]
                config["hosts"] += config.pop("more", [])
            value = {"default": {"BACKEND": backend, "CONFIG": config}}
        overrides.append(override_settings(CHANNEL_LAYERS=value))
        overrides[-1].enable()
        layers.channel_layers.backends.clear()

    yield use
    for override in reversed(overrides):
        override.disable()
    layers.channel_layers.backends.clear()


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a backplane; it ends with the test and leaves no task behind."""
    before = asyncio.all_tasks()
    running: list[tuple[Ear, asyncio.Task[None]]] = []

    async def start() -> Ear:
        ear = Ear()
        running.append((ear, asyncio.create_task(ear.run())))
        return ear

    yield start
    for ear, task in running:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, WITHIN)
        started = time.monotonic()
        await ear.stop()
        assert time.monotonic() - started < WITHIN
    before.add(asyncio.current_task())  # type: ignore[arg-type]
    await eventually(lambda: not asyncio.all_tasks() - before, 3, "no task is left")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SELF_TEST", 0.2)
    monkeypatch.setattr(module, "HEARD_WITHIN", (0.05, 0.2, 0.5))
    monkeypatch.setattr(module, "RETRIES", (0.05, 0.1))
    monkeypatch.setattr("graceful_ws.node.shared_layer.TIMEOUT", 0.5)


async def heard(speaker: Ear, ear: Ear, name: str) -> None:
    """Something said now arrives."""
    envelope = pending_envelope([time.monotonic_ns()])
    speaker.send(name, envelope)
    await eventually(lambda: envelope in ear.heard, WITHIN, "it is heard")


class Fake(BaseChannelLayer):
    """A layer whose faults are chosen."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.groups: set[str] = set()
        self.deaf = False
        self.sent: list[Any] = []

    async def new_channel(self, prefix: str = "specific") -> str:
        return f"{prefix}.a!{uuid.uuid4().hex}"

    async def receive(self, channel: str) -> Any:
        return await self.queue.get()

    async def group_add(self, group: str, channel: str) -> None:
        self.groups.add(group)

    async def group_discard(self, group: str, channel: str) -> None:
        self.groups.discard(group)

    async def group_send(self, group: str, message: Any) -> None:
        self.sent.append((group, message))
        if message.get("data") == "no":
            raise TypeError("cannot be serialized")
        if not self.deaf and group in self.groups:
            self.queue.put_nowait(message)


@pytest.fixture
async def fake(use: Any) -> Any:
    use("tests.node.backplane_kit.Fake")
    return get_channel_layer()
