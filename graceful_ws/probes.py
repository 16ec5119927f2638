"""Questions that many ask and that may take long: asked once for all, answered in time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from graceful_ws.store.base import close_connections

logger = logging.getLogger("graceful_ws.views")

Answer = TypeVar("Answer")


class Probe(Generic[Answer]):
    """A question whose answer is good for a while, asked once for all who want to know.

    * ``ask`` runs in a thread of its own, returns the answer or raises what is wrong
    * ``within``: seconds that a caller waits; later counts as a failure
    * ``fresh``: seconds for which an answer is remembered
    """

    def __init__(
        self, name: str, ask: Callable[[], Answer], *, within: float, fresh: float
    ) -> None:
        self._name = name
        self._ask = ask
        self._within = within
        self._fresh = fresh
        self._lock = threading.Lock()
        self._asking: Future[tuple[bool, Answer | None]] | None = None
        self._answer: tuple[bool, Answer | None] = True, None
        self._at = -fresh

    def __call__(self) -> bool:
        """Whether it answers."""
        return self._get()[0]

    def value(self) -> Answer | None:
        """The answer; None when there is none."""
        return self._get()[1]

    def _get(self) -> tuple[bool, Answer | None]:
        with self._lock:
            if time.monotonic() - self._at < self._fresh:
                return self._answer
            asking = self._asking
            if asking is None:
                asking = self._asking = Future()
                threading.Thread(target=self._run, args=(asking,), daemon=True).start()
        try:
            return asking.result(self._within)
        except TimeoutError:
            logger.warning("%s: no answer within %g s", self._name, self._within)
            return False, None

    def forget(self) -> None:
        """The next caller asks anew."""
        with self._lock:
            self._at = time.monotonic() - self._fresh

    def _run(self, asking: Future[tuple[bool, Answer | None]]) -> None:
        answer: tuple[bool, Answer | None] = False, None
        try:
            answer = True, self._ask()
        except Exception as error:
            logger.warning("%s: %r", self._name, error)
        finally:
            close_connections()
        with self._lock:
            self._answer, self._at, self._asking = answer, time.monotonic(), None
        asking.set_result(answer)
