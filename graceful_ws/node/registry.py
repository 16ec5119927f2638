"""Which connections are here, and which session is whose."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from graceful_ws.store.attach import Attach, hash_token

if TYPE_CHECKING:
    from .live import LiveConnection

LEFT = 1000  # sessions not here yet for which something was left


class Registry:
    """The connections of one node, and the sessions that they own."""

    def __init__(self) -> None:
        self.served: set[LiveConnection] = set()  # from the handshake until their end has ended
        self.connections: set[LiveConnection] = set()  # of them, those that are open
        self.sessions: dict[int, LiveConnection] = {}
        self._tokens: dict[bytes, LiveConnection] = {}
        self._left: set[int] = set()  # sessions for which something was left, and not here yet

    def add(self, live: LiveConnection) -> None:
        self.connections.add(live)

    def own(self, live: LiveConnection) -> None:
        """The session of ``live`` is its own from now on; the connection before it is over."""
        before = self.sessions.get(live.session_pk)
        self.sessions[live.session_pk] = live
        if live.attached is not None:
            self._tokens[live.attached.token_hash] = live
        if before is not None and before is not live:
            before.superseded(live.instance)
        if before is not None or live.session_pk in self._left:
            # It was told to the connection before, or to nobody, after the attach had looked.
            self._left.discard(live.session_pk)
            live.take_pending()

    def predecessor(self, entry: Attach) -> LiveConnection | None:
        """The connection in this process whose session a hello asks for, and may take."""
        before = self._tokens.get(hash_token(entry.token)) if entry.token else None
        if before is None or before.owner is None:
            return None
        consumer, identity, attempt = before.owner
        mine = identity.user_id, identity.auth_hash, identity.session_key_hash
        if consumer != entry.consumer or not entry.identity.owns(*mine):
            return None
        same = before.instance == entry.instance
        return None if same and entry.attempt <= attempt else before

    def remove(self, live: LiveConnection) -> None:
        self.connections.discard(live)
        if live.attached is not None and self._tokens.get(live.attached.token_hash) is live:
            del self._tokens[live.attached.token_hash]
        if live.attached is not None and self.sessions.get(live.session_pk) is live:
            del self.sessions[live.session_pk]

    def take_pending(self, sessions: Iterable[int]) -> None:
        """Numbers and sends what was left for sessions (primary keys) attached here."""
        for pk in sessions:
            live = self.sessions.get(pk)
            if live is None:
                # Its attach may have been committed, and not heard of yet. The poll finds the rest.
                if len(self._left) >= LEFT:
                    self._left.clear()
                self._left.add(pk)
            elif live.is_open:
                live.take_pending()
