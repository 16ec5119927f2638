"""Nodes: registering, beating, what a node must know each round, and the dead."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from django.db.models import F, Q
from django.utils import timezone

from graceful_ws.models import AuditEntry, Node, Session

from .base import alias, connection, locked_rows, writing

NodeState = Node.State
LIVE = (Node.State.UP, Node.State.DRAINING, Node.State.DRAINED)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a process says of itself when it registers."""

    name: str
    host: str
    pid: int
    server: str
    version: str


@dataclass(frozen=True, slots=True)
class Beat:
    """What the database answers to a beat; ``known`` is False for a node declared dead."""

    known: bool
    requested_state: str = ""
    drain_options: dict[str, Any] = field(default_factory=dict)


def register(me: Identity) -> uuid.UUID:
    """A new row for this process; returns its id."""
    now = timezone.now()
    node = Node(
        name=me.name,
        host=me.host,
        pid=me.pid,
        server=me.server,
        version=me.version,
        started_at=now,
        beat_at=now,
    )
    with writing() as using:
        node.save(using=using.alias, force_insert=True)
    return node.id


def beat(node: uuid.UUID, connections: int) -> Beat:
    """Counts the beat up and reads what is asked of the node."""
    with writing() as using:
        nodes = Node.objects.using(using.alias)
        updated = nodes.filter(pk=node, state__in=LIVE).update(
            beat=F("beat") + 1, beat_at=timezone.now(), connections=connections
        )
        if not updated:
            return Beat(known=False)
        requested, options = nodes.values_list("requested_state", "drain_options").get(pk=node)
    return Beat(True, requested, json.loads(options) if options else {})


def report(node: uuid.UUID, state: str | None = None, **fields: Any) -> None:
    """What a node says of itself while its row lives; without a state only while it says draining.
    A report may come late: who is dead or has stopped stays so."""
    with writing() as using:
        rows = Node.objects.using(using.alias).filter(pk=node)
        if state is None:
            rows.filter(state=Node.State.DRAINING).update(**fields)
        else:
            rows.filter(state__in=LIVE).update(state=state, **fields)


def draining_count() -> int:
    """How many nodes drain now, or have been asked to: they share one rate of reconnects."""
    asked = Q(requested_state="draining", state=Node.State.UP)
    nodes = Node.objects.using(alias()).filter(asked | Q(state=Node.State.DRAINING))
    return max(1, nodes.count())


def adopt(old: uuid.UUID, new: uuid.UUID, owned: Sequence[tuple[int, int]]) -> None:
    """A node that was declared dead and lives: what is still its own becomes the new row's."""
    with writing() as using:
        sessions = Session.objects.using(using.alias)
        rows = {
            row.pk: row.generation
            for row in locked_rows(
                sessions.filter(pk__in=[pk for pk, _ in owned], node_id=old), skip_locked=False
            )
        }
        mine = [pk for pk, generation in owned if rows.get(pk) == generation]
        sessions.filter(pk__in=mine, state=Session.State.ATTACHED).update(node_id=new)


def attached(node: uuid.UUID) -> dict[int, tuple[int, int]]:
    """The sessions attached to a node: id to (generation, last_seq)."""
    rows = Session.objects.using(alias()).filter(node_id=node, state=Session.State.ATTACHED)
    return {
        pk: (generation, seq)
        for pk, generation, seq in rows.values_list("pk", "generation", "last_seq")
    }


@dataclass(frozen=True, slots=True)
class Ending:
    """What a session's row says to a connection that seems to have lost it."""

    state: str
    generation: int
    close_code: int | None
    close_reason: str
    instance: str
    node: uuid.UUID | None


def endings(sessions: Sequence[int]) -> dict[int, Ending]:
    """What became of sessions (primary keys)."""
    rows = Session.objects.using(alias()).filter(pk__in=sessions)
    columns = (
        *("pk", "state", "generation", "close_code", "close_reason", "instance"),
        "node_id",
    )
    return {pk: Ending(*values) for pk, *values in rows.values_list(*columns)}


def detach_strays(node: uuid.UUID, sessions: Sequence[tuple[int, int]]) -> None:
    """Rows that say attached to a node which has no such connection: (id, generation) pairs."""
    with writing() as using:
        now = timezone.now()
        rows = Session.objects.using(using.alias)
        for pk, generation in sorted(sessions):
            rows.filter(
                pk=pk, generation=generation, node_id=node, state=Session.State.ATTACHED
            ).update(
                state=Session.State.DETACHED,
                generation=F("generation") + 1,
                node=None,
                left_at=now,
                cause="lost",
                connection_state="",
            )


def beats(me: uuid.UUID) -> dict[uuid.UUID, int]:
    """The beats of all other nodes that are said to live."""
    rows = Node.objects.using(alias()).filter(state__in=LIVE).exclude(pk=me)
    return dict(rows.values_list("pk", "beat"))


def declare_dead(node: uuid.UUID, beat: int) -> bool:
    """Conditional on the beat that was watched; True when this call did it."""
    with writing() as using:
        nodes = Node.objects.using(using.alias)
        return bool(
            nodes.filter(pk=node, beat=beat, state__in=LIVE).update(
                state=Node.State.DEAD, connections=0
            )
        )


def dead() -> list[uuid.UUID]:
    """The dead nodes to which sessions are still attached."""
    rows = Node.objects.using(alias()).filter(
        state=Node.State.DEAD, sessions__state=Session.State.ATTACHED
    )
    return list(rows.order_by().values_list("pk", flat=True).distinct())


