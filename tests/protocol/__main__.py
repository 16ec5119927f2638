"""Records docs/conversation.md anew: ``python -m tests.protocol``."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from tests.protocol.conversation import APPLICATION, PATH, record  # noqa: E402
from tests.support.databases import SqliteDatabases  # noqa: E402
from tests.support.servers import Site  # noqa: E402

with tempfile.TemporaryDirectory() as directory:
    home = Path(directory)
    site = Site(SqliteDatabases(home).create(), home, nodes=2, application=APPLICATION)
    try:
        site.start()
        PATH.write_text(asyncio.run(record(site)), encoding="utf-8")
    finally:
        site.close()
