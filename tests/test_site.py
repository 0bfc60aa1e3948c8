"""The built site: links, search, no other host; in a browser also widths and formulas.

`mkdocs build --strict` makes it, `pytest -m site` runs these. The browser's part needs the extra
`browser`, and Chromium as tests/browser.py says.
"""

import html.parser
import importlib.util
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import browser
import pytest
from test_readme import PUBLIC

SITE = Path(__file__).parents[1] / "site"
pytestmark = [
    pytest.mark.site,
    pytest.mark.skipif(not SITE.exists(), reason="needs `mkdocs build`"),
]
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
WORDS = """anomaly outlier spline GPU TPU hyperparameter dequantize migrate nflows zuko TensorBoard
callback conditional image VAE posterior MCMC NaN checkpoint SavedModel deploy bijector MAF
multimodal periodic outlier precision reproducible quantile logit"""


class Page(html.parser.HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, name):
        super().__init__()
        self.links, self.loads, self.anchors = set(), set(), set()
        self.feed((SITE / name).read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors.add(attributes.get("id"))
        if tag == "a" and "href" in attributes:
            self.links.add(attributes["href"])
        elif tag == "link" and attributes.get("rel") not in ("canonical", "next", "prev"):
            self.loads.add(attributes["href"])
        elif "src" in attributes:
            self.loads.add(attributes["src"])
        for source in attributes.get("srcset", "").split(","):
            self.loads.add(source.split(" ")[0])

    handle_startendtag = handle_starttag


def path_of(url):
    """Return the file of a path of the site."""
    path = SITE / unquote(url).lstrip("/")
    return path / "index.html" if url.endswith("/") else path


def test_links_resolve():
    anchors = {name: Page(name).anchors for name in PAGES}
    broken = []
    for name in PAGES:
        page = Page(name)
        for link in page.links | page.loads:
            scheme, host, path, _, fragment = urlsplit(urljoin(f"//site/{name}", link))
            if scheme or host != "site":
                continue
            file = path_of(path)
            known = anchors.get(file.relative_to(SITE).as_posix(), {fragment})
            if not file.is_file() or (fragment and unquote(fragment) not in known):
                broken.append((name, link))
    assert broken == []


@pytest.mark.parametrize("kind", ["html", "css", "js"])
def test_nothing_is_loaded_from_elsewhere(kind):
    if kind == "html":
        foreign = [(name, url) for name in PAGES for url in Page(name).loads if "//" in url]
    else:
        foreign = [
            (path.name, url)
            for path in SITE.rglob(f"*.{kind}")
            for url in re.findall(
                r"(?:url\(|@import|importScripts\()\W*(https?:[^)\"']+)", path.read_text()
            )
        ]
    assert foreign == []


def test_every_public_name_has_an_anchor():
    anchors = {anchor for name in PAGES if name.startswith("api") for anchor in Page(name).anchors}
    assert set(PUBLIC) - anchors == set()


@pytest.mark.parametrize("word", WORDS.split())
def test_search_has_the_word(word):
    entries = json.loads((SITE / "search" / "search_index.json").read_text())["docs"]
    assert any(re.search(rf"\b{word}", entry["title"] + entry["text"], re.I) for entry in entries)


def missing():
    if importlib.util.find_spec("playwright") is None:
        return "needs the extra `browser`"
    return "" if os.environ.get("CHROMIUM") else "needs CHROMIUM"


in_browser = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def tab():
    with browser.browsers() as launch, browser.serve(SITE) as address:
        chromium = launch()

        def open_tab(name, **options):
            page = chromium.new_page(**options)
            page.failures = []
            page.on(
                "console",
                lambda each: page.failures.append(each.text) if each.type == "error" else None,
            )
            page.on(
                "request",
                lambda each: (
                    each.url.startswith((address, "data:", "blob:"))
                    or page.failures.append(each.url)
                ),
            )
            page.goto(f"{address}/{name}", wait_until="networkidle")
            return page

        yield open_tab


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("name", [name for name in PAGES if name != "404.html"])
def test_page_in_a_browser(name, width, scheme, tab):
    page = tab(name, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.failures == []
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert page.locator(".katex-error").count() == 0
    formulas = page.locator(".arithmatex").count()
    assert page.locator(".arithmatex .katex-html").count() >= formulas
    assert page.evaluate("[...document.images].filter(each => !each.naturalWidth).length") == 0
    page.close()


@in_browser
@pytest.mark.parametrize("word", WORDS.split())
def test_search_finds_the_word(word, tab):
    page = tab("index.html")
    page.keyboard.press("/")
    page.keyboard.type(word)
    page.wait_for_selector(".md-search-result__item")
    page.close()
