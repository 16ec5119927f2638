"""The documentation as a site: every page in it, every link and anchor, and no warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

WITHIN = 120.0
# What GitHub makes an anchor of: letters, digits, "-" and "_" stay, spaces are "-".
DROPPED = re.compile(r"[^\w\- ]")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-d"]
    done = subprocess.run(
        [*command, str(target / "doctrees"), "docs", str(target / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target / "html"


def test_site_has_every_page_and_every_picture(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in ROOT.glob("docs/**/*.md")}
    built = {path.relative_to(site).with_suffix("") for path in site.glob("**/*.html")}
    assert built - pages == {Path("genindex"), Path("search")}
    assert pages - built == set()
    html = " ".join(path.read_text() for path in site.glob("**/*.html"))
    shown = set(re.findall(r'<img[^>]*src="([^"]+)"', html))
    assert [one for one in shown if not (site / re.sub(r"^(\.\./)+", "", one)).exists()] == []


def test_site_loads_nothing_from_another_host(site: Path) -> None:
    html = (site / "index.html").read_text()
    loaded = re.findall(r'<(?:script|img)[^>]*src="([^"]+)"', html)
    loaded += re.findall(r'<link rel="stylesheet"[^>]*href="([^"]+)"', html)
    assert loaded
    assert [one for one in loaded if "//" in one] == []


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.*?) *$", text, flags=re.M)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {DROPPED.sub("", heading.lower()).replace(" ", "-") for heading in plain}


PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings_on_github(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    wrong = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = page if not name else (page.parent / name).resolve()
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []
