"""Scenarios of the handshake: accepted, denied, and what a consumer knows of it."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack
from channels.exceptions import AcceptConnection, DenyConnection, StopConsumer
from channels.routing import URLRouter
from channels.security.websocket import AllowedHostsOriginValidator, OriginValidator
from channels.sessions import SessionMiddlewareStack
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user_model,
)
from django.contrib.sessions.backends.db import SessionStore
from django.urls import path

from tests.compat.kit import Differs, Transcript, scenario
from tests.compat.peer import Peer


@scenario()
async def nothing_is_overridden(peer: Peer, base: Any) -> None:
    peer.start(base.as_asgi())
    await peer.settled()
    peer.leaves()


@scenario()
async def accept_with_subprotocol_and_headers(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            offered = self.scope["subprotocols"]
            await self.accept(subprotocol=offered[1], headers=[(b"x-served-by", b"one")])

    peer.start(Consumer.as_asgi(), subprotocols=["chat.v1", "chat.v2"])


@scenario()
async def accept_by_position(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept("chat", [[b"set-cookie", b"a=1"], [b"set-cookie", b"b=2"]])

    peer.start(Consumer.as_asgi(), subprotocols=["chat"])


@scenario()
async def accept_connection_is_raised(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            raise AcceptConnection

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())


@scenario()
async def deny_connection_is_raised(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            raise DenyConnection

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())


@scenario()
async def close_before_accept(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.close()
            peer.log("after close()")

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())


@scenario()
async def close_before_accept_with_code_and_reason(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.close(code=4003, reason="not yours")

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())


@scenario()
async def close_before_accept_then_stop(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.close(4001)
            raise StopConsumer

    peer.start(Consumer.as_asgi())


@scenario()
async def neither_accepted_nor_closed(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            peer.log("connect")

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.leaves(1006)


@scenario()
async def denial_response(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            headers = [(b"content-type", b"text/plain")]
            await self.base_send(
                {"type": "websocket.http.response.start", "status": 401, "headers": headers}
            )
            await self.base_send({"type": "websocket.http.response.body", "body": b"log in"})

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())


@scenario()
async def accepted_then_closed_at_once(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept()
            await self.close(code=4401, reason="log in")
            peer.log("after close()")

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())


@scenario()
async def many_messages_in_connect(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept()
            for n in range(5):
                await self.send(text_data=str(n))
            peer.log("connected")

    peer.start(Consumer.as_asgi())


@scenario()
async def initkwargs(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        def __init__(self, *args: Any, room: str = "", **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.room = room

        async def connect(self) -> None:
            peer.log(self.room, self.groups)
            await self.accept()

    app = Consumer.as_asgi(room="lobby")
    peer.log(app.consumer_initkwargs, app.consumer_class is Consumer, app.__name__)
    peer.start(app)


@scenario()
async def init_without_super(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        groups = ()

        def __init__(self, room: str) -> None:
            self.room = room

        async def connect(self) -> None:
            peer.log(self.room)
            await self.accept()

    peer.start(Consumer.as_asgi(room="lobby"))


@scenario()
async def scope_behind_a_router(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            route = self.scope["url_route"]
            peer.log(route["args"], route["kwargs"], self.scope["path"], self.scope["query_string"])
            await self.accept()

    router = URLRouter([path("ws/<str:room>/<int:n>/", Consumer.as_asgi())])
    peer.start(router, path="/ws/lobby/7/", query_string=b"a=1")


@scenario()
async def user_and_session_of_the_middleware(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            user = self.scope["user"]
            peer.log(user.is_authenticated, self.scope["session"].get("n"), self.scope["cookies"])
            await self.accept()

    peer.start(AuthMiddlewareStack(Consumer.as_asgi()))


@scenario()
async def user_who_has_logged_in(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            user = self.scope["user"]
            peer.log(user.is_authenticated, user.get_username(), self.scope["session"]["n"])
            await self.accept()

    @sync_to_async
    def logged_in() -> str:
        user, _ = get_user_model().objects.get_or_create(username="ann")
        session = SessionStore()
        session.update({"n": 7, SESSION_KEY: str(user.pk)})
        session.update(
            {
                BACKEND_SESSION_KEY: "django.contrib.auth.backends.ModelBackend",
                HASH_SESSION_KEY: user.get_session_auth_hash(),
            }
        )
        session.save()
        return str(session.session_key)

    cookie = f"sessionid={await logged_in()}".encode()
    headers = [(b"host", b"testserver"), (b"cookie", cookie)]
    peer.start(AuthMiddlewareStack(Consumer.as_asgi()), headers=headers)


@scenario()
async def session_without_auth(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            self.scope["session"]["n"] = 1
            peer.log("user" in self.scope, self.scope["session"]["n"])
            await self.accept()

    peer.start(SessionMiddlewareStack(Consumer.as_asgi()))


@scenario()
async def user_of_ones_own_kind(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            peer.log(self.scope["user"])
            await self.accept()

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(text_data=self.scope["user"])

    peer.start(Consumer.as_asgi(), user="ann")
    await peer.settled()
    peer.says("who am I?")


@scenario()
async def allowed_origin(peer: Peer, base: Any) -> None:
    headers = [(b"host", b"testserver"), (b"origin", b"http://localhost:3000")]
    peer.start(AllowedHostsOriginValidator(base.as_asgi()), headers=headers)


@scenario()
async def origin_that_a_validator_denies(peer: Peer, base: Any) -> None:
    headers = [(b"host", b"testserver"), (b"origin", b"https://evil.example")]
    peer.start(OriginValidator(base.as_asgi(), ["testserver"]), headers=headers)


@scenario(
    differs=Differs(
        "origin",
        channels=Transcript([("accept", None, []), ("returned",)]),
        here=Transcript(
            [
                (
                    *("http", 403),
                    [(b"content-type", b"text/plain"), (b"content-length", b"14")],
                ),
                ("body", b"foreign origin"),
                ("returned",),
            ]
        ),
    )
)
async def foreign_origin_and_no_validator(peer: Peer, base: Any) -> None:
    headers = [(b"host", b"testserver"), (b"origin", b"https://evil.example")]
    peer.start(base.as_asgi(), headers=headers)


@scenario()
async def foreign_origin_where_the_class_does_not_check(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        check_origin = False

    headers = [(b"host", b"testserver"), (b"origin", b"https://evil.example")]
    peer.start(Consumer.as_asgi(), headers=headers)
