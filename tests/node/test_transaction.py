"""``receive_in_transaction``: effect, number, outcome and replies, all of them or none."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import (
    IntegrityError,
    OperationalError,
    ProgrammingError,
    connection,
    connections,
    transaction,
)

from graceful_ws.node import transaction as under_test
from graceful_ws.node.transaction import (
    CommitUnknown,
    HandlerError,
    collected,
    plain_transaction,
    receive_in_transaction,
)
from graceful_ws.publishing import send_to_session
from graceful_ws.store.attach import Attached
from graceful_ws.store.entries import Fenced, TakePending
from tests.store.kit import (
    Elsewhere,
    append,
    attached,
    complete,
    done,
    messages,
    outcomes_kept,
    row,
)
from tests.support.database_url import database_settings
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")


def reply(text: str) -> None:
    replies = collected()
    assert replies is not None, "not inside receive_in_transaction"
    replies.append(text)


class Consumer:
    """A consumer as the transaction sees it; ``handler`` is its ``receive_in_transaction``."""

    def __init__(self, handler: Callable[[Any], Any]) -> None:
        self.receive_in_transaction = handler


def run(
    owner: Attached, handler: Callable[[Any], Any], seq: int = 1, data: Any = None
) -> tuple[int, list[str], str | None]:
    key = (owner.session, owner.generation, seq, 64)
    return receive_in_transaction(Consumer(handler), key, data)


def book(data: Any) -> Any:
    User.objects.create_user(str(data))
    reply(f'"{data}"')
    return {"booked": data}


def names() -> list[str]:
    return list(User.objects.order_by("username").values_list("username", flat=True))


def nothing_kept(owner: Attached) -> bool:
    kept = row(owner)
    numbers = (kept.last_seq, kept.last_client_seq)
    return (names(), messages(owner), outcomes_kept(owner), numbers) == ([], [], {}, (0, 0))


def test_effect_number_outcome_and_replies_are_kept_together() -> None:
    owner = attached()
    done(append(owner, "1"))
    first, replies, outcome = run(owner, book, data="anna")
    assert (first, replies, outcome) == (2, ['"anna"'], '{"result":{"booked":"anna"}}')
    assert names() == ["anna"]
    assert messages(owner) == [(1, "1"), (2, '"anna"')]
    assert outcomes_kept(owner) == {1: outcome}
    assert run(owner, book, seq=2, data="bert")[0] == 3


def test_without_a_result_the_number_alone_is_kept() -> None:
    owner = attached()
    assert run(owner, lambda data: None) == (1, [], None)
    assert (row(owner).last_client_seq, outcomes_kept(owner)) == (1, {})


def test_a_handler_that_raises_leaves_nothing() -> None:
    owner = attached()

    def fails(data: Any) -> None:
        book(data)
        raise KeyError("x")

    with pytest.raises(KeyError):
        run(owner, fails, data="anna")
    assert nothing_kept(owner)
    assert collected() is None
    run(owner, book, data="anna")
    assert names() == ["anna"]


@pytest.mark.parametrize("result", [float("nan"), "\ud800", object()])
def test_a_result_that_cannot_be_sent_leaves_nothing(result: Any) -> None:
    owner = attached()

    def answers(data: Any) -> Any:
        book(data)
        return result

    with pytest.raises((ValueError, TypeError)):
        run(owner, answers, data="anna")
    assert nothing_kept(owner)


def test_a_handler_that_comes_too_late_is_rolled_back() -> None:
    owner = attached()
    attached(token=owner.token, instance="two")
    with pytest.raises(Fenced):
        run(owner, book, data="anna")
    assert names() == []
    assert messages(owner) == []


def test_a_number_is_handled_once() -> None:
    owner = attached()
    run(owner, book, data="anna")
    with pytest.raises(Fenced):
        run(owner, book, data="bert")
    assert names() == ["anna"]
    assert messages(owner) == [(1, '"anna"')]
    assert done(complete(owner, 2)) == [True]


def test_a_savepoint_of_the_handler_rolls_back_by_itself() -> None:
    owner = attached()

    def handler(data: Any) -> str:
        User.objects.create_user("anna")
        with pytest.raises(IntegrityError), transaction.atomic():
            User.objects.create_user("anna")
        return "fine"

    assert run(owner, handler)[2] == '{"result":"fine"}'
    assert names() == ["anna"]


def test_a_handler_that_breaks_its_transaction_leaves_nothing() -> None:
    owner = attached()

    def handler(data: Any) -> str:
        User.objects.create_user("anna")
        with pytest.raises(IntegrityError):
            User.objects.create_user("anna")
        return "not so fine"

    with pytest.raises(transaction.TransactionManagementError):
        run(owner, handler)
    assert nothing_kept(owner)


def test_hooks_on_commit_run_after_the_claim_has_committed(elsewhere: Elsewhere) -> None:
    owner = attached()
    seen: list[int] = []

    def handler(data: Any) -> None:
        transaction.on_commit(
            lambda: seen.append(elsewhere.run(lambda: row(owner).last_client_seq))
        )
        assert seen == []

    run(owner, handler)
    assert seen == [1]


def test_hooks_on_commit_do_not_run_when_the_claim_is_refused() -> None:
    owner = attached()
    done(complete(owner, 1))
    seen: list[int] = []
    with pytest.raises(Fenced):
        run(owner, lambda data: transaction.on_commit(lambda: seen.append(1)))
    assert seen == []


def test_what_a_handler_sends_to_a_session_goes_with_its_transaction() -> None:
    owner, other = attached(), attached()

    def sends(data: Any) -> None:
        send_to_session(other.uuid, data)
        send_to_session(owner.uuid, data)
        reply(f'"reply {data}"')
        if data == "undone":
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run(owner, sends, data="undone")
    run(owner, sends, data="sent")
    taken = done(*(TakePending(one.session, one.generation) for one in (owner, other)))
    assert taken == [(2, ['"sent"']), (1, ['"sent"'])]
    assert messages(owner) == [(1, '"reply sent"'), (2, '"sent"')]


def test_handlers_of_different_threads_collect_for_themselves(elsewhere: Elsewhere) -> None:
    """PostgreSQL runs them side by side; on SQLite one waits for the other."""
    owners = [attached() for _ in range(3)]
    together = threading.Barrier(1 if connection.vendor == "sqlite" else 3)

    def handler(data: Any) -> None:
        reply(f'"{data} first"')
        together.wait(10)
        reply(f'"{data} second"')

    futures = [
        elsewhere.start(run, owner, handler, 1, number) for number, owner in enumerate(owners)
    ]
    for number, (owner, future) in enumerate(zip(owners, futures, strict=True)):
        texts = [f'"{number} first"', f'"{number} second"']
        assert future.result(30) == (1, texts, None)
        assert [text for _, text in messages(owner)] == texts
    assert collected() is None


# --- plain clients ----------------------------------------------------------------------------


def test_a_plain_clients_handler_commits_and_replies() -> None:
    assert plain_transaction(Consumer(book), "anna") == ['"anna"']
    assert names() == ["anna"]


def test_a_plain_clients_handler_that_raises_leaves_nothing() -> None:
    def fails(data: Any) -> None:
        book(data)
        raise KeyError

    with pytest.raises(KeyError):
        plain_transaction(Consumer(fails), "anna")
    assert names() == []
    assert collected() is None


# --- the database -----------------------------------------------------------------------------


@pytest.mark.postgres_only
@pytest.mark.parametrize("moment", ["in the handler", "before the claim"])
def test_a_connection_lost_before_the_commit_leaves_nothing(
    moment: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = attached()

    def cut() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            [pid] = cursor.fetchone()
        database.sql("SELECT pg_terminate_backend(%s, 10000)", pid)

    def handler(data: Any) -> None:
        book(data)
        if moment == "in the handler":
            cut()
            User.objects.count()

    claim = under_test.claim

    def cut_and_claim(*args: Any) -> int:
        cut()
        return claim(*args)

    if moment == "before the claim":
        monkeypatch.setattr(under_test, "claim", cut_and_claim)
    with pytest.raises(CommitUnknown):
        run(owner, handler, data="anna")
    monkeypatch.undo()
    assert nothing_kept(owner)  # over a new connection
    assert run(owner, book, data="anna")[0] == 1
    assert names() == ["anna"]


@pytest.mark.sqlite_only
def test_a_locked_database_is_an_error_of_its_own_and_leaves_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was begun, so that nothing about it is unknown."""
    owner = attached()
    connections["default"].close()
    monkeypatch.setitem(connections.settings["default"]["OPTIONS"], "timeout", 0.05)
    other = sqlite3.connect(database_settings(database.url)["NAME"], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OperationalError, match="locked"):
        run(owner, book, data="anna")
    other.execute("ROLLBACK")
    other.close()
    assert nothing_kept(owner)
    assert run(owner, book, data="anna")[0] == 1


