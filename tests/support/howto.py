"""The pages of docs/howto as one Django site, served by a real Daphne."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from websockets.asyncio.server import ServerConnection

from graceful_ws.client import Backoff, Disconnected, GracefulClient, SessionLost
from tests.support.processes import ROOT
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

PAGES = sorted((ROOT / "docs/howto").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(?:# |// )(\S+\.\w+)\n(.*?)^```$", flags=re.M | re.S)
APPS = ["bank", "board", "chat", "exports", "members", "shop"]
URLS = ["board", "exports", "members", "shop"]
WITHIN = 20.0  # seconds for anything that comes

SETTINGS = f"""
from tests.support.database_url import database_settings
from pathlib import Path

SECRET_KEY = "only for the tests"
ALLOWED_HOSTS = ["127.0.0.1", "testserver"]
USE_TZ = True
INSTALLED_APPS = [
    *("daphne", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"),
    *("channels", "graceful_ws"),
    *{APPS!r},
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
ROOT_URLCONF = "mysite.urls"
ASGI_APPLICATION = "mysite.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DATABASES = {{"default": database_settings(f"sqlite://{{Path(__file__).parents[1]}}/site.sqlite3")}}
GRACEFUL_WS = {{
    **{{"heartbeat_interval": 1, "heartbeat_timeout": 1, "reconnect_window": 0.5}},
    "drain_window": 2,
}}
"""
URLCONF = "from django.urls import include, path\n" + (
    f"urlpatterns = [path('', include(name + '.urls')) for name in {URLS!r}]\n"
)
ASGI = f"""
import importlib

from django.core.asgi import get_asgi_application

django = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter
from members.middleware import Members

routes = [
    route
    for name in {APPS!r}
    for route in importlib.import_module(name + ".routing").websocket_urlpatterns
]
application = ProtocolTypeRouter({{"http": django, "websocket": Members(URLRouter(routes))}})
"""
# What stands in for a broker: the test is the worker.
CELERY = """
from pathlib import Path


def shared_task(**options):
    def task(function):
        def delay(*arguments):
            with (Path(__file__).parent / "queue").open("a") as queue:
                print(function.__name__, *arguments, file=queue)

        function.delay = delay
        return function

    return task
"""
PREPARE = """
import json

import django

django.setup()

from bank.models import Account
from chat.models import Room
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.test import Client
from shop.models import Product

call_command("migrate", run_syncdb=True, verbosity=0)
users = {}
for name in ("ann", "bob", "dan", "eve", "staff"):
    browser = Client()
    user = User.objects.create_user(name, is_staff=name == "staff")
    browser.force_login(user)
    users[name] = {"pk": user.pk, "cookie": f"sessionid={browser.cookies['sessionid'].value}"}
ann, bob = User.objects.filter(username__in=["ann", "bob"]).order_by("pk")
ann.groups.add(Group.objects.create(name="tellers"))
Room.objects.create(slug="tea").members.set([ann, bob])
Room.objects.create(slug="milk").members.set([ann, bob])
Room.objects.create(slug="own").members.set([ann, bob])
Product.objects.create(name="tea", stock=5)
Account.objects.create(name="ann", balance=1000)
Account.objects.create(name="bob")
print(json.dumps(users))
"""


def blocks() -> dict[str, str]:
    """The pages' files, by the name in their first line."""
    found: dict[str, str] = {}
    for page in PAGES:
        for _, name, code in BLOCK.findall(page.read_text()):
            assert name not in found, f"{name} is in two pages"
            found[name] = code
    return found


class Project:
    """All pages as one site in ``directory``, and one Daphne that serves it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        files = {name: code for name, code in blocks().items() if name.endswith(".py")}
        files |= {f"{name}/__init__.py": "" for name in [*APPS, "mysite"]}
        files |= {"mysite/settings.py": SETTINGS, "mysite/urls.py": URLCONF}
        files |= {"mysite/asgi.py": ASGI, "celery.py": CELERY}
        for name, code in files.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(code)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GRACEFUL_", "DJANGO_"))}
        self.env = {
            **kept,
            "DJANGO_SETTINGS_MODULE": "mysite.settings",
            "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)]),
            "PYTHONUNBUFFERED": "1",
        }
        self.users: dict[str, Any] = json.loads(self.python(PREPARE))
        self.server = ServerProcess(
            env=self.env, log_path=directory / "daphne.log", application="mysite.asgi:application"
        )

    def python(self, program: str) -> str:
        """What another process of the site prints, one without a node."""
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=self.directory,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def process(self, lines: str) -> str:
        return await asyncio.to_thread(self.python, f"import django; django.setup()\n{lines}")

    def cookie(self, user: str) -> dict[str, str]:
        return {"Cookie": self.users[user]["cookie"]} if user else {}

    @asynccontextmanager
    async def client(
        self, path: str, user: str = "", *, port: int = 0, **options: Any
    ) -> AsyncIterator[Client]:
        url = f"ws://127.0.0.1:{port or self.server.port}{path}"
        client = Client(url, {"headers": self.cookie(user), **options})
        async with asyncio.timeout(60):
            try:
                client.start()
                yield client
            finally:
                with suppress(SessionLost):
                    await client.close()

    async def http(self, path: str, user: str = "", data: dict[str, Any] | None = None) -> Any:
        """Status, and JSON if there is any; POST with ``data``."""
        body = None if data is None else urllib.parse.urlencode(data).encode()
        request = urllib.request.Request(self.server.url(path), body, self.cookie(user))

        def ask() -> Any:
            try:
                with urllib.request.urlopen(request, timeout=WITHIN) as response:
                    return response.status, json.loads(response.read() or "null")
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, json.loads(error.read() or "null")

        return await asyncio.to_thread(ask)

    def change(self, statement: str, *parameters: object) -> None:
        with closing(sqlite3.connect(self.directory / "site.sqlite3", timeout=10)) as database:
            database.execute(statement, parameters)
            database.commit()

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.directory / "site.sqlite3", timeout=10)) as database:
            return database.execute(query, parameters).fetchall()

    def module(self, name: str) -> ModuleType:
        """A page's file that needs no Django."""
        spec = importlib.util.spec_from_file_location(name, self.directory / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


class Client(GracefulClient):
    """A client of this package that is in a hurry, and what it has heard."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.heard: list[Any] = []
        super().__init__(
            url,
            probe=None,
            backoff=Backoff(max_retries=100, base_delay=0.1, max_delay=2.0),
            random=lambda: 0.0,
            on_event=self.heard.append,
            **options,
        )

    async def take(self, count: int = 1) -> list[Any]:
        """The data of the next messages."""
        async with asyncio.timeout(WITHIN):
            return [(await self.receive()).data for _ in range(count)]

    async def come_back(self, resumes: int = 1) -> None:
        await eventually(lambda: self.resumes >= resumes, WITHIN, "a resume")

    def codes(self) -> list[int]:
        return [event.code for event in self.heard if isinstance(event, Disconnected)]


class Script:
    """A server that says what it is told to, one list of frames for each connection."""

    def __init__(self, *connections: list[dict[str, Any]]) -> None:
        self._connections = list(connections)
        self.hellos: list[dict[str, Any]] = []
        self.codes: list[int | None] = []

    async def __call__(self, socket: ServerConnection) -> None:
        self.hellos.append(json.loads(await socket.recv()))
        for frame in self._connections.pop(0) if self._connections else []:
            await socket.send(json.dumps(frame))
        await socket.wait_closed()
        self.codes.append(socket.close_code)


def welcome(resumed: bool, token: str | None = None, **streams: Any) -> dict[str, Any]:
    return {
        **{"type": "welcome", "session_id": "s", "session_token": token, "resumed": resumed},
        **{"last_client_seq": 0, "reconnect_window": 0, "streams": streams},
        "heartbeat": {"interval": 5, "timeout": 3, "max_missed": 3},
    }


def message(seq: int, **more: Any) -> dict[str, Any]:
    return {"type": "message", "seq": seq, "data": seq, **more}
