"""A process that publishes and is no node: as a view, a task or a shell would.

    python -m tests.system.chaos.publisher SEED STREAM,STREAM,...

Each thread is a publisher of its own. Transactions of one of them are long, so that those of the
others begin later and commit earlier; some are rolled back on purpose. Ends when the ledger's
directory holds ``stop``.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django.db import Error, close_old_connections, connection, transaction  # noqa: E402

from graceful_ws.consumers import JournalUnavailable  # noqa: E402
from graceful_ws.publishing import SessionUnknown, publish, send_to_session  # noqa: E402
from tests.system.chaos.ledger import directory, stopping, write  # noqa: E402

PAUSE = 0.25  # seconds between two transactions of one thread
OUTAGES = (Error, JournalUnavailable)


class Undone(Exception):
    """Rolls a transaction back."""


class Publisher:
    def __init__(self, name: str, seed: int, rooms: list[str]) -> None:
        self.name = name
        self.random = random.Random(f"{seed} {name}")
        self.rooms = rooms
        self._numbers = itertools.count(1)
        self._open: list[tuple[str, str, int]] = []  # of the transaction that runs

    def say(self, room: str) -> None:
        message = (room, self.name, next(self._numbers))
        write("attempted", *message)
        self._open.append(message)
        publish(room, {"p": self.name, "n": message[2]})

    def some_rooms(self, count: int) -> list[str]:
        return self.random.sample(self.rooms, min(count, len(self.rooms)))

    def within_transaction(self, body: Callable[[], None]) -> None:
        """Writes down what became of what ``body`` published."""
        self._open = []
        try:
            with transaction.atomic():
                body()
        except (Undone, SessionUnknown):
            outcome = "rolled_back"
        except OUTAGES:
            outcome = "withdrawn"
            close_old_connections()
            time.sleep(PAUSE)
        else:
            outcome = "accepted"
        for message in self._open:
            write(outcome, *message)

    # --- what a transaction may be ------------------------------------------------------------

    def short(self) -> None:
        for room in self.some_rooms(2):
            self.say(room)

    def long(self) -> None:
        for room in self.some_rooms(2):  # in any order: nobody may wait for another's stream
            self.say(room)
        # SQLite has one writer: everybody waits meanwhile.
        time.sleep(self.random.uniform(0.3, 1.5) if connection.vendor == "postgresql" else 0.1)

    def undone(self) -> None:
        self.short()
        raise Undone

    def undone_in_part(self) -> None:
        self.say(self.rooms[0])
        kept = len(self._open)
        try:
            with transaction.atomic():
                self.short()
                raise Undone
        except Undone:
            for message in self._open[kept:]:
                write("rolled_back", *message)
            del self._open[kept:]

    def to_session(self) -> None:
        path = directory() / "sessions"
        sessions = path.read_text().split() if path.exists() else []
        if not sessions:
            return
        session = self.random.choice(sessions)
        message = (f"session:{session}", self.name, next(self._numbers))
        write("attempted", *message)
        self._open.append(message)
        send_to_session(session, {"p": self.name, "n": message[2]})
        if self.random.random() < 0.2:
            raise Undone

    def run(self, bodies: list[str]) -> None:
        while not stopping():
            try:
                self.within_transaction(getattr(self, self.random.choice(bodies)))
            except Exception as error:
                traceback.print_exc()
                write("surprise", "", f"{self.name}: {error!r}", 0)
            close_old_connections()
            time.sleep(self.random.uniform(0.5, 1.5) * PAUSE)
        connection.close()


def main(seed: int, rooms: list[str]) -> None:
    work = {
        "outside-sessions": ["to_session"],
        "outside-short": ["short", "short", "undone", "undone_in_part"],
        "outside-long": ["long"],
        "outside-other": ["long", "short"],
    }
    threads = [
        threading.Thread(target=Publisher(name, seed, rooms).run, args=(bodies,))
        for name, bodies in work.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2].split(","))
