"""System checks: misuse is named early, with the remedy."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.core.checks import run_checks
from django.db import connections
from django.test import override_settings

from graceful_ws import checks, servers
from graceful_ws.conf import Defaults
from graceful_ws.consumers import GracefulConsumer
from graceful_ws.validation import TYPES, settings_problems
from tests.support.databases import Database

MEMORY = "channels.layers.InMemoryChannelLayer"
CORE = "channels_redis.core.RedisChannelLayer"
PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"


def found(**given: Any) -> list[tuple[str, str, str]]:
    """Our messages with GRACEFUL_WS set to ``given``, but for those about consumer classes, which
    other tests may have left behind: (id, text, hint)."""
    with override_settings(GRACEFUL_WS=given):
        messages = run_checks(tags=["graceful_ws"])
    return [
        ((message.id or "").removeprefix("graceful_ws."), message.msg, message.hint or "")
        for message in messages
        if message.obj is None
    ]


def ids(**given: Any) -> list[str]:
    return [identifier for identifier, _, _ in found(**given)]


def test_the_defaults_pass_every_check() -> None:
    assert found() == []


# GRACEFUL_WS


def test_unknown_setting_names_the_nearest_one() -> None:
    assert found(resume_windw=600) == [
        ("E001", "GRACEFUL_WS has no setting 'resume_windw'.", "Did you mean 'resume_window'?")
    ]


def test_unknown_setting_with_nothing_near_names_the_list() -> None:
    ((_, _, hint),) = found(xyzzy=1)
    assert "docs/settings.md" in hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("message_bytes", -1),
        ("message_bytes", 0),
        ("message_bytes", 1.5),
        ("message_bytes", "64 KiB"),
        ("message_bytes", None),
        ("message_bytes", True),
        ("resume_window", -1),
        ("resume_window", math.nan),
        ("resume_window", math.inf),
        ("resume_window", "1h"),
        ("drain_rate", 0),
        ("close_on_error", 1),
        ("node_name", 7),
        ("database", None),
        ("allowed_origins", "https://example.com"),
        ("allowed_origins", ["example.com"]),
        ("allowed_origins", ["https://example.com/path"]),
        ("allowed_origins", ["https://example.com:port"]),
        ("allowed_origins", [7]),
    ],
)
def test_wrong_type_or_value_names_setting_value_and_default(name: str, value: Any) -> None:
    ((identifier, text, hint),) = [item for item in found(**{name: value}) if item[0] != "E007"]
    assert identifier == "E002"
    assert f"GRACEFUL_WS['{name}']" in text
    assert hint.startswith(f"The default is {getattr(Defaults(), name)!r}")


@pytest.mark.parametrize(
    "given",
    [
        {"resume_window": 600},
        {"exit_grace": 0},
        {"drain_window": 0, "drain_observe": 0.0},
        {"allowed_origins": ["https://example.com", "http://localhost:8080", "app://-"]},
        {"allowed_origins": ()},
    ],
)
def test_sensible_values_pass(given: dict[str, Any]) -> None:
    assert found(**given) == []


@pytest.mark.parametrize("given", [["resume_window"], "resume_window", None, 7])
def test_a_setting_that_is_no_dict_is_said_in_one_line(given: Any) -> None:
    ((identifier, text, _),) = settings_problems(given)
    assert identifier == "E003"
    assert repr(given) in text
    with override_settings(GRACEFUL_WS=given):
        messages = [m.id for m in run_checks(tags=["graceful_ws"]) if m.obj is None]
        assert messages == ["graceful_ws.E003"]


def test_heartbeat_longer_than_its_interval() -> None:
    ((identifier, text, _),) = found(heartbeat_timeout=6, heartbeat_interval=5)
    assert identifier == "E004"
    assert text == "heartbeat_timeout (6 s) is longer than heartbeat_interval (5 s)."
    assert found(heartbeat_timeout=5, heartbeat_interval=5) == []


@pytest.mark.parametrize(
    ("given", "needed"),
    [({"drain_window": 30}, "33"), ({"drain_observe": 20}, "33"), ({"drain_deadline": 12}, "13")],
)
def test_drain_longer_than_its_deadline(given: dict[str, Any], needed: str) -> None:
    ((identifier, text, hint),) = found(**given)
    assert identifier == "E005"
    assert "are longer than drain_deadline" in text
    assert f"Raise drain_deadline to {needed} " in hint


def test_node_that_would_be_dead_at_its_first_late_beat() -> None:
    assert ids(dead_after=5) == ["E006"]


def test_journal_that_forgets_before_its_readers_may_return() -> None:
    assert ids(journal_age=600) == ["W006"]
    assert ids(journal_age=600, resume_window=600) == []


def test_a_wrong_value_does_not_hide_other_problems() -> None:
    assert ids(heartbeat_timeout="3", drain_window=40, typo=1) == ["E002", "E001", "E005"]


def test_every_setting_has_a_type_that_can_be_checked() -> None:
    defaults = Defaults()
    assert settings_problems({name: getattr(defaults, name) for name in TYPES}) == []
    for name in TYPES:
        assert [problem.id for problem in settings_problems({name: object()})] == ["E002"]


# Consumers


@pytest.fixture(autouse=True)
def _forget_consumers() -> Iterator[None]:
    yield
    gc.collect()  # classes of one test are no subclasses in the next


def consumer_ids(cls: type) -> list[str]:
    return [problem.id for problem in checks.consumer_problems(cls)]


def test_consumer_with_two_handlers() -> None:
    class Both(GracefulConsumer):
        async def receive_json(self, content: Any, **kwargs: Any) -> Any: ...
        def receive_in_transaction(self, content: Any) -> Any: ...

    class Child(Both): ...

    class Decided(Both):
        receive_in_transaction = None  # type: ignore[assignment]

    messages = [m for m in run_checks(tags=["graceful_ws"]) if m.obj in (Both, Child, Decided)]
    assert [(m.id, m.obj) for m in messages] == [
        ("graceful_ws.E008", Both),
        ("graceful_ws.E008", Child),
    ]
    assert "Both defines both receive_json and receive_in_transaction" in messages[0].msg


def test_handlers_from_two_mixins_are_found() -> None:
    class Json(GracefulConsumer):
        async def receive_json(self, content: Any, **kwargs: Any) -> Any: ...

    class Transaction(GracefulConsumer):
        def receive_in_transaction(self, content: Any) -> Any: ...

    class Mixed(Json, Transaction): ...

    assert [consumer_ids(cls) for cls in (Json, Transaction, Mixed)] == [[], [], ["E008"]]


def test_handler_in_a_transaction_that_is_a_coroutine() -> None:
    class Wrong(GracefulConsumer):
        async def receive_in_transaction(self, content: Any) -> Any: ...

    assert consumer_ids(Wrong) == ["E010"]


def test_hooks_that_are_awaited_should_be_async() -> None:
    class Wrong(GracefulConsumer):
        def receive_json(self, content: Any) -> None: ...  # type: ignore[override]
        async def connect(self) -> None: ...

    class Right(GracefulConsumer):
        receive_json = database_sync_to_async(lambda self, content: None)  # type: ignore[misc]

    assert consumer_ids(Wrong) == ["W016"]
    assert "Wrong.receive_json" in str(checks.consumer_problems(Wrong))
    assert consumer_ids(Right) == []


def test_limits_of_a_consumer_are_checked_like_the_settings() -> None:
    class Wrong(GracefulConsumer):
        message_bytes = -1
        handler_timeout = "30"  # type: ignore[assignment]
        unacked = None

    assert consumer_ids(Wrong) == ["E009", "E009"]
    assert "message_bytes has to be a whole number above 0, not -1" in str(
        checks.consumer_problems(Wrong)
    )


def test_heartbeat_of_a_consumer_is_held_against_the_settings() -> None:
    class Slow(GracefulConsumer):
        heartbeat_timeout = 9.0

    class Usual(GracefulConsumer): ...

    ((identifier, text, _),) = checks.consumer_problems(Slow)
    assert identifier == "E004"
    assert "Slow: heartbeat_timeout (9 s)" in text
    with override_settings(GRACEFUL_WS={"heartbeat_interval": 10}):
        assert consumer_ids(Slow) == []
    with override_settings(GRACEFUL_WS={"heartbeat_interval": 1}):
        assert consumer_ids(Usual) == []  # the settings' own problem, told once


# The database


def test_unknown_database_alias_names_the_nearest_one() -> None:
    ((identifier, _, hint),) = found(database="defualt")
    assert (identifier, hint) == ("E007", "Did you mean 'default'?")


@pytest.mark.parametrize("vendor", ["mysql", "oracle"])
def test_other_vendors_are_refused(vendor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections["default"], "vendor", vendor)
    assert ids() == ["E007"]


def test_both_vendors_pass(database: Database) -> None:
    assert found() == []


@pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory&cache=shared"])
def test_sqlite_in_memory_warns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "NAME", name)
    assert ids() == ["W001"]
    assert ids(store_in_django_thread=True) == []


@pytest.mark.parametrize(("mode", "expected"), [(None, ["W002"]), ("deferred", ["W002"])])
def test_deferred_sqlite_transactions_warn(
    mode: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"transaction_mode": mode} if mode else {}
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", options)
    ((identifier, _, hint),) = found()
    assert [identifier] == expected
    assert '"transaction_mode": "IMMEDIATE"' in hint


@pytest.mark.parametrize(
    ("pool", "size"),
    [
        (True, 4),
        ({}, None),
        ({"min_size": 5}, 5),
        ({"min_size": 2, "max_size": 14}, 14),
        ({"min_size": 2, "max_size": 15}, None),
        (False, None),
    ],
)
def test_pool_below_the_threads_of_a_node_warns(
    pool: Any, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections["default"], "vendor", "postgresql")
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", {"pool": pool})
    if size is None:
        assert found() == []
    else:
        ((identifier, text, _),) = found()
        assert identifier == "W015"
        assert f"has {size} connections, and a node's threads keep 15" in text


def test_nothing_is_asked_of_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("a check asked the database")

    monkeypatch.setattr(connections["default"], "ensure_connection", refuse)
    assert found() == []


# The servers and the channel layer


def test_what_an_adapter_missed_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(servers.missing, "daphne.server.Server.x", "no drain")
    ((identifier, text, hint),) = found()
    assert identifier == "W003"
    assert text == "daphne.server.Server.x is not as expected: no drain."
    assert "adapt_servers" in hint


def layer_ids(backend: str, redis: str = "8.1.0", hosts: Any = None, debug: bool = False) -> Any:
    config = {"hosts": hosts} if hosts is not None else {}
    layers = {"default": {"BACKEND": backend, "CONFIG": config}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.metadata.version", lambda name: redis)
        with override_settings(CHANNEL_LAYERS=layers, DEBUG=debug):
            return ids()


def test_layer_in_memory_warns_in_production() -> None:
    assert layer_ids(MEMORY) == ["W005"]
    assert layer_ids(MEMORY, debug=True) == []


@pytest.mark.parametrize(
    "hosts",
    [
        None,
        ["redis://localhost:6379"],
        [("localhost", 6379)],
        [{"address": "redis://localhost"}],
        [{"address": "redis://a", "socket_timeout": 20}, "redis://b"],
    ],
)
def test_core_layer_without_a_socket_timeout_warns_with_redis_8(hosts: Any) -> None:
    assert layer_ids(CORE, hosts=hosts) == ["W004"]
    assert layer_ids(CORE, "7.4.0", hosts) == []
    assert layer_ids(PUBSUB, hosts=hosts) == []


@pytest.mark.parametrize(
    "hosts",
    [
        [{"address": "redis://localhost", "socket_timeout": 20}],
        [{"address": "redis://localhost", "socket_timeout": None}],
        [{"address": "redis://localhost?socket_timeout=20"}],
        ["redis://localhost?socket_timeout=20"],
        [{"host": "localhost", "port": 6379, "socket_timeout": 20}],
    ],
)
def test_core_layer_with_a_socket_timeout_passes(hosts: Any) -> None:
    assert layer_ids(CORE, hosts=hosts) == []


def test_unknown_layer_alias_names_the_nearest_one() -> None:
    with override_settings(CHANNEL_LAYERS={"wakeups": {"BACKEND": PUBSUB}}):
        ((identifier, _, hint),) = found(channel_layer="wakeup")
        assert (identifier, hint) == ("E011", "Did you mean 'wakeups'?")
        assert found() == []  # none for us: nodes poll


def test_a_database_without_autocommit_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "AUTOCOMMIT", False)
    assert "E013" in ids()
