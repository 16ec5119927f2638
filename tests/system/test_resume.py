"""What a session survives, what ends it, and what the client is told."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from tests.support.ledger import LedgerBook
from tests.support.raw import Raw, again
from tests.support.servers import SERVERS, Site
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite

LOGIN = """
from importlib import import_module
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
user = User.objects.create_user("visitor", password="secret")
session = import_module(settings.SESSION_ENGINE).SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session.save()
print(session.session_key)
"""


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest, shared_site: MakeSite) -> Site:
    return shared_site(server=request.param)


@pytest.fixture
def daphne(shared_site: MakeSite) -> Site:
    return shared_site(server="daphne")


def row(site: Site, session_id: str, columns: str) -> tuple[object, ...]:
    query = f"SELECT {columns} FROM graceful_ws_session WHERE uuid = %s"
    return site.sql(query, uuid.UUID(session_id).hex)[0]


def hooks(site: Site, session_id: str) -> list[str]:
    lines = (site.directory / "ledger" / "hooks").read_text().splitlines()
    return [line.split(" ", 1)[1] for line in lines if line.startswith(session_id)]


async def assert_resumes(raw: Raw, *, messages: int, handled: int) -> None:
    async with again(raw) as later:
        welcome = await later.hello(last_seq_id=messages - 1)
        assert welcome["resumed"], welcome
        assert (welcome["head"], welcome["last_client_seq"]) == (messages, handled)
        assert welcome["session_token"] is None
        await later.got(messages)
        await later.bye()


@pytest.mark.parametrize("code", [1000, 1001, 4000, 4001])
async def test_close_frame_of_a_client_without_bye_leaves_the_session_resumable(
    site: Site, code: int
) -> None:
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.ask({"send": 2})
        await raw.close(code)
    await eventually(lambda: row(site, raw.session_id, "state") == ("detached",))
    assert row(site, raw.session_id, "close_code") == (code,)
    await assert_resumes(raw, messages=3, handled=1)


async def test_lost_connection_leaves_the_session_resumable(site: Site) -> None:
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.ask({"send": 2})
        raw.cut()
    await assert_resumes(raw, messages=3, handled=1)


async def test_servers_close_with_1000_and_no_bye_leaves_the_session_resumable(site: Site) -> None:
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.ask({"send": 2})
        await raw.message({"stop": True})
        assert (await raw.closed())[0] == 1000
    async with again(raw) as later:
        assert (await later.hello(last_seq_id=3))["resumed"]
        await later.bye()


async def test_bye_ends_the_session_and_its_token_is_worth_nothing(site: Site) -> None:
    async with Raw(site.ws("/hooks/")) as raw:
        await raw.hello()
        await raw.ask({"send": 2})
        assert (await raw.bye("closed the tab"))[0] == 1000
    await eventually(lambda: hooks(site, raw.session_id) == ["started", "disconnect:1000", "ended"])
    assert row(site, raw.session_id, "state, cause") == ("ended", "bye")
    async with again(raw) as later:
        welcome = await later.hello(last_seq_id=3)
        assert not welcome["resumed"]
        assert welcome["session_id"] != raw.session_id
        assert welcome["session_token"] not in (None, raw.token)
        assert (welcome["head"], welcome["last_client_seq"]) == (0, 0)
        assert (await later.expect("gap"))["reason"] == "expired"
        await later.bye()


async def test_token_that_never_was_gets_the_same_answer_as_an_expired_one(site: Site) -> None:
    async with Raw(site.ws("/echo/"), token="no such token") as raw:
        welcome = await raw.hello(last_seq_id=7)
        assert not welcome["resumed"]
        assert (await raw.expect("gap"))["reason"] == "expired"
        await raw.ask("hello")
        assert raw.numbers == [1]
        await raw.bye()


async def test_close_by_the_consumer_is_4507_and_ends_the_session(site: Site) -> None:
    async with Raw(site.ws("/hooks/")) as raw:
        await raw.hello()
        await raw.message({"close": 1000, "reason": "that was all"})
        assert await raw.closed() == (4507, "that was all")
    await eventually(lambda: "ended" in hooks(site, raw.session_id))
    assert row(site, raw.session_id, "state, cause, close_code") == ("ended", "closed", 4507)
    async with again(raw) as later:
        assert not (await later.hello())["resumed"]
        await later.bye()


@pytest.mark.parametrize("code", [3000, 3999, 4600, 4999])
async def test_close_codes_of_the_application_pass_through(site: Site, code: int) -> None:
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.message({"close": code, "reason": "the application's own"})
        assert await raw.closed() == (code, "the application's own")
    await eventually(lambda: row(site, raw.session_id, "state, close_code") == ("ended", code))


@pytest.mark.parametrize("code", [1011, 1012, 4000, 4102, 4507])
async def test_codes_of_the_protocol_are_not_the_applications_to_send(
    daphne: Site, code: int
) -> None:
    async with Raw(daphne.ws("/echo/")) as raw:
        await raw.hello()
        await raw.message({"close": code})
        assert (await raw.closed())[0] == 4507


async def test_operator_ends_a_session_and_its_client_hears_why_within_a_round(
    site: Site,
) -> None:
    async with Raw(site.ws("/hooks/")) as raw:
        await raw.hello()
        end = (
            "import uuid; from graceful_ws.store.nodes import end_session; "
            f"print(end_session(uuid.UUID('{raw.session_id}'), 4506, 'too loud', actor='admin'))"
        )
        assert "True" in (await site.adjango("shell", "-c", end)).stdout
        assert await raw.closed(0.5 + 3) == (4506, "too loud")
    assert row(site, raw.session_id, "state, close_reason") == ("ended", "too loud")
    async with again(raw) as later:
        assert not (await later.hello())["resumed"]
        await later.bye()


async def test_handler_that_fails_costs_a_nack_and_the_connection_lives(site: Site) -> None:
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.message({"fail": "on purpose"})
        nack = await raw.expect("nack")
        assert (nack["seq"], nack["code"], nack.get("retry", False)) == (1, "error", False)
        assert "on purpose" not in str(nack)
        assert await raw.ask({"result": "next"}) == "next"
        raw.cut()
    async with again(raw) as later:
        welcome = await later.hello(last_seq_id=1, pending_from=1)
        assert welcome["last_client_seq"] == 2
        assert (await later.expect("nack"))["seq"] == 1
        assert (await later.expect("ack", seq=2))["results"] == {"2": "next"}
        await later.bye()


async def test_close_on_error_is_1011_after_the_nack_and_the_session_resumes(site: Site) -> None:
    async with Raw(site.ws("/strict/")) as raw:
        await raw.hello()
        await raw.message({"fail": "on purpose"})
        await raw.expect("nack", seq=1, code="error")
        assert (await raw.closed())[0] == 1011
    async with again(raw) as later:
        welcome = await later.hello(last_seq_id=0)
        assert (welcome["resumed"], welcome["last_client_seq"]) == (True, 1)
        await later.bye()


async def test_handler_that_crashed_the_process_twice_is_not_started_a_third_time(
    make_site: MakeSite, book: LedgerBook
) -> None:
    site = make_site(env=book.env)
    book.stop_ticking()
    raw = Raw(site.ws("/ledger/"))
    for crash in (1, 2):
        async with raw:
            assert (await raw.hello(last_seq_id=0, pending_from=1))["last_client_seq"] == 0
            await raw.message({"n": 1, "kill": True})
            await raw.message({"n": 2})
            assert await raw.closed() == (1006, ""), crash
        await site.node.await_exit()
        await site.node.arestart()
        raw = again(raw)
    async with raw:
        await raw.hello(last_seq_id=0, pending_from=1)
        await raw.message({"n": 1, "kill": True})
        await raw.message({"n": 2})
        await raw.expect("ack", seq=2)
    assert raw.all("nack")[0]["code"] == "outcome_unknown"
    assert book.lines(raw.session_id, "started") == ["1", "1", "2"]
    async with again(raw) as later:
        welcome = await later.hello(last_seq_id=0, pending_from=1)
        assert welcome["last_client_seq"] == 2
        assert (await later.expect("nack"))["code"] == "outcome_unknown"
        assert (await later.expect("ack", seq=2))["results"] == {"2": {"handled": 2}}
        await later.bye()


async def test_resume_reads_and_never_consumes(daphne: Site) -> None:
    async with Raw(daphne.ws("/echo/")) as raw:
        await raw.hello()
        await raw.ask({"send": 10, "echo": False})
    for _ in range(3):
        raw = again(raw)
        async with raw:
            await raw.hello(last_seq_id=3)
            await raw.got(10)
            assert raw.numbers == [4, 5, 6, 7, 8, 9, 10]
            raw.cut()
    async with again(raw) as later:
        await later.hello(last_seq_id=10)
        await later.bye()


async def test_position_ahead_of_the_session_is_a_gap_not_a_guess(daphne: Site) -> None:
    async with Raw(daphne.ws("/echo/")) as raw:
        await raw.hello()
        await raw.ask("one")
    async with again(raw) as later:
        assert (await later.hello(last_seq_id=99))["resumed"]
        gap = await later.expect("gap")
        assert (gap["reason"], gap["head"]) == ("ahead", 1)
        await later.ask("two")
        assert later.numbers == [2]
        await later.bye()


async def test_position_before_what_is_kept_is_a_gap_and_no_partial_replay(daphne: Site) -> None:
    async with Raw(daphne.ws("/echo/")) as raw:
        await raw.hello()
        await raw.ask({"send": 6, "echo": False})
        await raw.ack(4)  # from then on the first four are not kept
        await raw.close(1001)
    async with Raw(daphne.ws("/echo/"), token=raw.token) as later:  # a copy of an older state
        assert (await later.hello(last_seq_id=2))["resumed"]
        gap = await later.expect("gap")
        assert gap == {"type": "gap", "reason": "trimmed", "from": 3, "oldest": 5, "head": 6}
        await later.ask("seven")
        assert later.numbers == [7]
        await later.close(1001)
    async with again(later) as last:
        await last.hello()  # without a position: what was not acknowledged
        await last.got(7)
        await last.bye()


async def test_hello_older_than_the_last_ack_of_the_same_client_is_no_gap(daphne: Site) -> None:
    async with Raw(daphne.ws("/echo/")) as raw:
        await raw.hello()
        await raw.ask({"send": 6, "echo": False})
        await raw.ack(4)  # after the hello of the next connection was made, says the client
        await raw.close(1001)
    async with again(raw) as later:
        assert (await later.hello(last_seq_id=2))["resumed"]
        await later.got(6)
        assert later.numbers == [5, 6]
        assert later.all("gap") == []
        await later.bye()


async def test_messages_of_connect_follow_the_attach_on_every_connection(daphne: Site) -> None:
    greeting = "welcome, from connect()"
    async with Raw(daphne.ws("/hooks/?greet")) as raw:
        await asyncio.sleep(0.1)
        assert raw.frames == []
        await raw.hello()
        assert await raw.got(1) == greeting
        await raw.close(1001)
    async with again(raw) as later:
        await later.hello(last_seq_id=1)
        assert await later.got(2) == greeting
        assert later.numbers == [2]
        await later.bye()
    await eventually(lambda: hooks(daphne, raw.session_id)[-1] == "ended")
    assert hooks(daphne, raw.session_id) == [
        "started",
        "disconnect:1001",
        "resumed",
        "disconnect:1000",
        "ended",
    ]


async def test_token_of_another_identity_is_refused_and_the_session_untouched(
    daphne: Site,
) -> None:
    key = (await daphne.adjango("shell", "-v", "0", "-c", LOGIN)).stdout.split()[-1]
    cookie = {"Cookie": f"sessionid={key}"}
    async with Raw(daphne.ws("/echo/"), additional_headers=cookie) as mine:
        await mine.hello()
        async with Raw(daphne.ws("/echo/"), token=mine.token) as thief:
            await thief.hello(later=True)
            assert (await thief.closed())[0] == 4403
            assert thief.all("welcome") == []
        await mine.ask("still here")
        assert mine.messages == ["still here"]
        await mine.bye()


async def test_token_of_another_consumer_starts_a_new_session(daphne: Site) -> None:
    async with Raw(daphne.ws("/echo/")) as raw:
        await raw.hello()
        await raw.ask("one")
        async with again(raw, daphne.ws("/hooks/")) as other:
            assert not (await other.hello())["resumed"]
            await other.bye()
        await raw.ask("two")
        await raw.bye()
