"""Filters of the session list whose choices come from the database that holds the tables."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from graceful_ws.models import Node, Session
from graceful_ws.store import nodes
from graceful_ws.store.base import alias

CHOICES = 100  # of one filter


class NodeFilter(admin.SimpleListFilter):
    """Live nodes; a dead one has no sessions any more."""

    title = _("node")
    parameter_name = "node"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        rows = Node.objects.using(alias()).filter(state__in=nodes.LIVE).order_by("name")
        return [(str(pk), name) for pk, name in rows.values_list("pk", "name")[:CHOICES]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        value = self.value()
        if not value:
            return None
        try:
            return queryset.filter(node=uuid.UUID(value))
        except ValueError:
            return queryset.none()


class ConsumerFilter(admin.SimpleListFilter):
    title = _("consumer")
    parameter_name = "consumer"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        rows = Session.objects.using(alias()).order_by("consumer").distinct()
        return [(label, label) for label in rows.values_list("consumer", flat=True)[:CHOICES]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        return queryset.filter(consumer=self.value()) if self.value() else None
