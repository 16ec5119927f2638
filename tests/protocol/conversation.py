"""Records docs/conversation.md from real servers: ``python -m tests.protocol``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.raw import Frame, Raw
from tests.support.servers import Site
from tests.support.waiting import eventually

PATH = Path(__file__).resolve().parents[2] / "docs" / "conversation.md"
APPLICATION = "tests.protocol.shop:application"
STREAM = "room.7"

HEAD = """# A conversation

*Recorded from real servers by `python -m tests.protocol`. Do not edit.*

One client of the consumer `Shop` in [tests/protocol/shop.py](../tests/protocol/shop.py), on two
nodes: `→` is what the client sends, `←` what the server does. What is random, or a time, is
written `…`. Frames that answer different things have no order between them; here those of a stream
come last. [protocol.md](protocol.md) says what each means.
"""

RANDOM = ("session_id", "session_token", "instance", "epoch", "sent_at", "rtt")
TIMES = ("reconnect_in", "close_in")


class Book:
    """The page, as it is written."""

    def __init__(self) -> None:
        self._parts = [HEAD]
        self._lines: list[str] = []

    def heading(self, words: str) -> None:
        self._add(f"## {words}\n")

    def say(self, words: str) -> None:
        self._add(f"{words}\n")

    def line(self, arrow: str, words: str) -> None:
        self._lines.append(f"{arrow} {words}")

    def frame(self, arrow: str, frame: Frame) -> None:
        self.line(arrow, json.dumps(hide(frame), ensure_ascii=False))

    def page(self) -> str:
        self._end_block()
        return "\n".join(self._parts)

    def _add(self, text: str) -> None:
        self._end_block()
        self._parts.append(text)

    def _end_block(self) -> None:
        if self._lines:
            self._parts.append("\n".join(["```text", *self._lines, "```\n"]))
            self._lines = []


class Recorded(Raw):
    """A connection whose frames are written down."""

    def __init__(self, book: Book, url: str, before: Raw | None = None) -> None:
        resuming: dict[str, Any] = {}
        if before is not None:
            resuming = {
                "instance": before.instance,
                "token": before.token,
                "attempt": before.attempt,
            }
        super().__init__(url, pongs=False, **resuming)
        self.book = book

    async def send_text(self, text: str) -> None:
        self.book.frame("→", json.loads(text))
        await super().send_text(text)

    async def welcome(self) -> Frame:
        frame = await super().welcome()
        self.book.frame("←", frame)
        return frame

    async def take(self, kind: str, **fields: Any) -> Frame:
        """The next frame of a kind. Asked for in the order of the page, which is not that of their
        coming."""
        self._next = 0
        frame = await self.expect(kind, **fields)
        self.book.frame("←", frame)
        return frame


def hide(value: Any) -> Any:
    """Without what differs from run to run."""
    if isinstance(value, list):
        return [hide(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for name, each in value.items():
        if (name in RANDOM and each is not None) or name in TIMES:
            found[name] = "…"
        elif name == "positions":
            found[name] = {stream: ["…", seq] for stream, (_, seq) in each.items()}
        else:
            found[name] = hide(each)
    return found


async def record(site: Site) -> str:
    """The page. The first node of the site is drained at the end."""
    first, second = site.nodes
    book = Book()
    async with Recorded(book, first.ws("/shop/")) as raw:
        book.heading("A session begins")
        await raw.hello()
        book.say("A message, what it causes, and its acknowledgement with the handler's result:")
        await raw.message({"order": "tea"})
        await raw.take("message", seq=1)
        await raw.take("ack", seq=1)
        await raw.ack(1)
        book.say("A handler that raises; its number is consumed all the same:")
        await raw.message({"order": "coffee"})
        await raw.take("nack", seq=2)
        await raw.take("ack", seq=2)
        book.say("The consumer subscribes to a stream, and publishes to it:")
        await raw.message({"follow": STREAM})
        epoch = (await raw.take("subscribed"))["epoch"]
        await raw.take("ack", seq=3)
        await raw.message({"say": "hello", "in": STREAM})
        await raw.take("ack", seq=4)
        await raw.take("message", stream=STREAM)
        await raw.send({"type": "ack", "streams": {STREAM: 1}})
        book.say("A round trip, asked for by either side:")
        await raw.send({"type": "ping", "sent_at": 1})
        await raw.take("pong")
        ping = await raw.take("ping")
        await raw.send({"type": "pong", "sent_at": ping["sent_at"]})
        book.heading("The connection is lost, and the session goes on")
        book.say("Of two messages the server handles the first, but nothing comes back any more:")
        await raw.message({"order": "scone"})
        await raw.expect("ack", seq=5)
        raw.cut()
        await raw.message({"order": "cake"})
    async with Raw(second.ws("/shop/")) as other:  # somebody else
        await other.hello()
        await other.ask({"follow": STREAM})
        await other.ask({"say": "is anybody there?", "in": STREAM})
        await other.has(STREAM, 2)
        await other.bye()
    async with Recorded(book, second.ws("/shop/"), raw) as old:
        book.say(
            "Meanwhile somebody says something in the room. The client connects again; any node\n"
            "will do. It has message 1 of its own and 1 of the room, and knows no outcome from 5\n"
            "on. What it missed comes, the outcome of 5 included; 6 never arrived, and goes again:"
        )
        await old.hello(last_seq_id=1, positions={STREAM: [epoch, 1]}, pending_from=5)
        await old.take("ack", seq=5)
        await old.take("message", seq=2, data={"ordered": "scone"})
        await old.take("message", seq=2, stream=STREAM)
        await old.message({"order": "cake"})
        await old.take("message", data={"ordered": "cake"})
        await old.take("ack", seq=6)
        await old.send({"type": "ack", "seq": 3, "streams": {STREAM: 2}})
        book.heading("A deploy")
        book.say("The node is told to stop, and says so:")
        second.terminate()
        await old.take("drain")
        book.say(
            "At its slot, with nothing unacknowledged, the client opens the next connection, to\n"
            "the other node:"
        )
        async with Recorded(book, first.ws("/shop/"), old) as last:
            await last.hello(last_seq_id=3, positions={STREAM: [epoch, 2]}, pending_from=7)
            await last.take("ack", seq=6)
            book.say("It leaves the old connection:")
            book.line("→", "close 4000")
            await old.close(4000)
            await _end(book, site, last, [epoch, 2])
    return book.page()


async def _end(book: Book, site: Site, last: Recorded, position: list[Any]) -> None:
    book.heading("Another object of the client goes on with the session")
    book.say("It has been given the token and the numbers, and is an instance of its own:")
    async with Recorded(book, last.url) as other:
        other.token = last.token
        await other.hello(last_seq_id=3, positions={STREAM: position})
        await other.take("ack", seq=6)
        book.say("The one before hears of it, and does not come back:")
        await last.take("superseded")
        await _closed(book, last)
        book.heading("The session ends")
        await other.send({"type": "bye", "reason": "done"})
        await _closed(book, other)
    lives = "SELECT 1 FROM graceful_ws_session WHERE state <> 'ended'"
    await eventually(lambda: not site.sql(lives))  # the answer to bye does not wait for it
    book.say(
        "Its token is good for nothing any more. Who comes with it begins anew, and is told so:"
    )
    async with Recorded(book, last.url, other) as late:
        await late.hello(last_seq_id=3, pending_from=7)
        await late.take("gap")


async def _closed(book: Book, recorded: Recorded) -> None:
    code, reason = await recorded.closed()
    book.line("←", f"close {code} {reason}".rstrip())
