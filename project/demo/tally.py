"""What was lost, came twice or changed places: one sequence of numbers at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tally:
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.lost + other.lost,
            self.duplicated + other.duplicated,
            self.out_of_order + other.out_of_order,
        )


def tally(arrived: Sequence[int], due: Iterable[int]) -> Tally:
    """``arrived``: numbers in the order of their arrival. ``due``: those that had to arrive; more
    may. A number is out of order when a greater one came before it."""
    seen: set[int] = set()
    highest = out_of_order = 0
    for number in arrived:
        if number not in seen and number < highest:
            out_of_order += 1
        seen.add(number)
        highest = max(highest, number)
    return Tally(len(set(due) - seen), len(arrived) - len(seen), out_of_order)
