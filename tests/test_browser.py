"""Exported models in a browser; tests/browser.py tells what these tests need."""

import subprocess

import browser
import numpy as np
import pytest
from browser import BACKENDS, FLOWS, POINTS, SIGNATURES, expected, open_page, run

import keras_nf

MISSING = browser.missing()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]
# What flow.js and index.html have.
LIMIT, CELLS, SAMPLES, SIZE = 3.5, 160, 500, 480


@pytest.fixture(scope="module")
def launch():
    with browser.browsers() as launch:
        yield launch


@pytest.fixture(scope="module")
def chromium(launch):
    return launch()


@pytest.fixture(scope="module", params=FLOWS)
def site(request, tmp_path_factory):
    """A model, its folder, and the address at which the page shows it."""
    folder = tmp_path_factory.mktemp("site")
    model = browser.make(request.param)
    browser.write_site(model, folder)
    with browser.serve(folder) as address:
        yield model, folder, address


@pytest.fixture(scope="module")
def page(site, chromium):
    page, status = open_page(chromium, site[2])
    assert status == f"{SAMPLES} samples over the density (webgl)"
    yield page
    page.close()


@pytest.fixture(scope="module")
def pixels(page):
    """The picture as (rows, columns, red-green-blue), and how much of a pixel samples cover."""
    data = page.evaluate(
        """() => {
          const { width, height } = document.getElementById("canvas");
          const context = document.getElementById("canvas").getContext("2d");
          return Array.from(context.getImageData(0, 0, width, height).data);
        }"""
    )
    colors = np.array(data).reshape(SIZE, SIZE, 4)[..., :3]
    # The density is drawn in colors with all of blue, samples in one with 43 of 255.
    return colors, (255 - colors[..., 2]) / (255 - 43)


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_answers_are_those_of_the_model(backend, signature, site, page):
    result = run(page, backend, signature, POINTS)
    answer = expected(site[0], signature, POINTS)
    # Graphics cards, and what stands in for them, round exp and log at more than one place.
    np.testing.assert_allclose(result, answer, rtol=1e-5, atol=1e-5)


def test_picture_is_that_of_the_density(site, pixels):
    colors, coverage = pixels
    at = ((np.arange(CELLS) + 0.5) / CELLS * 2 - 1) * LIMIT
    cells = np.stack(np.meshgrid(at, -at), axis=-1).reshape(-1, 2).astype("float32")
    log_prob = expected(site[0], "log_prob", cells).reshape(CELLS, CELLS)
    shade = 255 * (1 - np.exp(log_prob - log_prob.max()))
    assert shade.min() < 1
    assert np.mean(shade < 200) > 0.01
    # A cell is 3 x 3 pixels, of which interpolation leaves the one in the middle as it is.
    free = coverage[1::3, 1::3] == 0
    assert free.mean() > 0.9
    np.testing.assert_allclose(colors[1::3, 1::3, 0][free], shade[free], atol=3)


def test_samples_are_those_of_the_model(site, pixels):
    _, coverage = pixels
    draws = site[0].sample(20_000, seed=(0, 1)).numpy()
    inside = np.all(np.abs(draws) < LIMIT, axis=1)
    draws, count = draws[inside], SAMPLES * inside.mean()
    # Four pixels each, unless they overlap.
    assert 0.7 < coverage.sum() / (4 * count) < 1.1
    row, column = np.nonzero(coverage)
    shown = np.stack([column + 0.5, SIZE - row - 0.5], axis=1) * 2 * LIMIT / SIZE - LIMIT
    weights = coverage[row, column]
    mean = np.average(shown, axis=0, weights=weights)
    deviation = np.sqrt(np.average((shown - mean) ** 2, axis=0, weights=weights))
    # Five standard errors, and a little for samples that hide others.
    tolerance = 5 * draws.std(axis=0) / np.sqrt(count) + 0.05
    assert np.all(np.abs(mean - draws.mean(axis=0)) < tolerance)
    np.testing.assert_allclose(deviation, draws.std(axis=0), rtol=0.25)


def test_page_without_webgl(site, launch):
    chromium = launch("--disable-gpu", "--use-gl=disabled", "--disable-software-rasterizer")
    _, status = open_page(chromium, site[2])
    chromium.close()
    assert status == f"{SAMPLES} samples over the density (cpu)"


def test_random_numbers_are_what_the_converter_lacks(tmp_path):
    # docs/deploy.md says so; where this fails, the page can draw its samples by `sample`.
    keras_nf.export_saved_model(browser.make("MAF"), tmp_path / "saved_model")
    with pytest.raises(subprocess.CalledProcessError) as error:
        browser.convert(tmp_path / "saved_model", "sample", tmp_path / "model")
    assert "StatelessRandomGetKeyCounter" in error.value.stderr
