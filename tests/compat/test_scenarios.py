"""The same consumer does the same, whichever of the two it is derived from."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from tests.compat.kit import MODULES, PAIRS, SCENARIOS, Scenario, Transcript
from tests.compat.peer import Peer

for module in MODULES:
    importlib.import_module(f"tests.compat.{module}")  # scenarios register themselves

pytestmark = [
    pytest.mark.usefixtures("memory_layers", "graceful_node"),
    pytest.mark.sqlite_only,
]


async def played(scenario: Scenario, base: Any) -> Transcript:
    peer = Peer()
    await scenario.play(peer, base)
    await peer.over()
    return Transcript(peer.sent, peer.hooks)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: f"{s.name}-{s.pair}")
async def test_transcripts_are_the_same(
    scenario: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, ours = PAIRS[scenario.pair]
    channels, here = await played(scenario, theirs), await played(scenario, ours)
    if scenario.differs is None:
        assert here == channels
        assert [one for one in caplog.records if one.levelname in ("ERROR", "WARNING")] == []
    else:
        assert channels == scenario.differs.channels
        assert here == scenario.differs.here
