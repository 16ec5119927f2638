"""The package as users have it: built, and installed into an empty virtual environment."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import ROOT

WITHIN = 300.0  # seconds; what is not in pip's cache has to be fetched
TYPES = ("mypy", "django-stubs", "types-channels")  # for a site that checks its own types
NOT_SHIPPED = (".git", "node_modules", ".*_cache", "__pycache__", "build", "dist", "*.egg-info")
# The site's own: not this repository's packages, settings or coverage.
OURS = ("PYTHONPATH", "DJANGO_SETTINGS_MODULE", "VIRTUAL_ENV", "PYTEST_XDIST_WORKER")


@dataclass(frozen=True)
class Installed:
    """Where things are. ``site`` is a new Django project with nothing of ours yet."""

    wheel: Path
    sdist: Path
    python: Path
    directory: Path

    @property
    def env(self) -> dict[str, str]:
        return environment_without_ours()

    def site(self, directory: Path) -> Path:
        """``django-admin startproject mysite .`` there."""
        directory.mkdir()
        run([self.python, "-m", "django", "startproject", "mysite", "."], directory)
        return directory


def environment_without_ours() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in OURS}


def run(command: Sequence[str | Path], cwd: Path, stdin: str = "") -> str:
    """Run it to its end and return what it printed; AssertionError with that when it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment_without_ours(),
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}"
    return done.stdout


def install(directory: Path) -> Installed:
    """Build and install once for all test processes that share ``directory``."""
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finished = directory / "finished"
        if not finished.exists():
            _build(directory)
            finished.touch()
    (wheel,) = directory.glob("dist/*.whl")
    (sdist,) = directory.glob("dist/*.tar.gz")
    return Installed(wheel, sdist, directory / "venv/bin/python", directory)


def _build(directory: Path) -> None:
    source = directory / "source"
    for leftover in ("source", "dist", "venv"):
        shutil.rmtree(directory / leftover, ignore_errors=True)
    # A copy: building leaves directories behind, and others may be at work in this one.
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SHIPPED))
    # The wheel is made from the sdist, so what that lacks is missing in both.
    run([sys.executable, "-m", "build", "--outdir", directory / "dist", source], directory)
    run([sys.executable, "-m", "venv", directory / "venv"], directory)
    (wheel,) = directory.glob("dist/*.whl")
    python = directory / "venv/bin/python"
    run([python, "-m", "pip", "install", "--quiet", f"{wheel}[client]", *TYPES], directory)
