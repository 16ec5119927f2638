"""What publishing costs synchronous code: in a view of the measured server (urls.py), and in a
process of its own without a node, such as a WSGI worker.

``python -m tests.benchmarks.publish_cost SECONDS`` prints one line of JSON. Blocks of transactions
that save a row and publish alternate with blocks that only save the row; the cost is what lies
between them.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from itertools import count
from statistics import median
from typing import Any

import django
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import transaction
from django.utils import timezone

GROUP = "room"
BLOCK = 50  # transactions
WARM_UP = 2  # blocks
TEXT = "x" * 64

Publish = Callable[[int], Any]


def is_ours() -> bool:
    return "graceful_ws" in settings.INSTALLED_APPS


def publisher() -> Publish:
    if is_ours():
        from graceful_ws.publishing import publish
        from graceful_ws.store.base import prepare

        prepare()
        return lambda n: publish(GROUP, {"n": n, "text": TEXT})
    layer = get_channel_layer()
    assert layer is not None
    group_send = async_to_sync(layer.group_send)
    return lambda n: group_send(GROUP, {"type": "room.message", "data": {"n": n, "text": TEXT}})


def kept() -> list[int] | None:
    """What the messages that ours has numbered say, in order."""
    if not is_ours():
        return None
    from graceful_ws.models import StreamMessage

    rows = StreamMessage.objects.filter(stream=GROUP, seq__isnull=False).order_by("seq")
    return [json.loads(text)["n"] for text in rows.values_list("data", flat=True)]


class Blocks:
    """Transactions of a view, with and without a message; ``settle`` is how many seconds of the
    process belong to a block after it, for what others of its threads do then."""

    def __init__(self, settle: float = 0.0) -> None:
        from django.contrib.sessions.models import Session

        self.saved = Session
        self.published = 0
        self._publish = publisher()
        self._settle = settle
        self._keys = (f"{secrets.token_hex(8)}-{n}" for n in count())

    def run(self, *, publishing: bool) -> tuple[float, float]:
        """µs of wall time and of this process's processor time for each transaction."""
        cpu, start = time.process_time(), time.perf_counter()
        for _ in range(BLOCK):
            with transaction.atomic():
                row = self.saved(next(self._keys), "saved by the view", timezone.now())
                row.save(force_insert=True)
                if publishing:
                    self._publish(self.published)
                    self.published += 1
        elapsed = time.perf_counter() - start
        time.sleep(self._settle)
        return elapsed / BLOCK * 1e6, (time.process_time() - cpu) / BLOCK * 1e6

    def measure(self, seconds: float) -> dict[str, Any]:
        costs = []
        for _ in range(WARM_UP):
            self.run(publishing=True)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            wall, cpu = self.run(publishing=False)
            wall_published, cpu_published = self.run(publishing=True)
            costs.append((wall, wall_published - wall, cpu_published - cpu))
        return {
            "published": self.published,
            "transaction": median(wall for wall, _, _ in costs),
            "wall": median(cost for _, cost, _ in costs),
            "cpu": median(cost for _, _, cost in costs),
        }


def main(seconds: float) -> None:
    django.setup()
    told = Blocks().measure(seconds)
    print(json.dumps({**told, "kept": kept()}), flush=True)
    os._exit(0)  # the layer's connections belong to event loops that are closed


if __name__ == "__main__":
    main(float(sys.argv[1]))
