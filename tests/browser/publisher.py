"""``python -m tests.browser.publisher``: numbers to the stream of the page, until SIGTERM.

Each message says when it was published; the last line of the output is the last number.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time

import django

INTERVAL = 0.02  # seconds


def main() -> None:
    django.setup()
    from graceful_ws.publishing import publish

    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    for number in itertools.count(1):
        publish("ticks", {"n": number, "at": time.time() * 1000})
        if stopped.wait(INTERVAL):
            print(number, flush=True)
            return


if __name__ == "__main__":
    main()
