"""The site of docs/testing.md, written to a directory and tested by a pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/testing.md"

SETTINGS = """
SECRET_KEY = "only for the tests"
USE_TZ = True
INSTALLED_APPS = [
    "daphne",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "channels",
    "graceful_ws",
]
ASGI_APPLICATION = "orders.asgi.application"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {{"default": {database!r}}}
"""
STRICT = "filterwarnings = error\n"
ALONE = ["-q", "-c", "pytest.ini", "-p", "no:xdist", "-p", "no:cacheprovider"]


def blocks() -> dict[str, str]:
    """The page's files, by the name in their first line."""
    found = {}
    for code in re.findall(r"```(?:python|ini)\n(.*?)```", PAGE.read_text(), flags=re.S):
        named = re.match(r"# (\S+\.\w+)\n", code)
        if named is not None:
            found[named[1]] = code
    return found


class Sample:
    """A site in ``directory`` with a database of its own."""

    def __init__(self, directory: Path, database: dict[str, Any]) -> None:
        self._directory = directory
        self.write("orders/__init__.py", "")
        self.write("orders/settings.py", SETTINGS.format(database=database))
        for name, code in blocks().items():
            self.write(name, code + (STRICT if name == "pytest.ini" else ""))

    def write(self, name: str, text: str) -> None:
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def test(self, *arguments: str) -> tuple[int, str]:
        """Runs pytest; returns its exit code and what it said."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST_", "DJANGO_", "GRACEFUL_", "COV_"))
        }
        paths = [str(self._directory), str(ROOT)]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *ALONE, *arguments],
            cwd=self._directory,
            env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        return done.returncode, done.stdout + done.stderr
