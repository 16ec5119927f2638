"""Django's signals of lost credentials: what they cost, when they act; nobody is harmed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import alogout, login, logout, user_logged_out
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.backends.signed_cookies import SessionStore as SignedCookies
from django.db import DatabaseError, connection, transaction
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext

from graceful_ws import envelopes, publishing
from graceful_ws.logout import watch
from graceful_ws.models import AuditEntry
from graceful_ws.node.identity import identity
from graceful_ws.publishing import aclose_user, close_user
from graceful_ws.store import credentials, wakers
from graceful_ws.store.attach import Attached
from tests.store.kit import attached, node, row

pytestmark = pytest.mark.usefixtures("database")
BACKEND = "django.contrib.auth.backends.ModelBackend"


class Proxy(User):
    """Signals are sent with the class of the instance."""

    class Meta:
        proxy = True
        app_label = "tests"


watch(Proxy)  # as for all that are there when Django is ready


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The nodes that are told to look."""
    told: list[Any] = []

    class Node:
        def asked(self, nodes: Any) -> bool:
            told.extend(nodes)
            return True

    monkeypatch.setattr(wakers, "wakers", [Node()])
    return told


@pytest.fixture
def anna() -> User:
    return User.objects.create_user("anna", password="first")


def signed_in(user: Any, store: Any = SessionStore) -> Any:
    request = RequestFactory().get("/")
    request.user, request.session = user, store()
    login(request, user, backend=BACKEND)
    request.session.save()
    return request


def of(request: Any, **changes: Any) -> Attached:
    """A session that was opened with a login."""
    scope = {"user": request.user, "session": request.session}
    return attached(identity=identity(scope), **changes)


def ended(owner: Attached) -> bool:
    return row(owner).state == "ended"


def test_a_logout_ends_its_own_login_and_tells_the_nodes(anna: User, asked: list[Any]) -> None:
    here, there, where = signed_in(anna), signed_in(anna), node()
    mine, other = of(here, node=where), of(there)
    logout(here)
    assert (ended(mine), ended(other), asked) == (True, False, [where])
    assert AuditEntry.objects.get().actor == "anna"


async def test_a_logout_of_asynchronous_code_does_the_same(anna: User, asked: list[Any]) -> None:
    request = await sync_to_async(signed_in)(anna)
    mine = await sync_to_async(of)(request)

    async def auser() -> User:
        return anna

    request.auser = auser
    await alogout(request)
    assert await sync_to_async(ended)(mine)


def test_sessions_in_cookies_have_no_key_and_end_with_any_logout_of_their_kind(
    anna: User, asked: list[Any]
) -> None:
    cookies, kept = signed_in(anna, SignedCookies), signed_in(anna)
    mine, other = of(cookies), of(kept)
    cookies.session["cart"] = 1  # what stands for the key is another one now
    cookies.session.save()
    logout(cookies)
    assert (ended(mine), ended(other)) == (True, False)


def test_without_a_request_what_was_opened_without_a_session_ends(
    anna: User, asked: list[Any]
) -> None:
    token, browser = attached(identity=identity({"user": anna})), of(signed_in(anna))
    user_logged_out.send(sender=User, request=None, user=anna)
    assert (ended(token), ended(browser)) == (True, False)


@pytest.mark.parametrize("who", [None, AnonymousUser()])
def test_a_logout_of_nobody_does_nothing(who: Any, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        user_logged_out.send(sender=type(who), request=RequestFactory().get("/"), user=who)


@pytest.mark.parametrize("model", [User, Proxy])
@pytest.mark.parametrize("change", ["deactivate", "password", "named", "delete"])
def test_what_is_saved_or_deleted_ends_all_that_it_has_to(
    anna: User, asked: list[Any], model: type[User], change: str
) -> None:
    owner, other = of(signed_in(anna)), attached()
    user = model.objects.get(pk=anna.pk)
    if change == "deactivate":
        user.is_active = False
        user.save()
    elif change == "password":
        user.set_password("second")
        user.save()
    elif change == "named":
        user.password = "!"
        user.save(update_fields=["password"])
    else:
        user.delete()
    assert (ended(owner), ended(other)) == (True, False)
    assert AuditEntry.objects.count() == 1


def test_the_new_password_is_good_at_once(anna: User, asked: list[Any]) -> None:
    anna.set_password("second")
    with transaction.atomic():
        anna.save()
        owner = attached(identity=identity({"user": anna}))
    assert not ended(owner)


def test_a_save_of_anything_else_asks_nothing(anna: User) -> None:
    of(signed_in(anna))
    anna = User.objects.get(pk=anna.pk)
    deferred = User.objects.only("first_name").get(pk=anna.pk)
    for user, fields in ((anna, None), (anna, ["last_login"]), (deferred, None)):
        user.first_name = "Anna"
        with CaptureQueriesContext(connection) as queries:
            user.save(update_fields=fields)
        assert [sql["sql"][:6] for sql in queries] == ["UPDATE"]


def test_nothing_ends_before_the_commit_nor_after_a_rollback(anna: User, asked: list[Any]) -> None:
    owner = of(signed_in(anna))
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        User.objects.get(pk=anna.pk).delete()
        raise ZeroDivisionError
    assert not ended(owner)
    with transaction.atomic():
        anna.is_active = False
        anna.save()
        assert not ended(owner)
    assert ended(owner)


@pytest.mark.parametrize("error", [DatabaseError("away"), RuntimeError("a defect")])
def test_whoever_logs_out_hears_of_no_failure(
    anna: User,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    request = signed_in(anna)
    for name in ("end_login", "end_all", "live_sessions", "may_be_here"):
        monkeypatch.setattr(credentials, name, fail)
    with caplog.at_level(logging.ERROR):
        logout(request)
        anna.is_active = False
        anna.save()
        anna.delete()
    assert len(caplog.records) == 3
    assert not User.objects.exists()


# --- close_user -----------------------------------------------------------------------------------


def test_close_user_acts_when_the_transaction_commits(anna: User, asked: list[Any]) -> None:
    owner = of(signed_in(anna))
    with transaction.atomic():
        close_user(anna, "no more", 4700)
        assert not ended(owner)
    assert (ended(owner), row(owner).close_code, row(owner).close_reason) == (True, 4700, "no more")


async def test_aclose_user_takes_a_primary_key_too(anna: User, asked: list[Any]) -> None:
    owner = await sync_to_async(of)(await sync_to_async(signed_in)(anna))
    await aclose_user(anna.pk)
    assert await sync_to_async(ended)(owner)


@pytest.mark.parametrize("code", [1006, 999, 4199, 1004])
def test_close_user_refuses_a_code_that_no_server_sends(anna: User, code: int) -> None:
    with pytest.raises(ValueError, match="close code"):
        close_user(anna, code=code)


def test_close_user_refuses_nobody_and_tells_of_a_database_that_fails(
    anna: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    for nobody in (None, AnonymousUser(), User()):
        with pytest.raises(ValueError, match="no user"):
            close_user(nobody)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise DatabaseError("away")

    monkeypatch.setattr(publishing.credentials, "end_all", fail)
    with pytest.raises(DatabaseError):
        close_user(anna)


# --- asking nodes ---------------------------------------------------------------------------------


def test_without_a_node_here_one_is_nudged_by_itself_and_several_with_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(wakers, "wakers", [])
    monkeypatch.setattr(envelopes, "nudge", lambda group, envelope: said.append(group))
    one, two = node("one"), node("two")
    envelopes.ask(set())
    envelopes.ask({one})
    envelopes.ask({one, two})
    assert said == [envelopes.node_group(one), envelopes.NODES]
