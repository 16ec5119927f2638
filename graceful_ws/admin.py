"""The admin: live sessions, nodes and the audit trail, all read-only but for three actions.

Closing a session and draining a node are requests: they are written here, and the node concerned
acts on them at its next look: at once if a channel layer tells it, else within a few seconds.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.db import router, transaction
from django.db.models import F, Model, Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from graceful_ws.admin_base import (
    AskingAdmin,
    ConfirmForm,
    ObjectAction,
    ReadOnlyAdmin,
    ReasonForm,
    age,
    badge,
)
from graceful_ws.admin_filters import ConsumerFilter, NodeFilter
from graceful_ws.conf import settings
from graceful_ws.core.close_codes import CLOSE_CODES, CloseCode, cut_reason
from graceful_ws.envelopes import NODES, node_envelope, nudge
from graceful_ws.management.drains import progress_text
from graceful_ws.models import AuditEntry, Node, Session
from graceful_ws.store import nodes
from graceful_ws.store.base import alias

MOST_AT_ONCE = 500  # sessions closed by one click: each is a transaction of its own
USERS_FOUND = 1000  # users whose names match a search

TONES = {
    "attached": "good",
    "up": "good",
    "draining": "warn",
    "drained": "warn",
    "dead": "bad",
}


@admin.register(Session)
class SessionAdmin(AskingAdmin):
    """Who is connected now, who was a moment ago, and where each sequence stands."""

    # Alphabetical is also the order of interest: attached, detached, ended.
    ordering = ["state", "-seen_at"]
    list_display = [
        "public_id",
        "state_badge",
        "user_name",
        "node_name",
        "consumer_name",
        "since",
        "seen",
        "rtt",
        "unacked",
        "numbers",
        "remote_address",
        "resumes",
    ]
    list_filter = ["state", NodeFilter, ConsumerFilter]
    search_fields = ["uuid", "remote_address"]
    search_help_text = _("Session id, user name or address")
    fieldsets = [
        (None, {"fields": ["uuid", "state", "connection_state", "user", "node", "consumer"]}),
        (_("Client"), {"fields": ["remote_address", "user_agent", "rtt"]}),
        (
            _("Numbers"),
            {"fields": ["last_seq", "acked_seq", "unacked", "last_client_seq", "resumes"]},
        ),
        (_("Ownership"), {"fields": ["generation", "instance", "attempt", "resumable"]}),
        (
            _("Times"),
            {"fields": ["started_at", "attached_at", "seen_at", "left_at", "ended_at"]},
        ),
        (_("End"), {"fields": ["close_code_meaning", "close_reason", "cause"]}),
    ]
    actions = ["close"]
    object_actions = [
        ObjectAction("close", _("Close"), "close", lambda row: row.state != Session.State.ENDED)
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        model = get_user_model()
        # Not joined: the tables may be in another database than the users.
        users = model._default_manager.using(router.db_for_read(model))
        rows = super().get_queryset(request).defer("token_hash", "auth_hash", "session_key_hash")
        return rows.prefetch_related(
            Prefetch("user", users), Prefetch("node", Node.objects.using(alias()))
        )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        found, duplicates = super().get_search_results(request, queryset, search_term)
        if not search_term.strip():
            return found, duplicates
        user = get_user_model()
        named = {f"{user.USERNAME_FIELD}__icontains": search_term.strip()}
        users = user._default_manager.filter(**named).values_list("pk", flat=True)
        return found | queryset.filter(user__in=list(users[:USERS_FOUND])), duplicates

    def has_close_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("graceful_ws.close_session")

    @admin.action(description=_("Close the selected sessions"), permissions=["close"])
    def close(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        """Ends sessions for good with 4506, after asking for a reason."""
        chosen = list(queryset.exclude(state=Session.State.ENDED)[: MOST_AT_ONCE + 1])
        if not chosen:
            self.message_user(request, _("Already ended: nothing to close."), messages.WARNING)
            return None
        if len(chosen) > MOST_AT_ONCE:
            most = _("At most %d sessions at once; to move all clients away, drain the node.")
            self.message_user(request, most % MOST_AT_ONCE, messages.ERROR)
            return None
        form = ReasonForm(self.answer(request))
        if not form.is_valid():
            return self.ask(
                request,
                "close",
                chosen,
                form=form,
                title=_("Close sessions"),
                text=_(
                    "These sessions end for good: their clients get close code 4506 and do not"
                    " come back by themselves. What they had not received yet is discarded."
                ),
                label=_("Close"),
                describe=_describe,
            )
        reason, actor = cut_reason(form.cleaned_data["reason"]), request.user.get_username()
        code = CloseCode.CLOSED_BY_OPERATOR
        closed = sum(nodes.end_session(row.uuid, code, reason, actor=actor) for row in chosen)
        said = ngettext("Closed %d session", "Closed %d sessions", closed) % closed
        late = _("; its connection, if any, ends within %d seconds.") % settings.round_interval
        self.message_user(request, f"{said}{late}", messages.SUCCESS)
        return None

    # --- columns ------------------------------------------------------------------------------

    @admin.display(description=_("session"), ordering="uuid")
    def public_id(self, session: Session) -> str:
        text = str(session.uuid)
        return format_html('<span class="gws-id" title="{}">{}</span>', text, text[:8])

    @admin.display(description=_("state"), ordering="state")
    def state_badge(self, session: Session) -> str:
        shown = badge(session.get_state_display(), TONES.get(session.state, ""))
        return format_html('{} <span class="quiet">{}</span>', shown, session.connection_state)

    @admin.display(description=_("user"))
    def user_name(self, session: Session) -> str:
        if session.user is None:
            return format_html('<span class="quiet">{}</span>', _("anonymous"))
        return str(session.user.get_username())

    @admin.display(description=_("node"))
    def node_name(self, session: Session) -> str | None:
        return session.node.name if session.node is not None else None

    @admin.display(description=_("consumer"), ordering="consumer")
    def consumer_name(self, session: Session) -> str:
        name = session.consumer.rpartition(".")[2]
        return format_html('<span title="{}">{}</span>', session.consumer, name)

    @admin.display(description=_("since"), ordering="started_at")
    def since(self, session: Session) -> str:
        return age(session.started_at)

    @admin.display(description=_("last seen"), ordering="seen_at")
    def seen(self, session: Session) -> str:
        return age(session.seen_at)

    @admin.display(description=_("RTT"), ordering="rtt_ms")
    def rtt(self, session: Session) -> str | None:
        return None if session.rtt_ms is None else f"{session.rtt_ms} ms"

    @admin.display(description=_("unacked"), ordering=F("last_seq") - F("acked_seq"))
    def unacked(self, session: Session) -> int:
        return session.last_seq - session.acked_seq

    @admin.display(description=_("sent / acked / received"), ordering="last_seq")
    def numbers(self, session: Session) -> str:
        return f"{session.last_seq} / {session.acked_seq} / {session.last_client_seq}"

    @admin.display(description=_("close code"))
    def close_code_meaning(self, session: Session) -> str | None:
        if session.close_code is None:
            return None
        known = CLOSE_CODES.get(session.close_code)  # type: ignore[call-overload]
        return f"{session.close_code}: {known.text}" if known else str(session.close_code)


def _describe(session: Model) -> str:
    assert isinstance(session, Session)
    user = session.user.get_username() if session.user is not None else str(_("anonymous"))
    return f"{session.uuid}, {user}, {session.get_state_display().lower()}"


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


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """Who closed, drained or reclaimed what, and why."""

    list_display = ["at", "event", "actor", "node", "session_link", "code", "reason"]
    list_filter = ["event", "at"]
    search_fields = ["actor", "node", "session", "reason"]
    search_help_text = _("Actor, node, session id or reason")
    fields = ["at", "event", "actor", "node", "session_link", "code", "reason"]

    @admin.display(description=_("session"), ordering="session")
    def session_link(self, entry: AuditEntry) -> str | None:
        if entry.session is None:
            return None
        url = reverse(f"{self.admin_site.name}:graceful_ws_session_changelist")
        return format_html('<a href="{}?q={}">{}</a>', url, entry.session, entry.session)
