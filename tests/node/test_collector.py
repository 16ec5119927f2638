"""What a node does to the garbage collector of its process: seen in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import gc, sys
from django.conf import settings
settings.configure(GRACEFUL_WS={"tune_gc": sys.argv[1] == "tuned"})
exec(sys.argv[2])
from graceful_ws.node import collector
collector.settle()
frozen = gc.get_freeze_count()
collector.settle()
assert gc.get_freeze_count() == frozen, "it is done once"
print(gc.isenabled(), gc.get_threshold()[0], frozen > 1000)
"""


@pytest.mark.parametrize(
    ("tuned", "before", "found"),
    [
        ("tuned", "", "True 10000 True"),
        ("tuned", "gc.set_threshold(50000)", "True 50000 True"),
        ("tuned", "gc.disable()", "False 700 False"),
        ("not", "gc.set_threshold(700)", "True 700 False"),
    ],
)
def test_what_is_loaded_is_left_alone_unless_the_site_says_otherwise(
    tuned: str, before: str, found: str
) -> None:
    if "disable" in before:
        before += "; gc.set_threshold(700)"
    command = [sys.executable, "-c", PROGRAM, tuned, before]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert (done.stdout.strip(), done.returncode) == (found, 0), done.stderr