def detach_dead(batch: int = 500, spare: Sequence[uuid.UUID] = (), since: float = 0.0) -> int:
    """Detaches sessions of nodes that are dead or stopped, but for those to ``spare``; returns how
    many. Derived from state, so any node finishes what another began. Adds 1 to the generation:
    the node may yet live."""
    with writing() as using:
        sessions = Session.objects.using(using.alias)
        gone = Node.objects.using(using.alias).filter(
            state__in=(Node.State.DEAD, Node.State.STOPPED)
        )
        gone = gone.exclude(pk__in=spare)
        attached = sessions.filter(state=Session.State.ATTACHED, node__in=gone)
        ids = list(attached.order_by("pk").values_list("pk", flat=True)[:batch])
        if not ids:
            return 0
        rows = locked_rows(
            sessions.filter(pk__in=ids, state=Session.State.ATTACHED, node__in=gone),
            skip_locked=True,
        )
        mine = [row.pk for row in rows]
        sessions.filter(pk__in=mine).update(
            state=Session.State.DETACHED,
            generation=F("generation") + 1,
            left_at=timezone.now() - timedelta(seconds=since),
            node=None,
            cause="node_lost",
            connection_state="",
        )
        sessions.filter(pk__in=mine, resumable=False).update(
            state=Session.State.ENDED, ended_at=timezone.now()
        )
        return len(mine)


def end_session(
    public_id: uuid.UUID, code: int, reason: str, *, actor: str = "", cause: str = "closed"
) -> bool:
    """Ends a session from outside its node, which closes the connection at its next look.

    Returns False when there is no such session or it has ended already.
    """
    with writing() as using:
        sessions = Session.objects.using(using.alias)
        session = locked_rows(sessions.filter(uuid=public_id), skip_locked=False).first()
        if session is None or session.state == Session.State.ENDED:
            return False
        now = timezone.now()
        sessions.filter(pk=session.pk).update(
            state=Session.State.ENDED,
            generation=F("generation") + 1,
            ended_at=now,
            left_at=session.left_at or now,
            close_code=code,
            close_reason=reason,
            cause=cause,
            connection_state="",
        )
        AuditEntry.objects.using(using.alias).create(
            at=now, session=public_id, actor=actor, event="close_session", code=code, reason=reason
        )
        return True


def request(state: str, options: dict[str, Any], **which: Any) -> list[uuid.UUID]:
    """Asks live nodes (``name=…``, ``host=…`` or all) for a state; returns the nodes asked."""
    with writing() as using:
        nodes = Node.objects.using(using.alias).filter(state__in=LIVE, **which)
        ids = list(nodes.values_list("pk", flat=True))
        Node.objects.using(using.alias).filter(pk__in=ids).update(
            requested_state=state, drain_options=json.dumps(options), drain_progress=""
        )
        return ids


def audit(event: str, *, node: str = "", actor: str = "", reason: str = "") -> None:
    with writing() as using:
        AuditEntry.objects.using(using.alias).create(
            at=timezone.now(), node=node, actor=actor, event=event, reason=reason[:200]
        )


# --- what operators ask -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Status:
    """A node's row as operators read it; ``progress`` is what its drain last said of itself."""

    id: uuid.UUID
    name: str
    host: str
    state: str
    requested_state: str
    beat: int
    beat_at: datetime
    connections: int
    progress: dict[str, Any]

    @property
    def is_live(self) -> bool:
        return self.state in LIVE

    @property
    def is_stopping(self) -> bool:
        """True when it drains though nobody asked: its process was told to stop."""
        return self.state in ("draining", "drained") and not self.requested_state


def status_of(node: Node) -> Status:
    progress = json.loads(node.drain_progress) if node.drain_progress else {}
    values = {item.name: getattr(node, item.name) for item in fields(Status)[:-1]}
    return Status(**values, progress=progress)


def statuses(**which: Any) -> list[Status]:
    """Nodes by a filter, by name and then the youngest first."""
    rows = Node.objects.using(alias()).filter(**which).order_by("name", "-started_at")
    return [status_of(node) for node in rows]


def ask_drain(ids: Sequence[uuid.UUID], options: dict[str, Any], *, actor: str) -> list[uuid.UUID]:
    """Asks those that are up to drain, and writes down who asked; returns them. Nodes that drain
    already go on with what they were asked first."""
    with writing() as using:
        up = Node.objects.using(using.alias).filter(pk__in=ids, state=Node.State.UP)
        names = dict(up.values_list("pk", "name"))
        asked = request("draining", {**options, "actor": actor}, pk__in=list(names))
        for node in asked:
            audit("drain_node", node=names[node], actor=actor, reason=options.get("reason") or "")
    return asked


def ask_undo(ids: Sequence[uuid.UUID], *, actor: str, reason: str = "") -> list[uuid.UUID]:
    """Takes drains back: nodes that drain or are drained because they were asked are asked for
    "up", and a request that a node has not seen yet is withdrawn. Returns the nodes concerned. A
    node that drains by itself is about to stop, and goes on."""
    with writing() as using:
        rows = Node.objects.using(using.alias).filter(pk__in=ids, state__in=LIVE)
        asked = rows.filter(requested_state="draining")
        nodes = list(asked.values_list("pk", "name", "state"))
        back = [pk for pk, _, state in nodes if state != Node.State.UP]
        unseen = [pk for pk, _, state in nodes if state == Node.State.UP]
        request("up", {}, pk__in=back)
        request("", {}, pk__in=unseen)
        for _, name, _ in nodes:
            audit("undo_drain", node=name, actor=actor, reason=reason)
    return back + unseen


def migrated() -> bool:
    """True when the tables are there. Raises what the database raises when it is away."""
    return Node._meta.db_table in connection().introspection.table_names()


def probe_tables() -> None:
    """Asks for a row; raises what the database raises when it is away or not migrated."""
    Node.objects.using(alias()).exists()
