"""Halls: streams that clients enter and leave all the time, while others publish in them.

What is published to a hall matters to those who are in: from the head at which somebody entered on,
nothing may be missing, until they leave. One client, the doorman, is in all the time: what nobody
needs any more is not kept, and could not be compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.system.chaos.visitors import Diary

PREFIX = "hall-"
GO_EVERY = 6  # messages of a client that goes in and out


@dataclass
class Stay:
    """From one subscription to its end; messages by number, as they came."""

    start: int
    messages: list[tuple[int, Any]] = field(default_factory=list)
    over: bool = False


def is_hall(stream: str) -> bool:
    return stream.startswith(PREFIX)


def inside(diary: Diary, hall: str) -> bool:
    stays = diary.halls.get(hall, [])
    return bool(stays) and not stays[-1].over


def enter(diary: Diary, hall: str, head: int) -> None:
    if not inside(diary, hall):
        diary.halls.setdefault(hall, []).append(Stay(head))


def enter_again(diary: Diary, hall: str, head: int) -> None:
    """A welcome calls the subscription new: it may have ended and begun while nobody was told."""
    if inside(diary, hall):
        stay = diary.halls[hall][-1]
        stay.over = head > max((seq for seq, _ in stay.messages), default=stay.start)
    enter(diary, hall, head)


def leave(diary: Diary, hall: str) -> None:
    if inside(diary, hall):
        diary.halls[hall][-1].over = True


def hear(diary: Diary, hall: str, seq: int, data: Any) -> None:
    if inside(diary, hall):
        diary.halls[hall][-1].messages.append((seq, data))
    else:
        diary.troubles.append(f"heard {hall} from outside: {seq}")


def order(number: int, halls: list[str]) -> dict[str, str]:
    """What a message of a client asks its handler to do: nothing, or one way through one door."""
    turn, rest = divmod(number, GO_EVERY)
    if rest or not halls:
        return {}
    return {"hall": halls[turn // 2 % len(halls)], "go": "in" if turn % 2 else "out"}
