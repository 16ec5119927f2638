"""Places of a node: what is counted is given back, once, whatever happens in between."""

from __future__ import annotations

import random
from typing import Any

import pytest

from graceful_ws.node.admission import Admission, Full, Place
from graceful_ws.node.stats import Stats


@pytest.fixture
def stats() -> Stats:
    return Stats()


@pytest.fixture
def admission(stats: Stats) -> Admission:
    return Admission(stats)


def limits(settings: Any, **values: int) -> None:
    settings.GRACEFUL_WS = {"connections": 4, "connecting": 2, **values}


def test_a_node_is_full_with_its_connections_and_with_those_that_are_not_welcomed(
    admission: Admission, stats: Stats, settings: Any
) -> None:
    limits(settings)
    places = [admission.enter("") for _ in range(2)]
    with pytest.raises(Full, match="too many connecting"):
        admission.enter("")
    for place in places:
        place.welcomed()
        place.welcomed()
    places += [admission.enter("") for _ in range(2)]
    with pytest.raises(Full, match="too many connections"):
        admission.enter("")
    assert stats.refused == {"connecting": 1, "connections": 1}
    places[3].leave()
    places[3].leave()
    assert (admission.open, admission.connecting) == (3, 1)
    admission.enter("").welcomed()
    assert (admission.open, admission.connecting) == (4, 1)


def test_an_address_that_has_enough_is_turned_away_and_others_are_not(
    admission: Admission, stats: Stats, settings: Any
) -> None:
    limits(settings, connecting=100, connections=100, connections_per_address=2)
    mine = [admission.enter("a") for _ in range(4)]
    assert [place.crowded for place in mine] == [False, False, True, True]
    assert not admission.enter("b").crowded
    assert not any(admission.enter("").crowded for _ in range(3))
    assert stats.refused == {"address": 2}
    for place in mine[2:]:  # they had no part in what their address has
        place.leave()
    assert admission.enter("a").crowded
    mine[0].leave()
    assert not admission.enter("a").crowded


def test_nothing_stays_counted(admission: Admission, settings: Any) -> None:
    limits(settings, connecting=5, connections=20, connections_per_address=3)
    chance = random.Random(6)
    places: list[Place] = []
    for _ in range(5000):
        match chance.randrange(3):
            case 0:
                try:
                    places.append(admission.enter(chance.choice("abc")))
                except Full:
                    assert admission.open == 20 or admission.connecting == 5
            case 1 if places:
                chance.choice(places).welcomed()
            case 2 if places:
                places.pop(chance.randrange(len(places))).leave()
        if chance.random() < 0.001:  # the limit is switched off and on
            limits(settings, connecting=5, connections=20, connections_per_address=0)
        assert admission.open == len(places)
    for place in places:
        place.leave()
    assert (admission.open, admission.connecting, dict(admission.addresses)) == (0, 0, {})
