"""The connection to a browser over its DevTools protocol, shared by everything in the browser."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

ANSWER_WITHIN = 20.0  # seconds

Listener = Callable[[str, dict[str, Any]], None]


class DevTools:
    """Commands to the browser and to what it has open; events to those who listen.

    What it has open (a tab) is spoken to in a session of its own, named by the browser's answer to
    ``Target.attachToTarget``; the browser itself in none.
    """

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._listeners: dict[str | None, list[Listener]] = {}
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, url: str) -> Self:
        devtools = cls()
        devtools._socket = await connect(url, max_size=None)
        devtools._reader = asyncio.create_task(devtools._read(devtools._socket))
        return devtools

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        if self._socket is not None:
            await self._socket.close()

    def listen(self, listener: Listener, session: str | None = None) -> None:
        """``listener(method, parameters)`` for each event of a session, in order."""
        self._listeners.setdefault(session, []).append(listener)

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """One command of the protocol. Raises AssertionError when the browser refuses it."""
        assert self._socket is not None
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        command = {"id": number, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = session
        await self._socket.send(json.dumps(command))
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                return await answer
        except TimeoutError:
            raise AssertionError(f"no answer to {method} in {ANSWER_WITHIN:g} s") from None
        finally:
            self._answers.pop(number, None)

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for text in socket:
                message = json.loads(text)
                if "id" in message:
                    self._answered(message)
                else:
                    for listener in self._listeners.get(message.get("sessionId"), []):
                        listener(message["method"], message["params"])
        except ConnectionClosed:
            pass
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(AssertionError("the browser is gone"))

    def _answered(self, message: dict[str, Any]) -> None:
        answer = self._answers.get(message["id"])
        if answer is None or answer.done():
            return
        if "error" in message:
            answer.set_exception(AssertionError(message["error"]))
        else:
            answer.set_result(message["result"])
