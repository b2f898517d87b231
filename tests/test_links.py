"""Links of the pages lead somewhere, without asking the network; files that they name are there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *(ROOT / "docs").rglob("*.md")]
LINK = re.compile(r"\]\(([^()\s]+(?:\([^()]*\)[^()\s]*)?)\)")
NAMED = re.compile(r"`((?:docs|configuration|examples|tests|benchmarks|modeling_adapt|data_scripts)/[\w./-]*\w)`")


def prose(page: Path) -> str:
    """Without blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_somewhere(page):
    missing = []
    for target in LINK.findall(prose(page)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        there = page if not name else page.parent / name
        if not there.exists() or anchor and anchor not in anchors(there):
            missing.append(target)
    assert not missing, missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_are_there(page):
    assert not [name for name in NAMED.findall(prose(page)) if "NAME" not in name and not (ROOT / name).exists()]


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A b, c\n[x](no.md) [y](#a-b-c) [z](#d)\n```\n[w](gone.md)\n```\n")
    assert LINK.findall(prose(page)) == ["no.md", "#a-b-c", "#d"] and anchors(page) == {"a-b-c"}


def test_the_site_has_every_page_in_its_menu():
    class Loader(yaml.SafeLoader):
        """Tags of mkdocs are no concern of this test."""

    Loader.add_multi_constructor("tag:", lambda loader, suffix, node: None)
    menu = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"]
    named = re.findall(r"[\w/]+\.md", str(menu))
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(named) == sorted(["index.md", *pages])


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    text = (tmp_path / "site" / "api" / "simulation" / "index.html").read_text()
    assert "ADAPTCalculator" in text and "[`" not in text
    assert "images/relaxation.png" in (tmp_path / "site" / "index.html").read_text()
