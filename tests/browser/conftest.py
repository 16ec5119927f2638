"""A browser, and sites that serve the page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.kit import APPLICATION, SETTINGS, Traffic
from tests.conftest import missing
from tests.support.browser import Browser, BrowserUnavailable, Tab
from tests.support.commands import environment, run_django
from tests.support.servers import Site

PageSite = Callable[..., Site]
StartTraffic = Callable[..., Any]


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    (directory := tmp_path / "browser").mkdir()
    try:
        browser = Browser(directory)
    except BrowserUnavailable as error:
        missing(error)
    async with browser:
        yield browser


@pytest.fixture(scope="session")
def page_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The page's settings, with its static files collected under hashed names."""
    env = {
        "DJANGO_SETTINGS_MODULE": "tests.browser.settings",
        "GRACEFUL_TEST_STATIC": str(tmp_path_factory.mktemp("static")),
    }
    arguments = ("--noinput", "--verbosity=0", "--skip-checks", "--ignore=admin")
    run_django("collectstatic", *arguments, env=environment("sqlite://:memory:", extra=env))
    return env


@pytest.fixture
def page_site(browser: Browser, make_site: PageSite, page_env: dict[str, str]) -> PageSite:
    """``make_site`` for sites that serve the page."""

    def make(*, settings: dict[str, Any] | None = None, **options: Any) -> Site:
        return make_site(
            settings={**SETTINGS, **(settings or {})},
            env=page_env,
            application=APPLICATION,
            **options,
        )

    return make


@pytest.fixture
def traffic() -> Iterator[Callable[..., Traffic]]:
    """``Traffic`` whose publisher ends with the test."""
    made: list[Traffic] = []

    def make(site: Site, *tabs: Tab) -> Traffic:
        made.append(Traffic(site, *tabs))
        return made[-1]

    yield make
    for each in made:
        each.publisher.kill()
