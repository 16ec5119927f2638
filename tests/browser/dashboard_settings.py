"""The settings of a site with the live dashboard: as ``tests.browser.settings`` where static files
have been collected, and under the strictest Content-Security-Policy that the admin works with."""

from __future__ import annotations

import os

from tests.settings import *  # noqa: F403
from tests.settings import MIDDLEWARE as USUAL

if _STATIC := os.environ.get("GRACEFUL_TEST_STATIC"):
    STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {
            "BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage",
        },
    }
    STATIC_ROOT = _STATIC
MIDDLEWARE = [*USUAL, "tests.browser.dashboard_urls.with_policy"]
ROOT_URLCONF = "tests.browser.dashboard_urls"
ASGI_APPLICATION = "tests.browser.dashboard_asgi.application"
