"""The site as ``demo --check`` runs it: the demo's consumer, counting aloud and keeping books.

The books are files outside the nodes, so that they survive a kill. A number is written down as
tried before ``send_json`` and as accepted after it returned: what was accepted must arrive, what
was only tried may. Numbers go on where the books end, so none is ever used twice.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

INTERVAL = 0.08  # seconds between two numbers to a client
ROOM = "room"  # the consumer's stream


class Books:
    """One session's numbers, in ``directory``."""

    def __init__(self, directory: Path, session: str) -> None:
        self._path = directory / session
        self._stop = directory / "stop"

    def write(self, kind: str, number: int) -> None:
        with self._path.with_suffix(f".{kind}").open("a") as file:
            file.write(f"{number}\n")

    def read(self, kind: str) -> list[int]:
        try:
            lines = self._path.with_suffix(f".{kind}").read_text().split("\n")
        except FileNotFoundError:
            return []
        return [int(line) for line in lines[:-1]]  # the last one is being written, or empty

    @property
    def closed(self) -> bool:
        """True when the check wants no more numbers."""
        return self._stop.exists()

    def close(self) -> None:
        self._stop.touch()


if "DEMO_BOOKS" in os.environ:  # not in the process that only reads them
    from project.asgi import application as site  # noqa: I001  (sets Django up)

    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.urls import path

    from graceful_ws.consumers import Fenced, JournalUnavailable
    from project.consumers import Room

    class Counted(Room):
        _counting: asyncio.Task[None] | None = None

        async def session_started(self) -> None:
            self._counting = asyncio.create_task(self._count())

        async def resumed(self) -> None:
            self._counting = asyncio.create_task(self._count())

        async def disconnect(self, code: int) -> None:
            if self._counting is not None:
                self._counting.cancel()

        async def _count(self) -> None:
            books = Books(Path(os.environ["DEMO_BOOKS"]), str(self.session_id))
            number = max(books.read("tried"), default=0)
            while not books.closed:
                number += 1
                books.write("tried", number)
                try:
                    await self.send_json({"number": number})
                except JournalUnavailable:
                    pass  # not accepted
                except Fenced:
                    return  # another connection counts now
                else:
                    books.write("accepted", number)
                await asyncio.sleep(INTERVAL)

    application = ProtocolTypeRouter(
        {
            "http": site,
            "websocket": URLRouter([path("ws/", Counted.as_asgi())]),
        }
    )
