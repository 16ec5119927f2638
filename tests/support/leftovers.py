"""What a server still holds of connections that are over: it has to be nothing."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from tests.support.servers import ServerProcess, Site
from tests.support.waiting import eventually_sync

THREADS = 1 + 2 + 2 + 2 + 8  # writer, readers, services, sequencer, handlers


def debug(node: ServerProcess) -> dict[str, Any]:
    """What ``/debug/`` says of a process."""
    with urllib.request.urlopen(node.url("/debug/"), timeout=10) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def leftovers(site: Site) -> dict[str, Any]:
    """Tasks, timers, registry entries and rows of connections, of all nodes that run."""
    found: dict[str, Any] = {}
    pids = [0]
    for server in site.nodes:
        if not server.running:
            continue
        pids.append(server.pid)
        for node in debug(server)["nodes"]:
            held = {what: value for what, value in node.items() if value and what != "node"}
            if held:
                found[server.name] = held
    marks = ", ".join(str(pid) for pid in pids)
    rows = site.sql(
        "SELECT graceful_ws_session.uuid FROM graceful_ws_session JOIN graceful_ws_node"
        " ON graceful_ws_node.id = graceful_ws_session.node_id"
        f" WHERE graceful_ws_session.state = 'attached' AND graceful_ws_node.pid IN ({marks})"
    )
    if rows:
        found["attached"] = [str(row[0]) for row in rows]
    return found


def assert_nothing_left(site: Site, within: float = 10.0) -> None:
    """Wait until no node holds anything of a connection; AssertionError with what is held."""
    last: dict[str, Any] = {}

    def nothing() -> bool:
        last.clear()
        last.update(leftovers(site))
        return not last

    try:
        eventually_sync(nothing, within)
    except AssertionError:
        raise AssertionError(f"left after {within:g} s without a client: {last}") from None
    for server in site.nodes:
        if server.running:
            assert len(debug(server)["threads"]) <= THREADS
