"""Lost credentials end what they were good for: on every node, attached or not."""

from __future__ import annotations

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.raw import Raw, again
from tests.support.servers import Site
from tests.support.visitor import Visitor
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite

AUDIT = "SELECT event, code, reason FROM graceful_ws_auditentry ORDER BY id"


@pytest.fixture(params=[("daphne", "sqlite"), ("uvicorn", "postgres")], ids=lambda pair: pair[0])
def site(request: pytest.FixtureRequest, make_site: MakeSite) -> Site:
    server, vendor = request.param
    return make_site(server=server, database=vendor, nodes=2)


async def welcome_to(raw: Raw) -> None:
    await raw.hello()
    await raw.ask({"send": 1})


async def ended(raw: Raw, reason: str, code: int = 4401) -> None:
    assert await raw.closed() == (code, reason)


async def test_logging_out_ends_what_was_opened_with_that_login_and_nothing_else(
    site: Site,
) -> None:
    one, two = site.nodes
    laptop, phone = Visitor(one), Visitor(one)
    await laptop.do("login")
    await phone.do("login")
    here, there = laptop.socket(), laptop.socket(node=two)
    plain, other = laptop.socket(node=two, plain=True), phone.socket()
    away = laptop.socket()
    async with here, there, plain, other:
        await welcome_to(here)
        await welcome_to(there)
        await welcome_to(other)
        await plain.send("in")
        await plain.expect("message", data="in")
        async with away:
            await welcome_to(away)
            await away.close(4000)
        headers = laptop.headers
        await laptop.do("logout")
        await ended(here, "logged out")
        await ended(there, "logged out")
        assert (await plain.closed())[0] == 1008
        assert await other.ask({"result": "still here"}) == "still here"
        # Neither as nobody nor with the login that is no more.
        for cookies in (laptop.headers, headers):
            for before in (here, there, away):
                async with again(before, additional_headers=cookies) as later:
                    assert not (await later.hello())["resumed"]
                    await later.bye()
        # The other browser's session goes on.
        await other.close(4000)
        async with again(other, additional_headers=phone.headers) as later:
            assert (await later.hello())["resumed"]
            await later.bye()
    [(event, code, reason)] = site.sql(AUDIT)
    assert (event, code) == ("credentials", 4401)
    assert reason.endswith("logged out")
    causes = "SELECT DISTINCT cause FROM graceful_ws_session WHERE close_code = 4401"
    assert site.sql(causes) == [("credentials",)]


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("deactivate", "the user was deactivated"),
        ("password", "the password was changed"),
        ("delete", "the user was deleted"),
        ("update", "the user was deactivated"),
    ],
)
async def test_a_user_who_may_no_longer_be_here_is_closed_on_all_nodes(
    site: Site, what: str, reason: str
) -> None:
    one, two = site.nodes
    laptop, phone, otto = Visitor(one), Visitor(two), Visitor(one, "otto")
    for visitor in (laptop, phone, otto):
        await visitor.do("login")
    here, there, other, nobody = (
        laptop.socket(),
        phone.socket(),
        otto.socket(),
        Raw(one.ws("/echo/")),
    )
    away = laptop.socket()
    async with here, there, other, nobody:
        for raw in (here, there, other, nobody):
            await welcome_to(raw)
        async with away:
            await welcome_to(away)
            await away.close(4000)
        await otto.do("rename")
        await Visitor(one).do(what)
        await ended(here, reason)
        await ended(there, reason)
        for raw in (other, nobody):
            assert await raw.ask({"result": "still here"}) == "still here"
        for before in (here, there, away):
            async with again(before) as later:
                await later.hello(later=True)
                await eventually(lambda raw=later: raw.all("welcome") or not raw.is_open, 10)
                assert not [frame for frame in later.all("welcome") if frame["resumed"]]
        await other.bye()
        await nobody.bye()
    assert [(event, code) for event, code, _ in site.sql(AUDIT)] == [("credentials", 4401)]


