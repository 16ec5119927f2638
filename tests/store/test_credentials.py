"""Whose credentials are good, what ends when they are lost, and how many connections they allow."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import User
from django.db import connection as default
from django.test.utils import CaptureQueriesContext, override_settings

from graceful_ws.models import AuditEntry, Session
from graceful_ws.store import credentials
from graceful_ws.store.attach import Attached, Identity, TooMany, attach
from graceful_ws.store.credentials import GONE, standings
from tests.store.kit import attached, detach, done, hello, kinds, node, row, statements

pytestmark = pytest.mark.usefixtures("database")


def user(name: str = "anna") -> User:
    return User.objects.create_user(name, password="first")


def of(who: User, key: str = "", **more: Any) -> Identity:
    return Identity(who.pk, who.get_session_auth_hash(), key, **more)


def states() -> dict[uuid.UUID, tuple[str, str]]:
    return {one.uuid: (one.state, one.cause) for one in Session.objects.all()}


# --- standing -------------------------------------------------------------------------------------


def test_a_user_is_hashed_when_first_seen_and_when_changed_and_asked_about_in_one_query() -> None:
    anna, otto = user(), user("otto")
    first = standings({anna.pk: None, otto.pk: None})
    assert first[anna.pk].valid == {anna.get_session_auth_hash()}
    with CaptureQueriesContext(default) as queries:
        assert standings(dict(first)) == first
    assert len(queries) == 1
    anna.set_password("second")
    anna.save()
    with CaptureQueriesContext(default) as queries:
        second = standings(dict(first))
    assert len(queries) == 2
    assert second[anna.pk].valid == {anna.get_session_auth_hash()} != first[anna.pk].valid
    assert second[otto.pk] is first[otto.pk]


def test_who_is_deactivated_or_gone_may_not_be_here_and_may_again_when_activated() -> None:
    anna, otto = user(), user("otto")
    gone = otto.pk
    otto.delete()
    User.objects.update(is_active=False)
    found = standings({anna.pk: None, gone: None})
    assert found[gone] is GONE
    assert "deactivated" in found[anna.pk].why
    User.objects.update(is_active=True)
    assert standings(dict(found))[anna.pk].why == ""


@override_settings(
    AUTHENTICATION_BACKENDS=["django.contrib.auth.backends.AllowAllUsersModelBackend"]
)
def test_a_site_that_lets_inactive_users_in_keeps_them() -> None:
    anna = user()
    User.objects.update(is_active=False)
    assert standings({anna.pk: None})[anna.pk].why == ""


def test_a_hash_made_with_a_former_secret_key_is_good() -> None:
    with override_settings(SECRET_KEY="the former"):
        anna = user()
        former = anna.get_session_auth_hash()
    with override_settings(SECRET_KEY_FALLBACKS=["the former"]):
        valid = standings({anna.pk: None})[anna.pk].valid
        assert valid == {anna.get_session_auth_hash(), former}
    assert former not in standings({anna.pk: None})[anna.pk].valid


class Bare:
    """Of a site's own user model, without any of the fields in question."""

    class _meta:
        concrete_fields = ()


class Revocable(AbstractBaseUser):
    class Meta:
        app_label = "tests"
        managed = False

    def get_session_auth_hash(self) -> str:
        return "of its own"


def test_a_user_model_without_these_fields_or_with_a_hash_of_its_own_is_asked_for_what_it_has() -> (
    None
):
    assert credentials._columns(Bare) == []
    assert credentials._columns(User) == ["is_active", "password"]
    assert credentials._columns(Revocable) == ["id", "password"]
    assert credentials.may_be_here(object())
    assert credentials.auth_hashes(object()) == [""]


# --- ending ---------------------------------------------------------------------------------------


def test_all_of_a_user_end_attached_or_not_and_the_audit_trail_hears_of_it_once() -> None:
    anna, otto = user(), user("otto")
    where = node()
    here = attached(node=where, identity=of(anna))
    away, other, nobody = attached(identity=of(anna)), attached(identity=of(otto)), attached()
    done(detach(away))
    left = row(away).left_at
    assert credentials.end_all(anna.pk, "closed", code=4506) == {where}
    assert states() == {
        here.uuid: ("ended", "credentials"),
        away.uuid: ("ended", "credentials"),
        other.uuid: ("attached", ""),
        nobody.uuid: ("attached", ""),
    }
    assert row(here).generation == here.generation + 1
    assert (row(here).close_code, row(here).close_reason) == (4506, "closed")
    assert row(away).left_at == left
    [entry] = AuditEntry.objects.all()
    assert (entry.event, entry.code, entry.reason) == (
        "credentials",
        4506,
        f"user {anna.pk}: closed",
    )
    assert credentials.end_all(anna.pk, "closed") == set()
    assert AuditEntry.objects.count() == 1


def test_sessions_whose_user_was_taken_from_their_rows_end_with_the_others() -> None:
    anna = user()
    named, nameless, other = (attached(identity=of(anna)) for _ in range(3))
    Session.objects.filter(pk__in=[nameless.session, other.session]).update(user=None)
    credentials.end_all(anna.pk, "deleted", also=[nameless.session])
    ended = {pk for pk, (state, _) in states().items() if state == "ended"}
    assert ended == {named.uuid, nameless.uuid}


def test_more_sessions_than_a_batch_end_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "BATCH", 2)
    anna = user()
    for n in range(5):
        attached(identity=of(anna), instance=str(n))
    credentials.end_all(anna.pk, "closed")
    assert {state for state, _ in states().values()} == {"ended"}
    assert AuditEntry.objects.count() == 1


