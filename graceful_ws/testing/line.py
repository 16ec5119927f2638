"""One WebSocket without a server: an ASGI scope, and what a server would do with its events."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from graceful_ws.core.close_codes import CloseCode

from .errors import Refused

Application = Callable[..., Awaitable[Any]]
Headers = Mapping[str, str] | Iterable[tuple[bytes, bytes]]

WITHIN = 5.0  # seconds of the event loop's clock
HOST = "testserver"  # which Django's test runner allows
_ports = count(49152)


class Closed(NamedTuple):
    """How a connection ended: 1006 when it was lost without a close frame."""

    code: int
    reason: str = ""


def websocket_scope(
    path: str,
    *,
    headers: Headers | None = None,
    user: Any = None,
    subprotocols: Iterable[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The scope of a WebSocket from a page of the same site. ``headers`` come instead of the
    ``host`` and ``origin`` of that name; ``extra`` goes over all of it."""
    if not path.startswith("/"):
        raise ValueError(f"a path begins with a slash: {path!r}")
    parts = urlsplit(path)
    pairs = headers.items() if isinstance(headers, Mapping) else (headers or ())
    given = [(_bytes(name).lower(), _bytes(value)) for name, value in pairs]
    names = {name for name, _ in given}
    usual = [(b"host", HOST.encode()), (b"origin", f"http://{HOST}".encode())]
    scope: dict[str, Any] = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "root_path": "",
        "headers": [pair for pair in usual if pair[0] not in names] + given,
        "client": ("127.0.0.1", next(_ports) % 16384 + 49152),
        "server": (HOST, 80),
        "subprotocols": list(subprotocols),
        "extensions": {"websocket.http.response": {}},
    }
    if user is not None:
        scope["user"] = user
    return {**scope, **(extra or {})}


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


class Line:
    """One connection. The application runs as a task of its own, with a context of its own.

    ``received`` is called with each message of the application, and ``changed`` when the line was
    accepted, refused or has ended; both at once, by the application's ``send``.
    """

    def __init__(
        self,
        application: Application,
        scope: dict[str, Any],
        received: Callable[[str | bytes], None],
        changed: Callable[[], None],
    ) -> None:
        self.accepted = False
        self.subprotocol: str | None = None
        self.headers: tuple[tuple[bytes, bytes], ...] = ()  # of the accept
        self.refused: Refused | None = None
        self.ended: Closed | None = None  # also when it was refused
        self._received = received
        self._changed = changed
        self._response: dict[str, Any] = {}
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._inbox.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.Task(  # never an eager one: the caller has the line first
            self._run(application, scope), name=f"serve {scope['path']}", context=_empty()
        )

    async def _run(self, application: Application, scope: dict[str, Any]) -> None:
        try:
            await application(scope, self._inbox.get, self._send)
        finally:
            if self.ended is None:  # as a server does for one that just returns
                self._end(Closed(CloseCode.ABNORMAL))

    # --- the peer's side ----------------------------------------------------------------------

    def say(self, data: str | bytes) -> None:
        """A message of the client; nothing happens when the line has ended."""
        if self.ended is None:
            kind = "text" if isinstance(data, str) else "bytes"
            self._inbox.put_nowait({"type": "websocket.receive", kind: data})

    def hang_up(self, code: int, reason: str = "") -> None:
        """The client closes, or (1006) is gone without a word."""
        if self.ended is None:
            self._end(Closed(int(code), reason))

    async def over(self) -> None:
        """Returns when the application has returned; cancels it after 5 s. Raises what it raised.
        The line must have ended."""
        _, running = await asyncio.wait([self.task], timeout=WITHIN)
        if running:
            self.task.cancel()
            await asyncio.wait([self.task])
            raise TimeoutError(f"the application still ran {WITHIN:g} s after the end")
        if not self.task.cancelled():
            self.task.result()

    # --- the application's side ---------------------------------------------------------------

    async def _send(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if self.ended is not None:
            raise OSError(f"{kind} to a client that has gone")
        if kind == "websocket.accept" and not self.accepted and not self._response:
            self.accepted = True
            self.subprotocol = event.get("subprotocol")
            self.headers = tuple(event.get("headers") or ())
            self._changed()
        elif kind == "websocket.send" and self.accepted:
            text = event.get("text")
            self._received(event["bytes"] if text is None else text)
        elif kind == "websocket.close" and self.accepted:
            code = event.get("code")
            reason = str(event.get("reason") or "")
            self._end(Closed(int(CloseCode.NORMAL if code is None else code), reason))
        elif kind == "websocket.close":
            self._refuse(Refused(403))
        elif kind == "websocket.http.response.start" and not self.accepted:
            self._response = {**event, "body": b""}
        elif kind == "websocket.http.response.body" and self._response:
            self._response["body"] += event.get("body", b"")
            if not event.get("more_body"):
                start = self._response
                text = start["body"].decode("utf-8", "replace")
                self._refuse(Refused(start["status"], text, start.get("headers") or ()))
        else:
            raise RuntimeError(f"{kind} is out of order")

    def _refuse(self, refused: Refused) -> None:
        self.refused = refused
        self._end(Closed(CloseCode.ABNORMAL, str(refused)))

    def _end(self, closed: Closed) -> None:
        self.ended = closed
        self._inbox.put_nowait(
            {"type": "websocket.disconnect", "code": closed.code, "reason": closed.reason}
        )
        self._changed()


def _empty() -> contextvars.Context:
    """What the test has set is not the application's, as with a server."""
    return contextvars.Context()
