"""No pages: a server only has to answer that it is there."""

from __future__ import annotations

from typing import Any

urlpatterns: list[Any] = []
