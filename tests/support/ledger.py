"""What servers wrote down outside themselves, and what a client got, compared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.support.robot import Robot
from tests.support.waiting import eventually


class LedgerBook:
    """The files of ``tests.consumers.Ledger`` in one directory, one per session and kind.

    A tick is ``connection:n``. It is *attempted* before ``send_json`` and *accepted* after it
    returned; a client's number is *started* and *handled* by its handler.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)

    @property
    def env(self) -> dict[str, str]:
        return {"GRACEFUL_TEST_LEDGER": str(self.directory)}

    def lines(self, session_id: str, kind: str) -> list[str]:
        path = self.directory / f"{session_id}.{kind}"
        return path.read_text().split() if path.exists() else []

    def accepted(self, session_id: str) -> list[str]:
        return self.lines(session_id, "accepted")

    def stop_ticking(self) -> None:
        (self.directory / "stop").touch()

    async def complete(self, robot: Robot, within: float = 30.0) -> None:
        """Until a client that has nothing left to send has all that was accepted for it; to be
        called after ``stop_ticking``."""
        await robot.settled(within)

        def all_arrived() -> bool:
            session = robot.session_id
            return bool(self.lines(session, "stopped")) and not (
                set(self.accepted(session)) - ticks(robot)
            )

        await eventually(all_arrived, within, f"all ticks arrived: {robot.complaints}")

    def verify(self, robot: Robot, *, starts: int = 1) -> None:
        """Nothing lost, duplicated or out of order, in either direction; no handler was started
        more than ``starts`` times."""
        session = robot.session_id
        assert robot.complaints == []
        received = [data["tick"] for data in robot.received if "tick" in data]
        assert len(set(received)) == len(received), "a message arrived twice"
        assert set(received) <= set(self.lines(session, "attempted"))
        assert set(self.accepted(session)) <= set(received), "an accepted message was lost"
        by_connection: dict[str, list[int]] = {}
        for tick in received:
            connection, number = tick.split(":")
            by_connection.setdefault(connection, []).append(int(number))
        for numbers in by_connection.values():
            assert numbers == sorted(numbers), "messages changed places"
        started = [int(n) for n in self.lines(session, "started")]
        handled = [int(n) for n in self.lines(session, "handled")]
        assert max(Counter(started).values(), default=0) <= starts, "a handler ran too often"
        acked = range(1, min(robot.pending, default=robot.next_seq))
        assert set(acked) - set(robot.nacks) <= set(handled), "acknowledged, and not handled"
        assert list(dict.fromkeys(started)) == sorted(set(started)), "handled out of order"
        for seq in set(acked) - set(robot.nacks):
            assert robot.results.get(seq, {"handled": seq}) == {"handled": seq}


def ticks(robot: Robot) -> set[str]:
    return {data["tick"] for data in robot.received if "tick" in data}
