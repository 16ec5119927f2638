"""``path("graceful/", include("graceful_ws.urls"))``: what load balancers, clients and
Prometheus ask."""

from __future__ import annotations

from django.urls import path

from . import views

app_name = "graceful_ws"
urlpatterns = [
    path("live/", views.live, name="live"),
    path("ready/", views.ready, name="ready"),
    path("ping/", views.ping, name="ping"),
    path("metrics/", views.metrics, name="metrics"),
]