def test_a_login_ends_with_its_key_and_one_without_a_key_with_those_that_have_none() -> None:
    anna = user()
    current = anna.get_session_auth_hash()
    mine, others = attached(identity=of(anna, "k1")), attached(identity=of(anna, "k2"))
    token, rotated = attached(identity=of(anna)), attached(identity=Identity(anna.pk, "old", "k0"))
    credentials.end_login(anna.pk, "logged out", "k1", current, actor="anna")
    ended = {pk for pk, (state, _) in states().items() if state == "ended"}
    # The key of the one whose hash is old was changed when SECRET_KEY was.
    assert ended == {mine.uuid, rotated.uuid}
    credentials.end_login(anna.pk, "logged out", "", current)
    ended = {pk for pk, (state, _) in states().items() if state == "ended"}
    assert ended == {mine.uuid, rotated.uuid, token.uuid}
    assert row(others).state == "attached"
    assert AuditEntry.objects.get(reason__endswith="out", actor="anna").session is None


def test_with_another_password_only_what_has_its_hash_goes_on() -> None:
    anna = user()
    old = attached(identity=of(anna))
    anna.set_password("second")
    new = attached(identity=of(anna))
    credentials.end_old(anna.pk, "password", [anna.get_session_auth_hash()])
    assert (row(old).state, row(new).state) == ("ended", "attached")


def test_ending_nothing_writes_nothing() -> None:
    anna = user()
    with statements() as seen:
        assert credentials.end_all(anna.pk, "closed") == set()
    assert len(seen) == 1


def test_what_has_ended_for_its_credentials_cannot_be_resumed() -> None:
    anna = user()
    owner = attached(identity=of(anna))
    credentials.end_all(anna.pk, "closed")
    assert not attached(token=owner.token, attempt=2, identity=of(anna)).resumed


# --- resume ---------------------------------------------------------------------------------------


def test_a_user_resumes_over_another_login_and_the_session_belongs_to_that_one_then() -> None:
    anna = user()
    owner = attached(identity=of(anna, "k1"))
    assert attached(token=owner.token, attempt=2, identity=of(anna, "k2")).resumed
    assert row(owner).session_key_hash == "k2"
    credentials.end_login(anna.pk, "logged out", "k1", anna.get_session_auth_hash())
    assert row(owner).state == "attached"


def test_after_a_new_secret_key_a_session_goes_on_while_the_former_one_is_known() -> None:
    anna = user()
    owner = attached(identity=Identity(anna.pk, "former"))
    refused = hello(token=owner.token, attempt=2, identity=Identity(anna.pk, "current"))
    assert kinds(attach([refused])) == ["OtherIdentity"]
    who = Identity(anna.pk, "current", former_hashes=("former",))
    assert attached(token=owner.token, attempt=2, identity=who).resumed
    assert row(owner).auth_hash == "current"


def test_an_anonymous_session_keeps_its_key() -> None:
    owner = attached(identity=Identity(session_key_hash="k1"))
    for who in (Identity(), Identity(session_key_hash="k2"), Identity(1, "", "k1")):
        [refused] = attach([hello(token=owner.token, attempt=2, identity=who)])
        assert kinds([refused]) == ["OtherIdentity"]
    same = Identity(session_key_hash="k1")
    assert attached(token=owner.token, attempt=2, identity=same).resumed


# --- seats ----------------------------------------------------------------------------------------

ANNA, OTTO = Identity(1, "a"), Identity(2, "o")


def outcomes(*entries: Any) -> list[str]:
    return kinds(attach(entries))


def test_the_connections_of_a_user_are_limited_within_a_round_and_over_rounds(
    limits: Callable[..., None],
) -> None:
    limits(connections_per_user=2)
    mine = [hello(identity=ANNA, instance=str(n)) for n in range(3)]
    assert outcomes(*mine, hello(identity=OTTO), hello()) == ["", "", "TooMany", "", ""]
    assert outcomes(hello(identity=ANNA), hello(identity=OTTO)) == ["TooMany", ""]
    limits(connections_per_user=0)
    assert outcomes(hello(identity=ANNA)) == [""]


def test_a_resume_of_what_is_attached_takes_no_seat_and_of_what_is_not_takes_one(
    limits: Callable[..., None],
) -> None:
    limits(connections_per_user=2)
    first: Attached = attached(identity=ANNA, instance="first")
    second = attached(identity=ANNA, instance="second")
    again = attached(token=first.token, instance="elsewhere", identity=ANNA)
    assert again.taken_over
    done(detach(second))
    third = attached(identity=ANNA, instance="third")
    back = hello(token=second.token, instance="second", attempt=2, identity=ANNA)
    before = row(second).generation
    assert outcomes(back) == ["TooMany"]
    assert (row(second).state, row(second).generation) == ("detached", before)
    done(detach(third, end=True))
    assert outcomes(back) == [""]
    assert isinstance(attach([hello(identity=ANNA)])[0], TooMany)


def test_a_round_of_nobody_costs_no_query_more_and_one_with_users_costs_one(
    limits: Callable[..., None],
) -> None:
    def count(*entries: Any) -> int:
        with statements() as seen:
            attach(entries)
        return sum(1 + sql.rstrip(";\n").count(";\n") for sql in seen)

    without = count(hello(instance="a"))
    with_one = count(hello(instance="b", identity=ANNA))
    with_many = count(*(hello(instance=str(n), identity=Identity(n, "h")) for n in range(1, 40)))
    assert with_one == with_many == without + 1
    limits(connections_per_user=0)
    assert count(hello(instance="c", identity=ANNA)) == without
