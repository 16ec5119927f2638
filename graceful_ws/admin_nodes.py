"""The admin's page of the processes, and the requests that they drain."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from graceful_ws.admin_base import (
    TONES,
    AskingAdmin,
    ConfirmForm,
    ObjectAction,
    ReasonForm,
    age,
    badge,
)
from graceful_ws.conf import settings
from graceful_ws.core.close_codes import cut_reason
from graceful_ws.envelopes import NODES, node_envelope, nudge
from graceful_ws.management.drains import progress_text
from graceful_ws.models import Node
from graceful_ws.store import nodes
from graceful_ws.store.base import alias


@admin.register(Node)
class NodeAdmin(AskingAdmin):
    """The processes, those that serve first."""

    ordering = ["-beat_at"]
    list_display = [
        "name",
        "state_badge",
        "server",
        "connections",
        "last_beat",
        "drain_progress_text",
        "host",
        "pid",
        "started",
    ]
    list_filter = ["state", "server"]
    search_fields = ["name", "host"]
    fieldsets = [
        (None, {"fields": ["name", "state", "connections", "drain_progress_text"]}),
        (_("Process"), {"fields": ["host", "pid", "server", "version", "id"]}),
        (_("Times"), {"fields": ["started_at", "last_beat", "beat"]}),
        (_("Asked for"), {"fields": ["requested_state", "drain_options"]}),
    ]
    actions = ["drain", "undo_drain"]
    object_actions = [
        ObjectAction("drain", _("Drain"), "drain", lambda row: row.state == Node.State.UP),
        ObjectAction(
            "undo_drain",
            _("Undo drain"),
            "drain",
            # One that drains unasked is about to stop.
            lambda row: row.state in nodes.LIVE and row.requested_state == "draining",
        ),
    ]

    def get_object_links(self, node: Model) -> list[tuple[str, Any]]:
        url = reverse(f"{self.admin_site.name}:graceful_ws_session_changelist")
        return [(f"{url}?node={node.pk}", _("Sessions"))]

    def has_drain_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("graceful_ws.drain_node")

    @admin.action(description=_("Drain the selected nodes"), permissions=["drain"])
    def drain(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        chosen = list(queryset.filter(state=Node.State.UP))
        if not chosen:
            self.message_user(request, _("None of them is up."), messages.WARNING)
            return None
        form = ReasonForm(self.answer(request))
        form.fields["reason"].required = False
        if not form.is_valid():
            up = Node.objects.using(alias()).filter(state=Node.State.UP)
            others = up.exclude(pk__in=[node.pk for node in chosen]).exists()
            return self.ask(
                request,
                "drain",
                chosen,
                form=form,
                title=_("Drain nodes"),
                text=_(
                    "They refuse new connections, send their clients elsewhere, and keep running"
                    " until they are stopped or the drain is undone. No message is lost."
                ),
                warning="" if others else _("No other node is up: clients have nowhere to go."),
                label=_("Drain"),
                describe=lambda node: f"{node}, {node.connections} connections",
            )
        options = {"reason": cut_reason(form.cleaned_data["reason"]) or None}
        actor = request.user.get_username()
        asked = nodes.ask_drain([node.pk for node in chosen], options, actor=actor)
        self._asked(request, len(asked))
        return None

    @admin.action(description=_("Undo the drain of the selected nodes"), permissions=["drain"])
    def undo_drain(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        chosen = [node for node in queryset if self.object_actions[1].applies(node)]
        if not chosen:
            self.message_user(request, _("None of them was asked to drain."), messages.WARNING)
            return None
        form = ConfirmForm(self.answer(request))
        if not form.is_valid():
            return self.ask(
                request,
                "undo_drain",
                chosen,
                form=form,
                title=_("Undo drain"),
                text=_("They accept connections again. Clients that have gone stay elsewhere."),
                label=_("Undo drain"),
                describe=str,
            )
        pks = [node.pk for node in chosen]
        self._asked(request, len(nodes.ask_undo(pks, actor=request.user.get_username())))
        return None

    def _asked(self, request: HttpRequest, count: int) -> None:
        if count:  # after the commit, lest they look too early
            transaction.on_commit(lambda: nudge(NODES, node_envelope()), using=alias())
        said = ngettext("Asked %d node", "Asked %d nodes", count) % count
        late = _("; it happens within %d seconds.") % settings.beat_interval
        self.message_user(request, f"{said}{late}", messages.SUCCESS)

    # --- columns ------------------------------------------------------------------------------

    @admin.display(description=_("state"), ordering="state")
    def state_badge(self, node: Node) -> str:
        return badge(node.get_state_display(), TONES.get(node.state, ""))

    @admin.display(description=_("last beat"), ordering="beat_at")
    def last_beat(self, node: Node) -> str:
        return age(node.beat_at, late_after=settings.dead_after if node.state == "up" else None)

    @admin.display(description=_("started"), ordering="started_at")
    def started(self, node: Node) -> str:
        return age(node.started_at)

    @admin.display(description=_("drain"))
    def drain_progress_text(self, node: Node) -> str | None:
        return progress_text(nodes.status_of(node), width=10) or None
