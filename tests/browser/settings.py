"""The settings of a site that serves the page of these tests as a production site would: static
files under names with a hash of their content, collected into GRACEFUL_TEST_STATIC."""

from __future__ import annotations

import os
from pathlib import Path

from tests import settings as usual
from tests.settings import *  # noqa: F403

STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage",
    },
}
STATIC_ROOT = os.environ["GRACEFUL_TEST_STATIC"]
STATICFILES_DIRS = [Path(__file__).parent / "static"]
TEMPLATES = [{**usual.TEMPLATES[0], "DIRS": [Path(__file__).parent / "templates"]}]
ROOT_URLCONF = "tests.browser.urls"
ASGI_APPLICATION = "tests.browser.asgi.application"
