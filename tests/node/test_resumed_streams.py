"""Where a resumed session goes on in a stream."""

from __future__ import annotations

import pytest

from graceful_ws.node.subscriptions import resumed_at
from graceful_ws.store.attach import Followed
from graceful_ws.store.streams import Tip

NOW = Tip("e", 45)


@pytest.mark.parametrize(
    ("epoch", "from_seq", "acked", "tip", "client", "state", "position"),
    [
        # what the client says, in the stream's epoch
        ("e", 10, 0, NOW, ("e", 38), "resumed", 38),
        ("e", 10, 0, NOW, ("e", 45), "resumed", 45),
        ("e", 40, 0, NOW, ("e", 40), "resumed", 40),
        # it has not heard that the session left the stream and came back behind its position
        ("e", 40, 0, NOW, ("e", 38), "new", 40),
        # it says nothing: what it has acknowledged, or where it began
        ("e", 10, 0, NOW, None, "new", 10),
        ("e", 10, 30, NOW, None, "new", 30),
        # numbers of another epoch mean nothing
        ("e", 10, 30, NOW, ("d", 30), "gap", 45),
        ("d", 10, 30, NOW, ("d", 30), "gap", 45),
        ("d", 10, 30, NOW, None, "gap", 45),
        # it has heard of the new epoch, its subscription's row has not
        ("d", 90, 99, NOW, ("e", 41), "resumed", 41),
        # the database knows less than the client
        ("e", 10, 30, NOW, ("e", 46), "gap", 45),
        # the stream was cleared away
        ("e", 10, 30, None, ("e", 30), "resumed", 30),
        ("e", 10, 30, None, None, "new", 30),
    ],
)
def test_a_resumed_session_goes_on(
    epoch: str,
    from_seq: int,
    acked: int,
    tip: Tip | None,
    client: tuple[str, int] | None,
    state: str,
    position: int,
) -> None:
    found = resumed_at(Followed("s", epoch, from_seq, acked, tip), client)
    assert (found.state, found.position) == (state, position)
    told = found.told()
    assert told["state"] == state
    if state == "new":
        assert told["head"] == position, "the client begins behind it"
