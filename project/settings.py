"""Settings of the demo site, as a site of your own would have them.

Read from the environment: DATABASE_URL, REDIS_URL, DJANGO_SECRET_KEY, DJANGO_DEBUG=1,
DJANGO_ALLOWED_HOSTS (comma separated) and NODE_NAME.
"""

from __future__ import annotations

import os
from pathlib import Path

from project.database import channel_layers, database

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "for development on this machine only")
DEBUG = os.environ.get("DJANGO_DEBUG") == "1"
ALLOWED_HOSTS = os.environ.get("DJANGO_ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]").split(",")

INSTALLED_APPS = [
    "daphne",  # first: its runserver takes the place of Django's
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "graceful_ws",
    "project",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
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
ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"

DATABASES = {
    "default": database(os.environ.get("DATABASE_URL", f"sqlite:///{BASE_DIR}/db.sqlite3"))
}
CHANNEL_LAYERS = channel_layers(os.environ.get("REDIS_URL", ""))
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"

# Set by `manage.py demo` for the nodes it supervises: their ports, as "8000,8001".
DEMO_PORTS = [int(port) for port in os.environ.get("DEMO_PORTS", "").split(",") if port]
# Likewise: the servers it runs besides, as "redis,postgres".
DEMO_SERVERS = [name for name in os.environ.get("DEMO_SERVERS", "").split(",") if name]

# All of it may be left out: these fit two nodes on one machine with a few visitors.
GRACEFUL_WS = {
    "node_name": os.environ.get("NODE_NAME", ""),  # how the admin and `welcome` call this process
    "poll_interval": 0.1,  # while no channel layer wakes nodes up, they look for messages
    "reconnect_window": 1,  # seconds over which clients spread their return; 5 for a crowd
    "exit_grace": 5,  # who is away for longer has left the room
    "drain_window": 5,  # seconds a drain gives clients to move to another node
    # The admin's live dashboard, on every node: here they have a port each, and no proxy before.
    "live_url": " ".join(f":{port}/ws/graceful/live/" for port in DEMO_PORTS)
    or "/ws/graceful/live/",
}
