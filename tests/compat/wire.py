"""The application of test_wire.py: each behaviour, derived from each base class."""

from __future__ import annotations

from typing import Any

from tests.asgi import application as site  # sets Django up

# isort: split
from channels.exceptions import DenyConnection
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

from tests.compat.kit import PAIRS

BASES = {f"{pair}-{n}": base for pair, bases in PAIRS.items() for n, base in enumerate(bases)}
BEHAVIOURS = ("talks", "chooses", "denies", "closes first", "fails first", "responds", "ends")


def consumer(base: Any, behaviour: str) -> Any:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            if behaviour == "denies":
                raise DenyConnection
            if behaviour == "closes first":
                await self.close(4003, "not yours")
            elif behaviour == "fails first":
                raise RuntimeError("on purpose")
            elif behaviour == "responds":
                start = {"type": "websocket.http.response.start", "status": 401, "headers": []}
                await self.base_send(start)
                await self.base_send({"type": "websocket.http.response.body", "body": b"log in"})
            elif behaviour == "chooses":
                await self.accept("two", [(b"x-room", b"7")])
                await self.send("welcome")
            else:
                await self.accept()

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            if text_data == "fail":
                raise RuntimeError("on purpose")
            if text_data == "close":
                await self.send("last words", close=4001)
            elif behaviour == "ends":
                await self.close(4104, "mine")
            else:
                await self.send(text_data, bytes_data)

    return Consumer


application = ProtocolTypeRouter(
    {
        "http": site,
        "websocket": URLRouter(
            [
                path(f"{name}/{behaviour.replace(' ', '-')}/", consumer(base, behaviour).as_asgi())
                for name, base in BASES.items()
                for behaviour in BEHAVIOURS
            ]
        ),
    }
)
