"""The Django settings of the tests, and of the servers and commands that the tests start.

Subprocesses are told where they are by the environment:

GRACEFUL_TEST_DATABASE   sqlite:///path or postgres://user@host:port/name?host=/socket/directory
GRACEFUL_TEST_REDIS      redis://host:port; unset: no channel layer
GRACEFUL_TEST_LAYER      core (also when unset) or pubsub: which layer of channels_redis
GRACEFUL_TEST_LAYER_DROPS  the share of the layer's messages that are lost, as 0.2
GRACEFUL_TEST_SETTINGS   JSON object, the GRACEFUL_WS setting

Servers of one's own instead of those that pip brought: TEST_DATABASE_URL and TEST_REDIS_URL,
read by ``tests.support.postgres`` and ``tests.support.redis``.
"""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

from tests.support.database_url import database_settings

_SUBPROCESS_DATABASE = os.environ.get("GRACEFUL_TEST_DATABASE")
_DATABASE = _SUBPROCESS_DATABASE or (
    f"sqlite://{tempfile.gettempdir()}/graceful_ws_tests_{os.getpid()}.sqlite3"
)
_REDIS = os.environ.get("GRACEFUL_TEST_REDIS")

SECRET_KEY = "only for the tests"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "testserver"]
USE_TZ = True
TIME_ZONE = "UTC"

INSTALLED_APPS = [
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "graceful_ws",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ASGI_APPLICATION = "tests.asgi.application"
ROOT_URLCONF = "tests.urls"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

DATABASES: dict[str, Any] = {"default": database_settings(_DATABASE)}

_LAYERS = {
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}
CHANNEL_LAYERS: dict[str, Any] = {}
if _REDIS:
    CHANNEL_LAYERS["default"] = {
        "BACKEND": _LAYERS[os.environ.get("GRACEFUL_TEST_LAYER") or "core"],
        # redis-py 8 ends a blocking read after 5 s unless told otherwise
        # (django/channels_redis#422).
        "CONFIG": {"hosts": [{"address": _REDIS, "socket_timeout": 20}]},
    }
    if _DROPS := float(os.environ.get("GRACEFUL_TEST_LAYER_DROPS") or 0):
        _LAYER: dict[str, Any] = CHANNEL_LAYERS["default"]
        _LAYER["BACKEND"] = "tests.support.layers.Lossy" + _LAYER["BACKEND"].rpartition(".")[2]
        _LAYER["CONFIG"]["drops"] = _DROPS

GRACEFUL_WS: dict[str, Any] = json.loads(os.environ.get("GRACEFUL_TEST_SETTINGS") or "{}")

if _SUBPROCESS_DATABASE:  # a server or a command: its output is shown when its test fails
    LOGGING = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["console"], "level": "INFO"},
    }
