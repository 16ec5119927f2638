"""Everything fails at once, under load, and a ledger is compared at the end.

    python -m tests.system.chaos --seconds 60 --seed 7 --faults sigterm,sigkill,cut --json

``options`` what can be asked for, ``place`` the processes, ``asgi`` and ``consumers`` what the
nodes serve, ``publisher`` a process that publishes and is no node, ``visitors`` the clients,
``faults`` what goes wrong, ``run`` the course of it, ``ledger`` what everybody wrote down,
``books`` the comparison.
"""