async def test_plain_sql_is_seen_with_the_next_round(site: Site) -> None:
    anna = Visitor(site.node)
    await anna.do("login")
    async with anna.socket() as raw:
        await welcome_to(raw)
        site.sql("UPDATE auth_user SET password = 'stolen'")
        await ended(raw, "the password was changed")
    async with anna.socket() as late:  # the Django session went with the password
        await welcome_to(late)
        await late.bye()


async def test_close_user_ends_all_of_a_user_with_the_code_that_it_is_given(site: Site) -> None:
    one, two = site.nodes
    anna, phone, otto = Visitor(one), Visitor(two), Visitor(two, "otto")
    for visitor in (anna, phone, otto):
        await visitor.do("login")
    async with anna.socket() as here, phone.socket() as there, otto.socket() as other:
        for raw in (here, there, other):
            await welcome_to(raw)
        await otto.do("close", name="anna", code=4506)
        await ended(here, "out", 4506)
        await ended(there, "out", 4506)
        assert await other.ask({"result": 1}) == 1
        async with again(here, additional_headers=anna.headers) as later:
            assert not (await later.hello())["resumed"]
            await later.bye()
        await other.bye()


async def test_a_layer_makes_it_immediate_on_other_nodes(
    make_site: MakeSite, redis_url: str
) -> None:
    """Rounds are a minute away."""
    site = make_site(
        nodes=2,
        redis_url=redis_url,
        settings={"round_interval": 60.0, "poll_interval": 0.2, "beat_interval": 1.0},
    )
    one, two = site.nodes
    anna, otto = Visitor(one), Visitor(two, "otto")
    await anna.do("login")
    await otto.do("login")
    async with anna.socket(node=two) as there, otto.socket(node=two) as other:
        await welcome_to(there)
        await welcome_to(other)
        await anna.do("logout")
        await ended(there, "logged out")
        ((pk,),) = site.sql(
            "SELECT id FROM graceful_ws_session WHERE state = 'attached'",
        )
        # An operator in a process without a node.
        close = (
            "from graceful_ws.store import nodes; from graceful_ws.envelopes import ask;"
            f"from graceful_ws.models import Session; s = Session.objects.get(pk={pk});"
            "nodes.end_session(s.uuid, 4506, 'too loud'); ask({s.node_id})"
        )
        await site.adjango("shell", "-c", close)
        await ended(other, "too loud", 4506)


# --- permission -----------------------------------------------------------------------------------


async def test_connect_asks_for_permission_again_at_each_resume(site: Site) -> None:
    anna = Visitor(site.node)
    await anna.do("login")
    await anna.do("staff", value=1)
    async with anna.socket("/staff/") as raw:
        await welcome_to(raw)
        await raw.close(4000)
    async with again(raw, additional_headers=anna.headers) as later:
        assert (await later.hello())["resumed"]
        await later.close(4000)
    await anna.do("staff", value=0)
    with pytest.raises(InvalidStatus) as refused:
        async with again(later, additional_headers=anna.headers):
            pass
    assert refused.value.response.status_code == 403
    await anna.do("staff", value=1)
    async with again(later, additional_headers=anna.headers) as back:
        assert (await back.hello())["resumed"]
        await back.bye()


async def test_may_subscribe_is_asked_again_for_each_stream_at_each_resume(
    make_site: MakeSite, book: object
) -> None:
    from tests.support.ledger import LedgerBook

    assert isinstance(book, LedgerBook)
    site = make_site(env=book.env)
    async with Raw(site.ws("/room/?stream=open&stream=secret")) as raw:
        await raw.hello()
        await raw.expect("subscribed")
        await raw.expect("subscribed")
        await raw.close(4000)
    async with again(raw) as later:
        states = (await later.hello())["streams"]
        assert {name: state["state"] for name, state in states.items()} == {
            "open": "new",
            "secret": "new",
        }
        await later.close(4000)
    (book.directory / "denied").write_text("secret")
    async with again(later) as last:
        states = (await last.hello())["streams"]
        assert states["secret"]["state"] == "denied"
        assert states["open"]["state"] == "new"
        await last.bye()
