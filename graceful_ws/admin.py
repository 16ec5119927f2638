"""The admin: live sessions, streams, nodes and the audit trail, read-only but for three actions.

Closing a session and draining a node are requests: they are written here, and the node concerned
acts on them at its next look: at once if a channel layer tells it, else within a few seconds.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import F, Model, Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from graceful_ws.admin_base import (
    AskingAdmin,
    ObjectAction,
    ReadOnlyAdmin,
    ReasonForm,
    Section,
    age,
    name_of,
    with_users,
)
from graceful_ws.admin_filters import ConsumerFilter, NodeFilter
from graceful_ws.admin_live import LiveAdmin
from graceful_ws.admin_nodes import NodeAdmin
from graceful_ws.admin_streams import StreamAdmin, followed, state_of
from graceful_ws.conf import settings
from graceful_ws.core.close_codes import CLOSE_CODES, CloseCode, cut_reason
from graceful_ws.envelopes import ask
from graceful_ws.models import AuditEntry, Node, Session
from graceful_ws.store import delivery, nodes
from graceful_ws.store.base import alias

__all__ = ["AuditEntryAdmin", "LiveAdmin", "NodeAdmin", "SessionAdmin", "StreamAdmin"]

MOST_AT_ONCE = 500  # sessions closed by one click: each is a transaction of its own
USERS_FOUND = 1000  # users whose names match a search


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
        "oldest_unacked",
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
        rows = super().get_queryset(request).defer("token_hash", "auth_hash", "session_key_hash")
        return with_users(rows).prefetch_related(Prefetch("node", Node.objects.using(alias())))

    def get_sections(self, request: HttpRequest, obj: Any) -> list[Section]:
        return [followed(request, self.admin_site, obj)]

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
        concerned = {row.node_id for row in chosen if row.node_id is not None}
        transaction.on_commit(lambda: ask(concerned), using=alias(), robust=True)
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
        return state_of(session)

    @admin.display(description=_("user"))
    def user_name(self, session: Session) -> str:
        return name_of(session.user)

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

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """What streams owe the sessions of the page, and since when: a query each."""
        page = super().get_changelist_instance(request)
        rows = list(page.result_list)
        living = [row.pk for row in rows if row.state != Session.State.ENDED]
        behind, oldest = delivery.behind(living), delivery.oldest_unacked(living)
        for row in rows:
            row.behind, row.oldest = behind.get(row.pk, 0), oldest.get(row.pk)
        page.result_list = rows
        return page

    @admin.display(description=_("unacked"), ordering=F("last_seq") - F("acked_seq"))
    def unacked(self, session: Session) -> str:
        own = session.last_seq - session.acked_seq
        behind = getattr(session, "behind", 0)
        return f"{own} + {behind}" if behind else str(own)

    @admin.display(description=_("oldest unacked"))
    def oldest_unacked(self, session: Session) -> str | None:
        oldest = getattr(session, "oldest", None)
        return None if oldest is None else age(oldest)

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
