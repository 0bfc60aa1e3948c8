"""The gallery and the index of examples: all scripts and pictures are named, and one is drawn."""

import re
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from processes import load_example

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PICTURES = ROOT / "docs" / "images" / "gallery"
SCRIPTS = sorted(
    path
    for pattern in ("*.py", "*.c", "*.html")
    for path in EXAMPLES.rglob(pattern)
    if "node_modules" not in path.parts
)
PAGES = [page.read_text() for page in (ROOT / "docs").rglob("*.md")]
INDEX = (ROOT / "docs" / "examples.md").read_text()

pytestmark = pytest.mark.usefixtures("without_xla")


def test_there_are_scripts_and_pictures():
    assert EXAMPLES / "quickstart.py" in SCRIPTS
    assert PICTURES / "densities.png" in PICTURES.iterdir()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_the_index_names_every_script(script):
    assert f"`{script.relative_to(ROOT)}`" in INDEX


def test_scripts_that_the_index_names_exist():
    names = re.findall(r"examples/[\w/]+\.(?:py|c|html)", INDEX)
    assert names
    for name in names:
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("picture", sorted(PICTURES.iterdir()), ids=lambda path: path.name)
def test_a_page_shows_every_picture_and_a_script_draws_it(picture):
    assert any(f"images/gallery/{picture.name}" in page for page in PAGES)
    scripts = (path.read_text() for path in (EXAMPLES / "gallery").glob("*.py"))
    assert any(picture.name in script for script in scripts)


@pytest.fixture
def gallery(monkeypatch):
    """The script of the densities, with few points; its modules and style go with the test."""
    monkeypatch.syspath_prepend(EXAMPLES / "gallery")
    with mpl.rc_context():
        module = load_example("gallery/densities")
        monkeypatch.setattr(sys.modules["trained"], "HELD_OUT", 50)
        for name in [name for name in module.SETS if name not in ("rings", "spirals")]:
            monkeypatch.delitem(module.SETS, name)
        yield module
    for name in ("style", "trained"):
        del sys.modules[name]


def test_densities_are_drawn_and_kept(gallery, tmp_path, capsys, monkeypatch):
    cache, picture = tmp_path / "cache", tmp_path / "densities.png"
    options = ["--only", "planar", "--steps", "2", "--cells", "6", "--cache", str(cache)]
    options += ["--output", str(picture), "--strip", str(tmp_path / "strip.png")]
    gallery.main(options)
    first = picture.read_bytes()
    assert first.startswith(b"\x89PNG")
    table = capsys.readouterr().out
    assert "| planar | `planar_flow(2, layers=32)` | normal | 0.005 | 2 |" in table
    assert {path.suffix for path in cache.iterdir()} == {".h5", ".json", ".npy"}

    def fit(self, points):
        raise AssertionError(f"{points} are in the cache, and need no training")

    monkeypatch.setattr(gallery.Training, "fit", fit)
    gallery.main(options)
    assert picture.read_bytes() == first
    with pytest.raises(AssertionError, match="no training"):
        gallery.main([*options[:2], "--steps", "3", *options[4:]])
