from __future__ import annotations

from django.db import models


class Clock(models.Model):
    """How many times the clock has ticked: one row."""

    ticks = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return str(self.ticks)


class Line(models.Model):
    """What a visitor wrote. ``number`` is the visitor's own count; nothing in the table keeps it
    unique, so a line that was handled twice would show."""

    session = models.UUIDField(db_index=True)
    number = models.PositiveBigIntegerField()
    text = models.CharField(max_length=200)
    written_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.number} {self.text}"


class Visitor(models.Model):
    """A session of the room: its name, and what its page has counted."""

    session = models.UUIDField(primary_key=True)
    name = models.CharField(max_length=24)
    counts = models.JSONField(default=dict)

    def __str__(self) -> str:
        return self.name
