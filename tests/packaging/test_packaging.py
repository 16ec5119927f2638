"""What is shipped, installed into an empty virtual environment and used as the README says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.installed import Installed, install, run
from tests.support.processes import ROOT, ChildProcess, free_port, wait_until_ready
from tests.support.waiting import eventually_sync

BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.M | re.S)
TYPED_SITE = Path(__file__).with_name("typed_site")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Installed:
    base = tmp_path_factory.getbasetemp()
    return install((base if worker_id == "master" else base.parent) / "installed")


def shipped() -> set[str]:
    """Every file of the package in this directory, but for what Python makes of it."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "graceful_ws").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = set(wheel.namelist())
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == shipped()
    assert any(name.endswith("licenses/LICENSE") for name in metadata)
    for needed in (
        "graceful_ws/py.typed",
        "graceful_ws/static/graceful_ws/graceful-ws.js",
        "graceful_ws/static/graceful_ws/graceful-ws.d.ts",
        "graceful_ws/templates/admin/graceful_ws/live.html",
        "graceful_ws/migrations/0001_initial.py",
    ):
        assert needed in names


def test_the_sdist_has_what_the_wheel_is_built_from(installed: Installed) -> None:
    with tarfile.open(installed.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert shipped() <= names
    assert {"README.md", "LICENSE", "pyproject.toml"} <= names


def test_the_version_is_said_once(installed: Installed) -> None:
    said = run(
        [
            installed.python,
            "-c",
            "import graceful_ws; from importlib.metadata import version;"
            "print(graceful_ws.__version__, version('django-graceful-ws'))",
        ],
        installed.directory,
    ).split()
    assert said[0] == said[1]


def readme_files() -> dict[str, str]:
    """The README's blocks that begin with the file they belong into."""
    files = {}
    for _, block in BLOCK.findall((ROOT / "README.md").read_text()):
        if match := re.match(r"# (mysite/\w+\.py)(, at its end)?\n", block):
            files[match[1]] = block
    return files


def readme_commands() -> list[str]:
    """The block that starts with ``migrate``: migrate, a server, a client."""
    for _, block in BLOCK.findall((ROOT / "README.md").read_text()):
        if block.startswith("python manage.py migrate"):
            return [line.partition("  #")[0].strip() for line in block.splitlines()]
    raise AssertionError("the README does not say how to start")


def write_readme_into(site: Path) -> None:
    files = readme_files()
    assert set(files) == {"mysite/settings.py", "mysite/consumers.py", "mysite/asgi.py"}
    for name, text in files.items():
        path = site / name
        if ", at its end" in text.partition("\n")[0]:
            path.write_text(path.read_text() + "\n\n" + text)
        else:
            path.write_text(text)


@pytest.fixture
def site(installed: Installed, tmp_path: Path) -> Path:
    made = installed.site(tmp_path / "site")
    write_readme_into(made)
    return made


class Terminal:
    """The README's client with its standard input open, its output in a file."""

    def __init__(self, installed: Installed, command: list[str], output: Path) -> None:
        self.output = output
        with output.open("w") as file:
            self.process = subprocess.Popen(
                [str(installed.python), *command, "--json"],
                cwd=output.parent,
                env=installed.env,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.DEVNULL,
                text=True,
            )

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def events(self, kind: str) -> list[dict[str, Any]]:
        events = [json.loads(line) for line in self.output.read_text().splitlines()]
        return [event for event in events if event["type"] == kind]

    @property
    def follows(self) -> bool:
        return bool(self.events("subscribed"))

    @property
    def said(self) -> list[str]:
        """What arrived, in its order."""
        return [event["data"]["said"] for event in self.events("message_received")]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    made: list[Terminal] = []
    yield made
    for terminal in made:
        terminal.close()


def test_the_lines_of_the_readme_make_a_room_that_survives_a_kill(
    installed: Installed, site: Path, tmp_path: Path, terminals: list[Terminal]
) -> None:
    migrate, serve, talk = ([*command.split()] for command in readme_commands())
    assert migrate[0] == serve[0] == talk[0] == "python"
    run([installed.python, *migrate[1:]], site)
    run([installed.python, "manage.py", "check"], site)
    port = str(free_port())
    server = ChildProcess("daphne", tmp_path / "server.log")
    command = [str(installed.python), *(port if part == "8000" else part for part in serve[1:])]

    def start() -> None:
        server.spawn(command, env=installed.env, cwd=site)
        wait_until_ready(server, lambda: "Listening on" in server.log(), 30)

    url = talk[-1].replace("8000", port)
    try:
        start()
        for name in ("one", "two"):
            terminals.append(Terminal(installed, [*talk[1:-1], url], tmp_path / name))
        one, two = terminals
        eventually_sync(lambda: one.follows and two.follows, 30)
        one.type("hello")
        eventually_sync(lambda: one.said == two.said == ["hello"], 30)
        # Until then its handler may have to run once more.
        eventually_sync(lambda: one.events("message_acknowledged"), 30)
        server.kill()
        one.type("while it was away")
        two.type("from the other")
        start()
        eventually_sync(lambda: len(one.said) == 3 and one.said == two.said, 40)
        assert one.said.count("while it was away") == one.said.count("from the other") == 1
    finally:
        server.kill()


@pytest.mark.parametrize("vendor", ["sqlite", "postgres"])
def test_there_is_nothing_left_to_migrate(
    vendor: str, request: pytest.FixtureRequest, make_site: object
) -> None:
    site = make_site(database=vendor, start=False)  # type: ignore[operator]
    site.django("makemigrations", "graceful_ws", "--check", "--dry-run")


def test_a_site_checks_its_types_against_the_package(
    installed: Installed, site: Path, tmp_path: Path
) -> None:
    for path in TYPED_SITE.iterdir():
        if path.is_file():
            shutil.copy(path, site / path.name)
    shutil.move(site / "typed_consumers.py", site / "mysite/typed_consumers.py")
    run([installed.python, "-m", "mypy"], site)


def test_import_before_django_has_loaded_its_apps_says_what_to_do(
    installed: Installed, site: Path
) -> None:
    asgi = (site / "mysite/asgi.py").read_text()
    early = "from mysite.consumers import Room\n"
    (site / "mysite/early.py").write_text(early + asgi.replace(early, ""))
    done = subprocess.run(
        [str(installed.python), "-c", "import mysite.early"],
        cwd=site,
        env=installed.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "in asgi.py call get_asgi_application() first" in done.stderr
