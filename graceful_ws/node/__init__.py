"""The process: the registry of its connections, the writer, the drain and the reaper."""

from __future__ import annotations


def local_wake(session: int) -> None:
    """Something waits for a session (primary key); if it is attached in this process, now is the
    time. From any thread; nodes elsewhere find it with their next look."""
    from .node import local_nodes

    for node in local_nodes():
        if session in node.sessions and not node.loop.is_closed():
            node.loop.call_soon_threadsafe(node.take_pending, [session])
