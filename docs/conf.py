"""Sphinx: python -m sphinx -W docs build/docs"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pygments.lexers.special import TextLexer
from sphinx.highlighting import lexers

from graceful_ws import __version__

project = "graceful_ws"
author = "the graceful_ws authors"
version = release = __version__

extensions = ["myst_parser"]
lexers["mermaid"] = TextLexer()  # a diagram on GitHub, and words here
source_suffix = {".md": "markdown"}
exclude_patterns = ["images", "deploy"]
myst_heading_anchors = 4  # as GitHub has them: [text](page.md#a-heading)
nitpicky = True

html_theme = "furo"
html_title = "graceful_ws"
html_show_copyright = False
