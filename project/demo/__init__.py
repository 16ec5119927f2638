"""What ``manage.py demo`` is made of.

    command ── supervisor ─┬─ redis, postgres: each under project.demo.server, if asked for
                           ├─ node-1, node-2: Daphne with project.asgi
                           └─ clock: ticks for all in the room, five times a second

The supervisor knows no Django; what it starts does.
"""
