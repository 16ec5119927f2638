"""A question to a database or a layer, asked once for all who want to know."""

from __future__ import annotations

import threading

from django.db import OperationalError

from graceful_ws.views import Probe


def test_a_probes_answer_is_remembered_until_it_is_forgotten() -> None:
    asked: list[int] = []
    probe = Probe("it", lambda: asked.append(1), within=5.0, fresh=60.0)
    assert [probe(), probe(), len(asked)] == [True, True, 1]
    probe.forget()
    assert [probe(), len(asked)] == [True, 2]


def test_a_probe_that_hangs_is_asked_once_and_nobody_waits_for_it_long() -> None:
    asked: list[int] = []
    go_on = threading.Event()

    def hang() -> None:
        asked.append(1)
        go_on.wait(30)

    probe = Probe("it", hang, within=0.05, fresh=60.0)
    assert [probe(), probe(), probe(), len(asked)] == [False, False, False, 1]
    go_on.set()
    patient = Probe("it", lambda: None, within=5.0, fresh=60.0)
    assert patient()


def test_a_probe_that_raises_says_no() -> None:
    def fail() -> None:
        raise OperationalError("away")

    assert Probe("it", fail, within=5.0, fresh=60.0)() is False
