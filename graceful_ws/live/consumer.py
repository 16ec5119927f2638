"""What the live dashboard talks to: a consumer as any other, for staff who may look."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from django.contrib.auth import get_user_model

from graceful_ws.conf import settings
from graceful_ws.consumers import GracefulConsumer
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.live import snapshot
from graceful_ws.node.threads import OUTAGES
from graceful_ws.store.samples import LIVE

Result = TypeVar("Result")

PERMISSIONS = ("graceful_ws.view_node", "graceful_ws.view_session")
LOOK = 5.0  # seconds between two looks at whether who watches still may
REFUSED = "for staff who may view nodes and sessions"


def may_watch(user: Any) -> bool:
    """Whether ``user``, who may be nobody, may see the dashboard."""
    return bool(user is not None and user.is_active and user.is_staff) and user.has_perms(
        PERMISSIONS
    )


def may_watch_now(pk: Any) -> bool:
    """The same of the user's row as it is now: a user of a connection is as old as that."""
    return may_watch(get_user_model()._default_manager.filter(pk=pk).first())


class LiveConsumer(GracefulConsumer):
    """Follows the figures that nodes publish, and answers three questions:

    ``{"type": "snapshot"}`` all that the page begins with, ``{"type": "totals"}`` and
    ``{"type": "sessions", "search", "order"}`` what is not published. Asked by a numbered message
    the answer is its result; by a volatile one it is a volatile message, which nobody keeps.

    Who may not look, or not any more, is closed 4401, within ``LOOK`` seconds: their page has to
    log in. Every question and every resume asks again.
    """

    streams = [LIVE]
    _looking: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        allowed: bool | None = None
        with suppress(*OUTAGES):
            allowed = await self._allowed()
        await self.accept()  # a browser sees neither code nor reason of a handshake that is refused
        if allowed is None:
            self._graceful.live.close(CloseCode.TRY_AGAIN_LATER, "the database does not answer")
        elif allowed:
            self._looking = asyncio.create_task(self._look())
        else:
            self._refuse()

    async def disconnect(self, code: int) -> None:
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        """Who asks nothing hears of the nodes all the same."""
        while True:
            await asyncio.sleep(LOOK)
            with suppress(*OUTAGES):
                if not await self._allowed():
                    self._refuse()
                    return

    async def may_subscribe(self, stream: str) -> bool:
        return await self._allowed()

    async def receive_json(self, content: Any, **kwargs: Any) -> Any:
        question = _question(content)
        if not await self._allowed():
            self._refuse()
            return None
        return await self._in_thread(question)

    async def receive_volatile(self, content: Any) -> None:
        question = _question(content)
        try:
            if not await self._allowed():
                self._refuse()
                return
            answer = await self._in_thread(question)
        except OUTAGES:
            answer = {"type": "unavailable"}
        await self.send_json(answer, volatile=True)

    async def _allowed(self) -> bool:
        user = self.scope.get("user")
        return user is not None and await self._in_thread(lambda: may_watch_now(user.pk))

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        """In the threads of handlers: those of the node itself must not wait for a page."""
        return await self._graceful.live.node.handler_threads.run(call)

    def _refuse(self) -> None:
        """Closes the connection but not the session, which can be resumed after a login."""
        self._graceful.live.close(CloseCode.CREDENTIALS_EXPIRED, REFUSED)


def _question(content: Any) -> Callable[[], dict[str, Any]]:
    """What answers a question. Raises ValueError when it is none."""
    match content:
        case {"type": "snapshot"}:
            return snapshot.snapshot
        case {"type": "totals"}:
            return snapshot.totals
        case {"type": "sessions"}:
            search, order = (str(content.get(name, "")) for name in ("search", "order"))
            return lambda: snapshot.sessions(search[: snapshot.SEARCH], order)
    raise ValueError(f"no question of the dashboard: {str(content)[:100]}")


def urls() -> list[str]:
    """Where the page finds the consumer, see the setting ``live_url``."""
    return str(settings.live_url).split()
