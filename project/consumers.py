"""The demo's consumer: a room."""

from __future__ import annotations

import time
from typing import Any

from django.conf import settings

from graceful_ws.consumers import GracefulConsumer
from graceful_ws.publishing import online, publish
from project.models import Line, Visitor

ROOM = "room"  # lines, and who comes and goes
NEWS = "news"  # names, and what the pages count
REMEMBERED = 500  # visitors that one who enters is told of: the answer has a bound
CLOCK = "clock"  # five ticks a second from another process, see project.demo.clock
COUNTED = ("sent", "received", "lost", "duplicated", "out_of_order", "replayed", "resumed")


class Room(GracefulConsumer):
    """What a visitor says is a row and a message to all in one transaction: whatever dies, it is
    kept once, and published if and only if it was kept."""

    streams = [NEWS, CLOCK]

    async def connect(self) -> None:
        await self.accept()
        await self.subscribe(ROOM, presence=True)

    def receive_in_transaction(self, content: Any) -> Any:
        handlers = {"enter": self.enter, "line": self.line, "counts": self.count}
        return handlers[content["type"]](content)

    def enter(self, content: Any) -> Any:
        """The visitor's name, at first or anew. Answers with who is here, and all names and counts;
        what changes from then on comes through the streams."""
        name = str(content["name"]).strip()[:24] or "nobody"
        Visitor.objects.update_or_create(session=self.session_id, defaults={"name": name})
        publish(NEWS, {"type": "name", "client_id": self.session_id, "name": name})
        return {
            "online": [each.client_id for each in online(ROOM)],
            "visitors": {
                str(each.session): {"name": each.name, "counts": each.counts}
                for each in Visitor.objects.order_by("-pk")[:REMEMBERED]
            },
        }

    def line(self, content: Any) -> Any:
        number, text = int(content["number"]), str(content["text"])[:200]
        line = Line.objects.create(session=self.session_id, number=number, text=text)
        publish(
            ROOM,
            {
                "type": "line",
                "line": line.pk,
                "client_id": self.session_id,
                "number": number,
                "text": text,
                "node": settings.GRACEFUL_WS["node_name"],
                "at": round(time.time() * 1000),
            },
        )
        return {"line": line.pk}

    def count(self, content: Any) -> None:
        counts = {name: int(content["counts"][name]) for name in COUNTED}
        Visitor.objects.filter(session=self.session_id).update(counts=counts)
        publish(NEWS, {"type": "counts", "client_id": self.session_id, "counts": counts})
