"""Subprocesses that run this project with the settings of the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from tests.support.processes import ROOT


def environment(
    database_url: str,
    *,
    redis_url: str | None = None,
    settings: Mapping[str, Any] | None = None,
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return this process's environment, changed so that ``tests.settings`` uses these servers.

    ``settings`` is the GRACEFUL_WS setting; without ``redis_url`` there is no channel layer.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRACEFUL_")}
    env |= {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "GRACEFUL_TEST_DATABASE": database_url,
        "GRACEFUL_TEST_SETTINGS": json.dumps(dict(settings or {})),
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if redis_url:
        env["GRACEFUL_TEST_REDIS"] = redis_url
    return env | dict(extra or {})


def run_django(
    *arguments: str,
    env: Mapping[str, str],
    within: float = 60.0,
    check: bool = True,
    stdin: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m django`` with ``arguments`` to its end.

    Raises AssertionError with its output when it fails and ``check`` is true, and
    subprocess.TimeoutExpired after ``within`` seconds.
    """
    done = subprocess.run(
        [sys.executable, "-m", "django", *arguments],
        env=dict(env),
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )
    if check and done.returncode:
        command = " ".join(arguments)
        raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done
