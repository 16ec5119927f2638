"""``python -m project.demo.node ARGUMENTS``: Daphne that ends with its supervisor."""

from __future__ import annotations

from daphne.cli import CommandLineInterface

from project.demo import lifeline

if __name__ == "__main__":
    lifeline.hold()
    CommandLineInterface.entrypoint()
