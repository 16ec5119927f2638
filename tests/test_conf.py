"""Settings: typed defaults, read lazily."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from django.test import override_settings

from graceful_ws.conf import NAMES, Defaults, Settings, settings
from graceful_ws.consumers import GracefulConsumer
from graceful_ws.core.connection import Limits
from graceful_ws.core.window import Pending
from graceful_ws.node.limits import LIMITS, limits_of


def test_without_a_setting_everything_has_its_default() -> None:
    for field in fields(Defaults):
        assert getattr(settings, field.name) == field.default


def test_what_is_given_wins_and_is_forgotten_when_the_setting_changes() -> None:
    assert settings.resume_window == 3600
    with override_settings(GRACEFUL_WS={"resume_window": 600}):
        assert settings.resume_window == 600
        assert settings.message_bytes == 64 * 1024
        with override_settings(GRACEFUL_WS={}):
            assert settings.resume_window == 3600
    assert settings.resume_window == 3600


def test_settings_are_read_when_they_are_asked_for_and_not_before() -> None:
    early = Settings()
    with override_settings(GRACEFUL_WS={"unacked": 3}):
        assert early.unacked == 3


@pytest.mark.parametrize("given", [{"resume_windw": 1}, None, ["resume_window"]])
def test_a_mistake_does_not_take_a_running_site_down(given: Any) -> None:
    with override_settings(GRACEFUL_WS=given):
        assert settings.resume_window == 3600


def test_a_name_that_is_no_setting_is_an_error() -> None:
    with pytest.raises(AttributeError, match="resume_windw"):
        _ = settings.resume_windw


def test_a_consumers_attribute_wins_over_the_setting_and_none_takes_it() -> None:
    class Own(GracefulConsumer):
        message_bytes = 100
        unacked = None

    assert limits_of(Own).message_bytes == 100
    with override_settings(GRACEFUL_WS={"message_bytes": 200, "unacked": 5}):
        assert (limits_of(Own).message_bytes, limits_of(Own).unacked) == (100, 5)
    assert limits_of(Own).unacked == 64


def test_every_limit_of_a_consumer_is_a_setting_and_an_attribute_of_the_class() -> None:
    assert set(LIMITS) <= NAMES
    assert all(getattr(GracefulConsumer, name) is None for name in LIMITS)


def test_the_core_has_the_same_defaults() -> None:
    """Clients and tests that know no Django start from the numbers of the settings."""
    limits, pending, defaults = Limits(), Pending(), Defaults()
    assert (limits.heartbeat_interval, limits.heartbeat_timeout, limits.max_missed) == (
        defaults.heartbeat_interval,
        defaults.heartbeat_timeout,
        defaults.max_missed,
    )
    assert (limits.connecting, limits.idle, limits.closing) == (
        defaults.connecting_timeout,
        defaults.idle_timeout,
        defaults.closing_timeout,
    )
    assert (pending.max_messages, pending.max_bytes) == (defaults.unacked, defaults.unacked_bytes)
