"""``python -m project.demo.clock``: five ticks a second for all in the room.

A process of its own, so that it goes on while a visitor's connection is cut or its node is dead:
what it says meanwhile waits in the journal. The count and the message commit together, so the
numbers have no hole that was not made on the way to the visitor.
"""

from __future__ import annotations

import logging
import time

import django
from django.db import DatabaseError, InterfaceError, connection, transaction

from project.demo import lifeline

INTERVAL = 0.2  # seconds
LOOK = 1.0  # seconds between two looks at who is there
LINGER = 60.0  # seconds that it ticks on in an empty room: its visitors may come back

logger = logging.getLogger("project.clock")


def main() -> None:
    django.setup()
    logging.basicConfig(level=logging.INFO)
    from graceful_ws.publishing import online
    from project.consumers import ROOM

    due = looked = seen = time.monotonic() - LINGER
    while True:
        now = time.monotonic()
        try:
            if now - looked >= LOOK:
                looked = now
                seen = now if online(ROOM) else seen
            if now - seen < LINGER:
                tick()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("no tick: %s", error)
            connection.close()
        now = time.monotonic()
        due = max(due + INTERVAL, now)
        time.sleep(due - now)


def tick() -> None:
    from graceful_ws.publishing import publish
    from project.consumers import CLOCK
    from project.models import Clock

    with transaction.atomic():
        clock, _ = Clock.objects.get_or_create(pk=1)
        clock.ticks += 1
        clock.save(update_fields=["ticks"])
        publish(CLOCK, {"tick": clock.ticks, "at": round(time.time() * 1000)})


if __name__ == "__main__":
    lifeline.hold()
    main()
