"""What docs/testing.md says is what happens, in a site that has nothing but what it shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.database_url import database_settings
from tests.testing.sample import ROOT, Sample, blocks

SERVERS = {"test_live.py", "test_daphne.py"}
IN_PROCESS = sorted(name for name in blocks() if name.startswith("test_") and name not in SERVERS)


@pytest.fixture(params=["memory", "file", "postgres"])
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> Sample:
    database: dict[str, Any] = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "site.sqlite3"),
    }
    if request.param == "file":
        database["TEST"] = {"NAME": str(tmp_path / "test.sqlite3")}
    elif request.param == "postgres":
        database = database_settings(request.getfixturevalue("postgres_url"))
        database["TEST"] = {"NAME": f"sample_{tmp_path.parent.name}_{tmp_path.name}"[-60:].lower()}
    return Sample(tmp_path, database)


def test_every_block_of_the_page_is_a_file() -> None:
    assert {"orders/consumers.py", "orders/asgi.py", "conftest.py", "pytest.ini"} <= set(blocks())
    assert IN_PROCESS == [
        "test_deploys.py",
        "test_orders.py",
        "test_plain.py",
        "test_without_pytest.py",
    ]


def test_examples_run_as_written(sample: Sample) -> None:
    code, output = sample.test(*IN_PROCESS)
    assert code == 0, output


@pytest.mark.parametrize("sample", ["file"], indirect=True)
@pytest.mark.parametrize("name", sorted(SERVERS))
def test_examples_with_a_server_run_as_written(sample: Sample, name: str) -> None:
    code, output = sample.test(name)
    assert code == 0, output


MISTAKES = """
import asyncio

import pytest
from asgiref.sync import async_to_sync
from django.test import TestCase

from graceful_ws.testing import GracefulCommunicator, NotReady, running_node
from orders.asgi import application


class InTransactionTest(TestCase):
    async def test_test_case_names_the_mark(self):
        with pytest.raises(NotReady, match="django_db.transaction=True.*TransactionTestCase"):
            async with running_node():
                pass


@pytest.mark.asyncio(loop_scope="module")
async def test_node_in_another_loop_names_the_scope(graceful_node):
    with pytest.raises(NotReady, match="loop_scope"):
        await GracefulCommunicator(application, "/ws/lobby/").connect()


async def test_no_node_names_the_fixture(transactional_db):
    with pytest.raises(NotReady, match="graceful_node"):
        await GracefulCommunicator(application, "/ws/lobby/").connect()


async def test_other_event_loop_is_named():
    class Loop(asyncio.AbstractEventLoop):
        pass

    from graceful_ws.testing import work
    from unittest.mock import patch

    with patch.object(work.asyncio, "get_running_loop", Loop):
        with pytest.raises(NotReady, match="asyncio's own"):
            work.new_work()


@pytest.mark.django_db
async def test_mark_without_transaction_is_no_matter(communicator):
    client = await communicator("/ws/lobby/")
    assert (await client.receive()).stream == "lobby"


@pytest.mark.django_db(transaction=True)
def test_nothing_of_it_is_left():
    from graceful_ws.models import Session

    assert not Session.objects.exists()
"""


@pytest.mark.parametrize("sample", ["memory"], indirect=True)
def test_mistakes_are_told_with_their_remedy(sample: Sample) -> None:
    sample.write("test_mistakes.py", MISTAKES)
    code, output = sample.test("test_mistakes.py")
    assert code == 0, output
    assert "6 passed" in output


def test_plugin_is_loaded_before_django_and_pytest_by_nobody_else(tmp_path: Path) -> None:
    program = """
import sys
import graceful_ws.testing
assert not [name for name in sys.modules if name.startswith(("pytest", "_pytest"))]
import graceful_ws.testing.fixtures  # without settings
"""
    environment = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
