"""The tables. Only ``graceful_ws.store`` queries them (and the admin, which reads)."""

from __future__ import annotations

import uuid

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.utils.translation import gettext_lazy as _

if not apps.apps_ready:
    raise ImproperlyConfigured(
        "graceful_ws is imported before Django has loaded its apps: in asgi.py call"
        " get_asgi_application() first, and import your consumers and routes below it"
    )


class Node(models.Model):
    """One start of a process that holds connections: containers repeat host and pid, not ids."""

    class State(models.TextChoices):
        UP = "up"
        DRAINING = "draining"
        DRAINED = "drained"
        STOPPED = "stopped"
        DEAD = "dead"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200, db_index=True)
    host = models.CharField(max_length=200, db_index=True)
    pid = models.IntegerField()
    server = models.CharField(max_length=40)
    version = models.CharField(max_length=40)
    beat = models.BigIntegerField(default=0, help_text=_("Counted up every few seconds."))
    state = models.CharField(max_length=10, choices=State.choices, default=State.UP, db_index=True)
    requested_state = models.CharField(max_length=10, blank=True, default="")
    drain_options = models.TextField(blank=True, default="", help_text=_("JSON of the request."))
    drain_progress = models.TextField(blank=True, default="", help_text=_("JSON of the progress."))
    connections = models.IntegerField(default=0)
    started_at = models.DateTimeField()
    beat_at = models.DateTimeField(help_text=_("Time of the last beat by the node's own clock."))

    class Meta:
        permissions = [("drain_node", "Can drain a node")]

    def __str__(self) -> str:
        return self.name


class Session(models.Model):
    """What outlives a connection: numbers, identity, and which connection owns it now.

    ``last_seq``, ``acked_seq`` and ``last_client_seq`` are the sequence IDs that survive a process.
    A row is locked first and its ``generation`` compared under the lock by every writer.
    """

    class State(models.TextChoices):
        ATTACHED = "attached"
        DETACHED = "detached"
        ENDED = "ended"

    uuid = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    token_hash = models.BinaryField(max_length=32, unique=True, null=True, editable=False)
    consumer = models.CharField(max_length=200)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        # Without the constraint a view's lock on its user does not block the writer's commit.
        db_constraint=False,
        related_name="+",
    )
    auth_hash = models.CharField(max_length=128, blank=True, default="", editable=False)
    session_key_hash = models.CharField(max_length=64, blank=True, default="", editable=False)
    node = models.ForeignKey(
        Node,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        db_constraint=False,
        related_name="sessions",
    )
    generation = models.BigIntegerField(default=1)
    instance = models.CharField(max_length=64, blank=True, default="")
    attempt = models.BigIntegerField(default=0)
    state = models.CharField(max_length=10, choices=State.choices, default=State.ATTACHED)
    resumable = models.BooleanField(default=True)
    present = models.BooleanField(default=False, help_text=_("Its audience was told it is here."))
    last_seq = models.BigIntegerField(default=0)
    acked_seq = models.BigIntegerField(default=0)
    last_client_seq = models.BigIntegerField(default=0)
    tries = models.SmallIntegerField(default=0)
    started_at = models.DateTimeField()
    attached_at = models.DateTimeField()
    seen_at = models.DateTimeField(help_text=_("Last traffic, written now and then."))
    left_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    remote_address = models.CharField(max_length=64, blank=True, default="")
    user_agent = models.CharField(max_length=200, blank=True, default="")
    connection_state = models.CharField(max_length=12, blank=True, default="")
    rtt_ms = models.IntegerField(null=True, blank=True)
    close_code = models.IntegerField(null=True, blank=True)
    close_reason = models.CharField(max_length=123, blank=True, default="")
    cause = models.CharField(max_length=20, blank=True, default="")
    told_at = models.DateTimeField(
        null=True, blank=True, help_text=_("Its client came after the end, and was told of a gap.")
    )
    resumes = models.IntegerField(default=0)

    class Meta:
        permissions = [("close_session", "Can close a live session")]
        indexes = [
            models.Index(fields=["node", "state"], name="graceful_session_node"),
            models.Index(fields=["state", "left_at"], name="graceful_session_left"),
            models.Index(
                fields=["left_at"],
                condition=models.Q(present=True, left_at__isnull=False),
                name="graceful_session_exits",
            ),
        ]

    def __str__(self) -> str:
        return str(self.uuid)


