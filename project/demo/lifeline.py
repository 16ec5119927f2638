"""The tie between the supervisor and a process it started: one socket, the child's stdin.

It ends when the supervisor does, however that went, and the child ends with it. The other way it
carries orders, one a line: a view asks the supervisor to drain or kill a process, because only a
parent can be sure that a process id is still the process it means.
"""

from __future__ import annotations

import os
import signal
import threading
import time

STDIN = 0
ORDERS = {"drain": signal.SIGTERM, "kill": signal.SIGKILL}
HURRY_AFTER = 2.0  # seconds from the first SIGTERM to the second, which closes everything at once
KILL_AFTER = 5.0  # seconds from the second to the end


def hold(after: float = 0.0) -> None:
    """From now on this process does not outlive its supervisor by more than ``after`` seconds and
    the time that its end takes. Call it in the main thread."""
    threading.Thread(target=_wait_for_the_end, args=(after,), name="lifeline", daemon=True).start()


def ask(action: str, process: str, order: str) -> None:
    """Has the supervisor do ``action``, one of ORDERS, to a process; the same ``order`` does it
    once. Raises OSError when the supervisor is gone."""
    os.write(STDIN, f"{action} {process} {order}\n".encode())


def _wait_for_the_end(after: float) -> None:
    try:
        while os.read(STDIN, 1024):
            pass
    except OSError:  # reset: the supervisor left without reading the last order
        pass
    time.sleep(after)
    for number, seconds in ((signal.SIGTERM, HURRY_AFTER), (signal.SIGTERM, KILL_AFTER)):
        os.kill(os.getpid(), number)
        time.sleep(seconds)
    os.killpg(0, signal.SIGKILL)  # the supervisor gave it a process group of its own
