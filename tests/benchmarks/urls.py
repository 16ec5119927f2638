"""A server only has to answer that it is there; and one view publishes."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.urls import path

from tests.benchmarks.publish_cost import Blocks

SETTLE = 0.05  # seconds after a block, in which its messages are delivered


def publish(request: HttpRequest) -> JsonResponse:
    """Publishes for ``?seconds=`` and says what that has cost."""
    return JsonResponse(Blocks(SETTLE).measure(float(request.GET["seconds"])))


urlpatterns = [path("publish/", publish)]
