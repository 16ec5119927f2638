"""The settings of the tests, with and without graceful_ws."""

from __future__ import annotations

import os

from tests.settings import *  # noqa: F403
from tests.settings import CHANNEL_LAYERS, INSTALLED_APPS

ROOT_URLCONF = "tests.benchmarks.urls"
if os.environ.get("GRACEFUL_BENCHMARK_BARE"):  # what we are compared with has nothing of ours
    INSTALLED_APPS = [app for app in INSTALLED_APPS if app != "graceful_ws"]

# redis-py 8 has a limit of 100 connections, which many consumers of the core layer need at once.
for _layer in CHANNEL_LAYERS.values():
    _layer["CONFIG"]["hosts"][0]["max_connections"] = 10_000

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
