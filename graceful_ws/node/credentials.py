"""Whether the users of a node's connections may still be here: their rows say so."""

from __future__ import annotations

import logging
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from graceful_ws.store import credentials
from graceful_ws.store.credentials import Standing

from .threads import OUTAGES

if TYPE_CHECKING:
    from .node import Node

logger = logging.getLogger("graceful_ws.node")

AT_ONCE = 5000  # users that one round asks about; more take turns


class Credentials:
    """Of one node. What Django's signals tell is faster; this sees every other change too."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._known: dict[Any, Standing] = {}
        self._turn = 0

    async def check(self) -> None:
        """Ends the sessions of users whose credentials are good no longer; the round finds those
        that are here ended, and closes them. Raises nothing: the rest of the round must go on."""
        try:
            await self._check()
        except OUTAGES as error:
            logger.warning("cannot ask about users: %s", error)
        except Exception:
            logger.exception("cannot ask about users")

    async def _check(self) -> None:
        here: defaultdict[Any, dict[int, str]] = defaultdict(dict)
        for pk, live in self._node.sessions.items():
            if live.owner is not None and live.owner[1].checked and live.is_open:
                here[live.owner[1].user_id][pk] = live.owner[1].auth_hash
        if not here:
            self._known.clear()
            return
        asked = self._next(here)
        services = self._node.services
        now = await services.run(
            credentials.standings, {user: self._known.get(user) for user in asked}
        )
        self._known = {user: one for user, one in self._known.items() if user in here} | now
        nodes = set()
        for user, one in now.items():
            if one.why:
                nodes |= await services.run(_end_all, user, one.why, list(here[user]))
            elif not one.valid.issuperset(here[user].values()):
                why = "the password was changed"
                nodes |= await services.run(credentials.end_old, user, why, one.valid)
        self._node.ask(nodes - {self._node.id})

    def _next(self, users: dict[Any, Any]) -> list[Any]:
        if len(users) <= AT_ONCE:
            return list(users)
        if self._turn >= len(users):
            self._turn = 0
        some = list(islice(users, self._turn, self._turn + AT_ONCE))
        self._turn += AT_ONCE
        return some


def _end_all(user: Any, why: str, here: list[int]) -> Any:
    # A user that was deleted has taken their name from the sessions' rows.
    return credentials.end_all(user, why, also=here)
