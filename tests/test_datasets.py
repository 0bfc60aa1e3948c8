"""Sets of points in the plane, against the facts that their formulas give."""

import numpy as np
import pytest

from keras_nf import datasets

SETS = [
    datasets.two_moons,
    datasets.rings,
    datasets.spirals,
    datasets.checkerboard,
    datasets.pinwheel,
    datasets.eight_gaussians,
]
N = 40_000
# Five standard errors.
FIVE = 5.0 / np.sqrt(N)


def shares(group, groups):
    """Shares of the groups, which are to be equal."""
    counts = np.bincount(group, minlength=groups)
    assert len(counts) == groups
    return pytest.approx(np.full(groups, 1.0 / groups), abs=0.5 * FIVE), counts / len(group)


def complex_points(x):
    return x[:, 0].astype(complex) + 1j * x[:, 1]


@pytest.mark.parametrize("n", [0, 1, 7, 1000, np.int64(3)])
@pytest.mark.parametrize("draw", SETS)
def test_numbers_and_dtype(draw, n):
    x = draw(n, seed=0)
    assert x.shape == (n, 2)
    assert x.dtype == "float32"


@pytest.mark.parametrize("draw", SETS)
def test_seeds(draw):
    first = draw(100, seed=1)
    np.testing.assert_array_equal(draw(100, seed=1), first)
    np.testing.assert_array_equal(draw(100, seed=np.random.default_rng(1)), first)
    assert not np.any(np.all(draw(100, seed=2) == first, axis=1))
    assert not np.any(np.all(draw(100) == draw(100), axis=1))
    generator = np.random.default_rng(1)
    draw(100, seed=generator)
    assert not np.any(np.all(draw(100, seed=generator) == first, axis=1))


@pytest.mark.parametrize("draw", SETS)
def test_numpys_own_seed_is_left_alone(draw):
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    draw(10, seed=3)
    assert np.random.random() == expected


@pytest.mark.parametrize("n", [-1, 2.0, "3", True, None, (3, 2)])
@pytest.mark.parametrize("draw", SETS)
def test_numbers_that_are_none(draw, n):
    with pytest.raises(ValueError, match="`n`, the number of points, must be an integer of at"):
        draw(n)


@pytest.mark.parametrize("draw", SETS)
def test_centre_and_extent(draw):
    x = draw(N, seed=0)
    np.testing.assert_allclose(x.mean(axis=0), 0.0, atol=3.0 * FIVE)
    assert np.quantile(np.abs(x), 0.999) < 4.0
    assert np.abs(x).max() > 2.5
    # Neighbours in the array have nothing to do with each other.
    assert np.abs(np.corrcoef(x[1:, 0], x[:-1, 0])[0, 1]) < FIVE


def test_moons():
    x = datasets.two_moons(N, seed=0) / 2.0 + [0.5, 0.25]
    upper, lower = np.hypot(*x.T), np.hypot(*(x - [1.0, 0.5]).T)
    radius = np.minimum(np.abs(upper - 1.0), np.abs(lower - 1.0))
    assert np.quantile(radius, 0.99) < 0.3
    # In each direction the variance is that of the shape and that of the noise, by integrals
    # over half a circle: E cos^2 = 1/2, and the halves are 1 and 4/pi - 1/2 apart.
    across = 0.5 + 0.25 + 0.01
    up = 0.5 - (2.0 / np.pi) ** 2 + 0.25 * (4.0 / np.pi - 0.5) ** 2 + 0.01
    np.testing.assert_allclose(x.var(axis=0), [across, up], rtol=2.0 * FIVE)
    np.testing.assert_allclose(x.mean(axis=0), [0.5, 0.25], atol=FIVE)


def test_rings():
    x = datasets.rings(N, seed=0)
    radius = np.hypot(*x.T)
    ring = np.clip(np.round(radius / 0.75), 1, 4)
    expected, measured = shares(ring.astype(int) - 1, 4)
    assert measured == expected
    # Noise across a circle moves radii out by 0.08^2 / 2r besides.
    off = radius - 0.75 * ring
    assert off.std() == pytest.approx(0.08, rel=0.03)
    for r in (1, 2, 3, 4):
        outwards = 0.08**2 / (2.0 * 0.75 * r)
        assert off[ring == r].mean() == pytest.approx(outwards, abs=0.16 * FIVE)
    expected, measured = shares(
        ((np.angle(complex_points(x)) + np.pi) / (np.pi / 4)).astype(int), 8
    )
    assert measured == expected


def test_spirals():
    x = datasets.spirals(N, seed=0)
    radius = np.hypot(*x.T)
    # The radius of an arm is pi sqrt(u): its square is uniform in [0, pi^2].
    assert np.mean(radius**2) == pytest.approx(np.pi**2 / 2.0 + 0.02, rel=FIVE)
    # Turned back by its angle, three times its radius, one arm is the line of negative numbers and
    # the other one that of positive numbers.
    arms = (complex_points(x) * np.exp(3.0j * radius))[radius > 1.0]
    assert np.mean(arms.real > 0.0) == pytest.approx(0.5, abs=FIVE)
    # Noise along the radius turns by 0.3, noise across it by 0.1 / r.
    angle = np.angle(arms * np.sign(arms.real))
    across = 0.1**2 * np.log(np.pi**2) / (np.pi**2 - 1.0)
    assert angle.std() == pytest.approx(np.hypot(0.3, np.sqrt(across)), rel=0.03)


def test_checkerboard():
    x = datasets.checkerboard(N, seed=0)
    assert np.all(np.abs(x) <= 4.0)
    cell = np.floor(x / 2.0).astype(int)
    assert np.all(cell.sum(axis=1) % 2 == 0)
    expected, measured = shares(2 * (cell[:, 0] + 2) + (cell[:, 1] + 2) // 2, 8)
    assert measured == expected
    inside = x / 2.0 - cell
    np.testing.assert_allclose(inside.mean(axis=0), 0.5, atol=0.3 * FIVE)
    np.testing.assert_allclose(inside.var(axis=0), 1.0 / 12.0, rtol=FIVE)


def test_pinwheel():
    x = complex_points(datasets.pinwheel(N, seed=0)) / 2.0
    # Radii are those of two independent normal numbers.
    assert np.mean(np.abs(x) ** 2) == pytest.approx(1.0 + 0.3**2 + 0.1**2, rel=FIVE)
    # Turned back, the fifth power lays the blades over each other, at angle zero.
    blades = x * np.exp(0.25j * np.exp(np.abs(x)))
    angle = np.angle(blades**5) / 5.0
    far = np.abs(x) > 0.7
    assert np.mean(angle[far]) == pytest.approx(0.0, abs=0.02)
    assert np.std(angle[far] * np.abs(x)[far]) < 0.13
    expected, measured = shares(np.round(np.angle(blades) / (2.0 * np.pi / 5.0)).astype(int) % 5, 5)
    assert measured == expected


def test_gaussians():
    x = complex_points(datasets.eight_gaussians(N, seed=0)) * np.sqrt(2.0) / 4.0
    eighth = np.round(np.angle(x) / (np.pi / 4.0)).astype(int)
    expected, measured = shares(eighth % 8, 8)
    assert measured == expected
    noise = x - np.exp(0.25j * np.pi * eighth)
    # Centres are eight deviations of the noise from the origin, their neighbours six.
    assert np.std(noise.real) == pytest.approx(0.125, rel=0.02)
    assert np.std(noise.imag) == pytest.approx(0.125, rel=0.02)
