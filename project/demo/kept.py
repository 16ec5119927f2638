"""``python -m project.demo.kept``: prints the lines in the order in which they were kept, as
JSON: ``[[session, its number, primary key], ...]``."""

from __future__ import annotations

import json

import django


def main() -> None:
    django.setup()
    from project.models import Line

    lines = Line.objects.order_by("pk").values_list("session", "number", "pk")
    print(json.dumps([(str(session), number, pk) for session, number, pk in lines]))


if __name__ == "__main__":
    main()
