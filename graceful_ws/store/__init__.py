"""The only code that queries the tables: sync functions, each one transaction.

They run in threads of their own (``graceful_ws.node.threads``), never on the event loop. Every
transaction that writes for a session locks its row first and compares the generation under that
lock: a plain read of the generation proves nothing, because its owner may change between the read
and the write.
"""

from __future__ import annotations

from .base import JournalUnavailable, alias, reading, writing

__all__ = ["JournalUnavailable", "alias", "reading", "writing"]
