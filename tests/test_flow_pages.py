"""The pages of the flows: their order, and pictures that a script draws."""

import re
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from processes import load_example

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "flows").glob("*.md"))
FLOWS = [page for page in PAGES if page.name != "index.md"]
PICTURES = ROOT / "docs" / "images" / "flows"
SECTIONS = ["Formula", "Cost", "Example", "Options", "Paper", "API"]


def name_of(page):
    return page.stem


@pytest.mark.parametrize("page", FLOWS, ids=name_of)
def test_sections_have_one_order(page):
    found = re.findall(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)
    known = [section for section in found if section in SECTIONS]
    assert known == [section for section in SECTIONS if section in known]
    assert set(SECTIONS) - set(known) <= {"Paper"}
    # What a page has beside them follows the options.
    assert found[:4] == SECTIONS[:4]
    assert found[-1] == "API"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_picture_stands_before_the_first_section(page):
    before = page.read_text().split("\n## ")[0]
    picture = PICTURES / f"{page.stem}.png"
    alt_text = re.search(rf"!\[(.*)\]\(\.\./images/flows/{picture.name}\)", before)
    assert alt_text
    assert len(alt_text[1]) > 40
    assert picture.stat().st_size < 60_000


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_formulas_are_no_text(page):
    assert "```text" not in page.read_text()


@pytest.fixture
def script(monkeypatch):
    """The script of the pictures; its modules and style go with the test."""
    monkeypatch.syspath_prepend(ROOT / "examples" / "gallery")
    modules = set(sys.modules)
    with mpl.rc_context():
        yield load_example("gallery/flow_pages")
    for name in set(sys.modules) - modules:
        if name == "style" or name.startswith("flow_pages"):
            del sys.modules[name]


def test_a_script_draws_each_picture(script):
    assert sorted(script.PICTURES) == sorted(path.stem for path in PICTURES.iterdir())
    assert sorted(script.PICTURES) == [page.stem for page in PAGES]


@pytest.mark.usefixtures("without_xla")
@pytest.mark.parametrize("name", ["squeeze", "nice", "dequantize"])
def test_pictures_are_drawn(script, name, tmp_path, monkeypatch):
    options = ["--only", name, "--steps", "2", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["flow_pages.py", *options])
    script.main()
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.png"]
