"""The documentation site: each page says what it is for, and every picture that a page shows is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MADE_BY_THE_READER = {"middle", "rates", "NAME"}  # names in examples
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_opens_with_what_the_reader_can_do_after_it(page):
    title, _, opening = page.read_text(encoding="utf-8").split("\n", 3)[:3]
    assert title.startswith("# ") and opening.startswith("*After this page you ")


def test_every_page_is_in_the_sites_menu():
    named = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(named) == [page.name for page in PAGES]


def test_links_of_pages_lead_to_files_of_the_site():
    for page in PAGES:
        for target in re.findall(r"\]\(([\w./]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file() and ".." not in target, f"{page.name}: {target}"


def test_the_sites_tools_are_pinned_beside_the_environment_and_not_in_it():
    pinned = [line for line in (ROOT / "docs/requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert pinned and all("==" in line for line in pinned)
    assert not {line.split("==")[0] for line in pinned} & {
        line.split("==")[0] for line in (ROOT / "requirements.txt").read_text().splitlines()
    }


def test_the_api_page_names_modules_that_are_there():
    for module in re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/api.md").read_text(), re.M):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or path.is_dir(), f"docs/api.md: there is no {module} any more"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_files_that_a_page_names_are_there(page):
    for named in re.findall(
        r"`((?:apo|conf|experiments|tests|notebooks)/[\w/.*]*)[:`]", page.read_text(encoding="utf-8")
    ):
        there = any(ROOT.glob(named.rstrip("/")))
        assert there or Path(named).stem in MADE_BY_THE_READER, f"{page.name}: there is no {named} any more"