class OutboundMessage(models.Model):
    """A message to one session, as encoded JSON text. ``seq`` stays null from ``send_to_session``
    until the session's owner takes it in: whoever sends needs no lock on the session.

    Text, not a JSON column: PostgreSQL's jsonb refuses a NUL character and reorders keys, so that
    replay would differ from live and one client's text would fail everybody's transaction.
    """

    session = models.ForeignKey(
        Session, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="+"
    )
    seq = models.BigIntegerField(null=True)
    data = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["session", "seq"], name="graceful_outbound_seq")
        ]
        indexes = [
            models.Index(fields=["created_at"], name="graceful_outbound_age"),
            models.Index(
                fields=["session", "id"],
                condition=models.Q(seq__isnull=True),
                name="graceful_outbound_pending",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.session_id}:{self.seq}"


class Stream(models.Model):
    """A named sequence that many sessions follow."""

    name_hash = models.BinaryField(max_length=32, unique=True)
    name = models.CharField(max_length=100)
    epoch = models.CharField(max_length=16)
    head = models.BigIntegerField(default=0)
    used_at = models.DateTimeField(db_index=True, help_text=_("Last subscribed or numbered."))

    def __str__(self) -> str:
        return self.name


class StreamMessage(models.Model):
    """A published message. ``seq`` stays null until the publisher's transaction has committed.

    The stream's name is text without a foreign key: a key-share lock taken by a publisher's open
    transaction would block, and can deadlock with, the sequencer.
    """

    uuid = models.UUIDField(unique=True, default=uuid.uuid4)
    stream = models.CharField(max_length=100)
    seq = models.BigIntegerField(null=True)
    data = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["stream", "seq"], name="graceful_stream_seq")
        ]
        indexes = [
            models.Index(
                fields=["stream", "id"],
                condition=models.Q(seq__isnull=True),
                name="graceful_stream_pending",
            ),
            models.Index(fields=["created_at"], name="graceful_stream_age"),
        ]

    def __str__(self) -> str:
        return f"{self.stream}:{self.seq}"


class Subscription(models.Model):
    """A session follows a stream from ``from_seq`` on."""

    session = models.ForeignKey(
        Session, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="+"
    )
    stream = models.CharField(max_length=100)
    epoch = models.CharField(max_length=16)
    from_seq = models.BigIntegerField()
    acked_seq = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["session", "stream"], name="graceful_subscription")
        ]
        indexes = [models.Index(fields=["stream"], name="graceful_subscription_name")]

    def __str__(self) -> str:
        return f"{self.session_id}:{self.stream}"


class Presence(models.Model):
    """Whose comings and goings a stream is told: one of the audience of a session."""

    session = models.ForeignKey(
        Session, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="+"
    )
    stream = models.CharField(max_length=100)

    class Meta:
        verbose_name_plural = "presence"
        constraints = [
            models.UniqueConstraint(fields=["session", "stream"], name="graceful_presence")
        ]
        indexes = [models.Index(fields=["stream"], name="graceful_presence_stream")]

    def __str__(self) -> str:
        return f"{self.session_id}:{self.stream}"


class InboundResult(models.Model):
    """What became of a client's message; only the last ``unacked`` numbers are kept."""

    session = models.ForeignKey(
        Session, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="+"
    )
    client_seq = models.BigIntegerField()
    outcome = models.TextField(help_text=_("The ack's result or the nack, as encoded JSON text."))

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["session", "client_seq"], name="graceful_inbound_seq")
        ]

    def __str__(self) -> str:
        return f"{self.session_id}:{self.client_seq}"


class Sample(models.Model):
    """A node's figures at one moment; counters count from the node's start."""

    node = models.ForeignKey(
        Node, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="+"
    )
    at = models.DateTimeField(db_index=True)
    figures = models.TextField(help_text=_("JSON."))

    def __str__(self) -> str:
        return f"{self.node_id} {self.at}"


class AuditEntry(models.Model):
    """Who closed, drained or reclaimed what, and why."""

    at = models.DateTimeField(db_index=True)
    node = models.CharField(max_length=200, blank=True, default="")
    session = models.UUIDField(null=True, blank=True, db_index=True)
    actor = models.CharField(max_length=200, blank=True, default="")
    event = models.CharField(max_length=40)
    code = models.IntegerField(null=True, blank=True)
    reason = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        verbose_name_plural = "audit trail"
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.event} {self.session or self.node}"
