"""The tests that a Channels site has already go on working, with the tools of channels.testing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.database_url import database_settings
from tests.testing.sample import Sample

CONSUMERS = """
from channels.db import database_sync_to_async
from django.contrib.auth import get_user_model

from graceful_ws.consumers import GracefulConsumer, GracefulWebsocketConsumer


class Orders(GracefulConsumer):
    groups = ["orders"]

    async def receive_json(self, content):
        if content == "count":
            content = await database_sync_to_async(get_user_model().objects.count)()
        await self.send_json(content)

    async def order_placed(self, event):
        await self.send_json(event["order"])


class Lobby(GracefulWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data, bytes_data)
"""

ASGI = """
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orders.settings")
http = get_asgi_application()

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.urls import path

from orders.consumers import Lobby, Orders

routes = [path("ws/orders/", Orders.as_asgi()), path("ws/lobby/", Lobby.as_asgi())]
websocket = AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(routes)))
application = ProtocolTypeRouter({"http": http, "websocket": websocket})
"""

SETTINGS = """
ALLOWED_HOSTS = ["testserver", "localhost"]
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
"""

TESTS = """
import asyncio
import threading

import pytest
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.contrib.auth import get_user_model

from graceful_ws.node.node import local_nodes
from orders.asgi import application

pytestmark = pytest.mark.django_db(transaction=True)
loops = set()
HEADERS = [(b"host", b"testserver"), (b"origin", b"http://testserver")]


def nothing_else_is_left():
    threads = [one.name for one in threading.enumerate() if one.name.startswith("graceful-")]
    live = [node for node in local_nodes() if not node.loop.is_closed()]
    assert (threads, live) == ([], [])


@pytest.mark.parametrize("n", [1, 2, 3])
async def test_one_after_another(n):
    nothing_else_is_left()
    assert asyncio.get_running_loop() not in loops
    loops.add(asyncio.get_running_loop())
    assert await get_user_model().objects.acount() == 0
    await get_user_model().objects.acreate(username=f"user {n}")
    communicator = WebsocketCommunicator(application, "/ws/orders/", headers=HEADERS)
    assert await communicator.connect() == (True, None)
    await communicator.send_json_to("count")
    assert await communicator.receive_json_from() == 1
    await get_channel_layer().group_send("orders", {"type": "order.placed", "order": n})
    assert await communicator.receive_json_from() == n
    assert await communicator.receive_nothing()
    await communicator.disconnect()


async def test_two_at_once_and_text():
    one = WebsocketCommunicator(application, "/ws/orders/", headers=HEADERS)
    other = WebsocketCommunicator(application, "/ws/lobby/", HEADERS, subprotocols=["chat"])
    assert await one.connect() == (True, None)
    assert await other.connect() == (True, None)
    await other.send_to(bytes_data=b"bytes")
    assert await other.receive_from() == b"bytes"
    await other.disconnect(code=4321)
    await one.send_to(text_data='"text"')
    assert await one.receive_from() == '"text"'
    await one.disconnect()


def test_and_nothing_is_left_at_the_end():
    nothing_else_is_left()
"""


LIVE = """
import json

from channels.testing import ChannelsLiveServerTestCase
from django.contrib.auth import get_user_model
from websockets.sync.client import connect


class OrdersTest(ChannelsLiveServerTestCase):
    def setUp(self):
        get_user_model().objects.create(username="ann")

    def connect(self, path):
        url, origin = self.live_server_ws_url + path, self.live_server_url
        return connect(url, origin=origin, proxy=None, open_timeout=10)

    def test_orders_are_answered(self):
        with self.connect("/ws/orders/") as socket:
            socket.send('"count"')
            assert json.loads(socket.recv(timeout=10)) == 1
            socket.send('{"a": [1, 2]}')
            assert json.loads(socket.recv(timeout=10)) == {"a": [1, 2]}

    def test_text_and_bytes_come_back(self):
        with self.connect("/ws/lobby/") as one, self.connect("/ws/lobby/") as other:
            one.send("text")
            other.send(b"bytes")
            assert (one.recv(timeout=10), other.recv(timeout=10)) == ("text", b"bytes")

    def test_the_database_is_empty_each_time(self):
        assert get_user_model().objects.count() == 1
"""


@pytest.fixture(params=["memory", "file", "postgres"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Sample:
    database: dict[str, Any] = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "site.sqlite3"),
    }
    if request.param == "file":
        database["TEST"] = {"NAME": str(tmp_path / "test.sqlite3")}
    elif request.param == "postgres":
        database = database_settings(request.getfixturevalue("postgres_url"))
        database["TEST"] = {"NAME": f"compat_{tmp_path.parent.name}_{tmp_path.name}"[-60:].lower()}
    sample = Sample(tmp_path, database)
    settings = (tmp_path / "orders/settings.py").read_text()
    sample.write("orders/settings.py", settings + SETTINGS)
    sample.write("orders/consumers.py", CONSUMERS)
    sample.write("orders/asgi.py", ASGI)
    sample.write("conftest.py", "")  # nothing of graceful_ws.testing
    return sample


def test_communicator_works_in_fresh_event_loops_and_leaves_nothing(site: Sample) -> None:
    site.write("test_sockets.py", TESTS)
    code, output = site.test("test_sockets.py")
    assert code == 0, output
    assert "5 passed" in output


@pytest.mark.parametrize("site", ["file", "postgres"], indirect=True)
def test_live_server_test_case_works(site: Sample) -> None:
    site.write("test_live.py", LIVE)
    code, output = site.test("test_live.py")
    assert code == 0, output
    assert "3 passed" in output
