"""The ASGI servers: a hook before each stops, and what some lack of the ASGI specification.

No server gives an application a chance to close its WebSockets before it does so itself. An
adapter is applied to a server whose module is already imported when ``install`` is called; it
tests for what it wraps, and where that is missing the rest goes on and ``missing`` says so.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from importlib import metadata
from typing import Any, Protocol

from .signals import Stop

logger = logging.getLogger("graceful_ws.servers")

ADAPTERS = {  # name → imported module
    "daphne": "daphne.server",
    "uvicorn": "uvicorn.server",
    "hypercorn": "hypercorn.asyncio.run",
    "granian": "granian.server",
}
EXTENSION = "graceful_ws"  # key in scope["extensions"]
COMPRESSED_FROM = 1024  # bytes: smaller messages go uncompressed although compression was agreed
Write = Callable[[bytes], bool]


class Socket(Protocol):
    """What an adapter offers for a connection: ``scope["extensions"][EXTENSION]["socket"]``."""

    @property
    def is_closing(self) -> bool:
        """Whether the end that was announced is not the end: another one will be."""

    @property
    def write(self) -> Write | None:
        """See ``writer``; None if it cannot."""

    def drop(self) -> None:
        """End the TCP connection at once."""

    def limit(self, size: int) -> None:
        """See ``limit_messages``."""

    def is_own(self, send: Any) -> bool:
        """Whether ``send`` is the server's, with nothing between."""


class Offer(dict[str, Socket]):
    """What stands under EXTENSION. Some middlewares copy the whole scope; the socket stays one."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Offer:
        return self


installed: dict[str, str] = {}  # server → version, as its distribution calls it
missing: dict[str, str] = {}  # what an adapter did not find → what does not work without it

_stop = Stop()
_close_timeout = 10.0


def install(drain: Callable[[], Awaitable[None]], hurry: Callable[[], None]) -> None:
    """Adapt each server that has been imported; one that is adapted already is left as it is.

    ``drain`` is awaited before a server that was told to stop touches a socket; it must come to
    an end by itself. ``hurry`` is called, in the event loop, when the process is told a second
    time. Both replace those given before. Raises nothing: an adapter that fails is logged and
    recorded in ``missing``.
    """
    _stop.drain, _stop.hurry = drain, hurry
    for name, module in ADAPTERS.items():
        if module in sys.modules and name not in installed:
            _adapt(name)


def _adapt(name: str) -> None:
    try:
        adapter = importlib.import_module(f".{name}", __name__)
        lost = adapter.install(_stop)
        adapter.set_close_timeout(_close_timeout)
        installed[name] = _version(name)
    except Exception as error:
        logger.exception("The adapter for %s could not be installed.", name)
        missing[name] = f"no adapter: {error!r}"
        return
    for attribute, consequence in lost.items():
        logger.warning("%s is not as expected: %s.", attribute, consequence)
    missing.update(lost)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # in a frozen program
        return "unknown"


def set_close_timeout(seconds: float) -> None:
    """Give a peer ``seconds`` to answer our close frame before its connection is dropped.

    10 unless called; applies to connections opened from then on, and to adapted servers only.
    """
    global _close_timeout
    _close_timeout = seconds
    for name in installed:
        importlib.import_module(f".{name}", __name__).set_close_timeout(seconds)


def current() -> str:
    """Return the name of the server that runs in this process, "unknown" if none can be seen.

    Daphne's module is imported by every process of a site that lists it in INSTALLED_APPS, so
    for Daphne the running reactor counts, and for the others that they were imported.
    """
    if "daphne.server" in sys.modules:
        reactor = sys.modules.get("twisted.internet.reactor")
        if getattr(reactor, "running", False):
            return "daphne"
    for name, module in ADAPTERS.items():
        if name != "daphne" and module in sys.modules:
            return name
    return "unknown"


def dropper(scope: Mapping[str, Any], send: Any) -> Callable[[], None] | None:
    """Return a function that ends the TCP connection at once; None if the server offers no way.

    For a peer that never answers the close, or on which ``send`` blocks. What is buffered is
    lost, a blocked ``send`` returns or raises, and ``websocket.disconnect`` follows. To be called
    in the connection's event loop, any number of times. Without it an application can only
    return, after which a server may hold the connection for as long as it likes.
    """
    socket = _socket(scope)
    if socket is not None:
        return socket.drop
    if "uvicorn" in installed:  # imported after it had started: no extension in the scope
        found: Callable[[], None] | None = importlib.import_module(".uvicorn", __name__).dropper(
            send
        )
        return found
    return None


def writer(scope: Mapping[str, Any], send: Any) -> Write | None:
    """Return a function that sends a whole WebSocket frame at once; None if the server offers none,
    or if ``send`` is not its own: a middleware that looks at messages must see all of them.

    It returns False, and has done nothing, when the frame has to go by ``send``: the peer does not
    read, the connection is not open, or the server compresses messages of this size.
    """
    socket = _socket(scope)
    if socket is None or socket.write is None or not socket.is_own(_unwrapped(send)):
        return None
    return socket.write


def limit_messages(scope: Mapping[str, Any], send: Any, size: int) -> None:
    """Have the server close 1009 for a message of more than ``size`` bytes while it comes, rather
    than gather what its own limit allows first. That stays where it is the smaller one."""
    socket = _socket(scope)
    if socket is not None:
        socket.limit(size)
    elif "uvicorn" in installed:
        importlib.import_module(".uvicorn", __name__).limit(getattr(send, "__self__", None), size)


def is_closing(scope: Mapping[str, Any]) -> bool:
    """Return whether, after ``websocket.disconnect``, the peer's answer to our close is still
    awaited: the application has to receive once more, or the server cuts the connection."""
    socket = _socket(scope)
    return socket is not None and socket.is_closing


def _socket(scope: Mapping[str, Any]) -> Socket | None:
    offered = (scope.get("extensions") or {}).get(EXTENSION)
    return offered["socket"] if offered is not None else None


def _unwrapped(send: Any) -> Any:
    """``send`` without the wrapper of Channels' session middleware, which looks at responses only
    (``save_message_types``)."""
    wrapper: Any = getattr(send, "__self__", None)
    while (
        type(wrapper).__module__ == "channels.sessions"
        and getattr(wrapper, "save_message_types", None) == ["http.response.start"]
        and hasattr(wrapper, "real_send")
    ):
        send = wrapper.real_send
        wrapper = getattr(send, "__self__", None)
    return send