def test_a_statement_that_the_database_refuses_is_the_handlers_error() -> None:
    """SQLite says OperationalError, as in an outage: tried again it would fail for ever."""
    owner = attached()

    def handler(data: Any) -> None:
        book(data)
        with connection.cursor() as cursor:
            cursor.execute("SELECT misspelt FROM nowhere")

    with pytest.raises((HandlerError, ProgrammingError)):
        run(owner, handler, data="anna")
    assert nothing_kept(owner)


@pytest.mark.postgres_only
def test_a_time_limit_of_the_database_is_the_handlers_error() -> None:
    owner = attached()

    def handler(data: Any) -> None:
        book(data)
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = 20")
            cursor.execute("SELECT pg_sleep(20)")

    with pytest.raises(HandlerError):
        run(owner, handler, data="anna")
    assert nothing_kept(owner)
    assert run(owner, book, data="anna")[0] == 1


@pytest.mark.postgres_only
def test_a_handler_and_the_writer_of_the_same_session_do_not_wait_for_each_other(
    elsewhere: Elsewhere,
) -> None:
    """The row is locked by the last step alone: until then others write for the session."""
    owner = attached()

    def handler(data: Any) -> None:
        assert elsewhere.run(lambda: done(append(owner, "meanwhile"))) == [1]
        reply("reply")

    assert run(owner, handler)[0] == 2
    assert messages(owner) == [(1, "meanwhile"), (2, "reply")]
