"""``python -m project.demo.clock``: speaks to every session five times a second.

A process of its own, so that it goes on while a visitor's connection is cut or its node is dead:
what it says meanwhile waits in the journal. The count and the message commit together, so the
numbers have no hole that was not made on the way to the visitor.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import django
from django.db import DatabaseError, close_old_connections, transaction
from django.db.models import Q
from django.utils import timezone

from project.demo import lifeline

INTERVAL = 0.2  # seconds
AWAY = timedelta(seconds=60)  # a visitor gone for longer is not spoken to until it returns

logger = logging.getLogger("project.clock")


def main() -> None:
    django.setup()
    logging.basicConfig(level=logging.INFO)
    due = time.monotonic()
    while True:
        try:
            tick()
        except DatabaseError as error:
            logger.warning("no tick: %s", error)
            close_old_connections()
        now = time.monotonic()
        due = max(due + INTERVAL, now)
        time.sleep(due - now)


def tick() -> None:
    from graceful_ws.publishing import SessionUnknown, send_to_session
    from project.models import Clock

    with transaction.atomic():
        for session in visitors():
            clock, _ = Clock.objects.get_or_create(session=session)
            clock.ticks += 1
            with suppress(SessionUnknown):  # it ended since we looked
                send_to_session(session, {"tick": clock.ticks, "at": round(time.time() * 1000)})
                clock.save(update_fields=["ticks"])


def visitors() -> list[UUID]:
    """The public ids of sessions that have a visitor, or had one a moment ago."""
    from graceful_ws.models import Session
    from project.consumers import Notes

    here = Q(left_at=None) | Q(left_at__gt=timezone.now() - AWAY)
    sessions = Session.objects.filter(here, consumer=Notes.label())
    return list(sessions.exclude(state=Session.State.ENDED).values_list("uuid", flat=True))


if __name__ == "__main__":
    lifeline.hold()
    main()
