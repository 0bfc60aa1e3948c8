"""The papers' experiments: files of the data, short runs that go on, tables of the page."""

import csv
import json

import numpy as np
import pytest
from processes import ROOT, load_example, run_example

pytestmark = pytest.mark.usefixtures("without_xla")

RNG = np.random.default_rng(0)
FOLDER = ROOT / "examples" / "reproduce"


@pytest.fixture(autouse=True)
def modules_beside(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def rows_of(path):
    return list(csv.DictReader(path.open()))


@pytest.fixture
def tables():
    return load_example("reproduce/tables")


# Files of the data.


def sizes(parts):
    return [len(part) for part in parts]


def test_parts_in_an_npz_file(tables, tmp_path):
    arrays = {name: RNG.normal(size=(n, 6)) for name, n in (("train", 9), ("val", 3), ("test", 2))}
    np.savez(tmp_path / "power.npz", **arrays)
    parts = tables.load("power", tmp_path)
    for part, name in zip(parts, ("train", "val", "test"), strict=True):
        assert part.dtype == np.float32
        np.testing.assert_array_equal(part, arrays[name].astype("float32"))


def test_power(tables, tmp_path):
    """Two columns go; noise fills the steps of the others but of the time."""
    x = np.round(RNG.normal(size=(1000, 8)), 1)
    np.save(tmp_path / "data.npy", x)
    train, val, test = tables.load("power", tmp_path)
    assert [part.shape for part in (train, val, test)] == [(810, 6), (90, 6), (100, 6)]
    known = np.concatenate([train, val])
    np.testing.assert_allclose(known.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(known.std(axis=0), 1.0, atol=1e-5)
    values = [len(np.unique(column)) for column in known.T]
    assert max(values[5:]) < 100
    assert min(values[:5]) > 800


def test_miniboone(tables, tmp_path):
    (tmp_path / "miniboone").mkdir()
    x = RNG.normal(3.0, 2.0, size=(1000, 43))
    np.save(tmp_path / "miniboone" / "data.npy", x)
    parts = tables.load("miniboone", tmp_path)
    assert sizes(parts) == [810, 90, 100]
    known, mean, deviation = x[:900], x[:900].mean(axis=0), x[:900].std(axis=0)
    expected = ((x - mean) / deviation).astype("float32")
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-5, atol=1e-6)
    assert len(known) == 900


def test_part_of_miniboone(tables, tmp_path):
    arrays = {name: RNG.normal(size=(n, 43)) for name, n in (("train_head", 50), ("val", 30))}
    np.savez(tmp_path / "miniboone_part.npz", **arrays, test=RNG.normal(size=(7, 43)))
    train, val, test = tables.load("miniboone", tmp_path)
    assert sizes((train, val, test)) == [77, 3, 7]
    np.testing.assert_array_equal(train[50:], arrays["val"][:27].astype("float32"))


def test_hepmass(tables, tmp_path):
    """Signals alone, and no column in which a value comes more than five times."""
    names = ["# label", *(f"f{i}" for i in range(4)), "mass"]
    kept = {}
    for name, rows in (("1000_train.csv", 200), ("1000_test.csv", 50)):
        x = RNG.normal(2.0, 3.0, size=(rows, 6))
        x[:, 0] = RNG.integers(0, 2, size=rows)
        x[:, 2] = RNG.integers(0, 3, size=rows)
        # The columns of the test file are those of the training file and one more.
        columns = range(6) if name == "1000_test.csv" else range(5)
        lines = [",".join(names[i] for i in columns)]
        lines += [",".join(f"{row[i]:.9e}" for i in columns) for row in x]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        kept[name] = x[x[:, 0] == 1.0][:, [1, 3, 4]]
    train, val, test = tables.load("hepmass", tmp_path)
    x = kept["1000_train.csv"]
    mean, deviation = x.mean(axis=0), x.std(axis=0, ddof=1)
    np.testing.assert_allclose(np.concatenate([train, val]), (x - mean) / deviation, atol=1e-5)
    np.testing.assert_allclose(test, (kept["1000_test.csv"] - mean) / deviation, atol=1e-5)
    assert len(val) == len(x) // 10


def test_gas(tables, tmp_path):
    pandas = pytest.importorskip("pandas")
    x = RNG.normal(size=(1000, 4))
    x[:, 1] = x[:, 0] + 0.01 * x[:, 1]
    frame = pandas.DataFrame(x, columns=list("abcd"))
    frame = frame.assign(Meth=0.0, Eth=1.0, Time=2.0)
    frame.to_pickle(tmp_path / "ethylene_CO.pickle")
    parts = tables.load("gas", tmp_path)
    assert [part.shape for part in parts] == [(810, 3), (90, 3), (100, 3)]
    found = np.concatenate(parts)
    expected = (x - x.mean(axis=0)) / x.std(axis=0, ddof=1)
    np.testing.assert_allclose(found, expected[:, 1:], atol=1e-5)


def test_bsds300(tables, tmp_path):
    import h5py

    arrays = {"train": 5, "validation": 3, "test": 2}
    with h5py.File(tmp_path / "BSDS300.hdf5", "w") as file:
        for name, rows in arrays.items():
            arrays[name] = file[name] = RNG.normal(size=(rows, 63)).astype("float32")
    for part, expected in zip(tables.load("bsds300", tmp_path), arrays.values(), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_patches_become_vectors_of_mean_zero(tables):
    levels = RNG.integers(0, 256, size=(20, 64)).astype("uint8")
    x = tables.dequantize(levels, RNG)
    assert x.shape == (20, 63)
    centred = (levels + 0.5) / 256.0
    centred -= centred.mean(axis=1, keepdims=True)
    assert np.max(np.abs(x - centred[:, :63])) < 1.0 / 256.0


def test_mirrored_patches():
    patches = RNG.integers(0, 256, size=(64, 64)).astype("uint8")
    turned = np.asarray(load_example("reproduce/density").mirrored(patches)).reshape(-1, 8, 8)
    images = patches.reshape(-1, 8, 8)
    ways = [images, images[:, ::-1], images[:, :, ::-1], images[:, ::-1, ::-1]]
    is_way = np.stack([(turned == way).all(axis=(1, 2)) for way in ways])
    np.testing.assert_array_equal(is_way.sum(axis=0), 1)
    assert is_way.any(axis=1).all()


@pytest.mark.parametrize("name", ["power", "hepmass"])
def test_files_that_are_not_there(tables, name, tmp_path):
    with pytest.raises(SystemExit, match=rf"Expected in .*, or in its folder {name}: "):
        tables.load(name, tmp_path)


# Short runs.


def patches(folder):
    parts = {name: RNG.integers(0, 256, size=(100, 64)) for name in ("train", "val", "test")}
    np.savez(folder / "bsds300_patches.npz", **{k: v.astype("uint8") for k, v in parts.items()})


def table(folder):
    parts = {name: RNG.normal(size=(200, 6)) for name in ("train", "val", "test")}
    np.savez(folder / "power.npz", **{k: v.astype("float32") for k, v in parts.items()})


def density(name, data, out, *options):
    words = ("--set", name, "--data", data, "--out", out, "--batch-size", 50, "--epochs", 1)
    return run_example("reproduce/density", *words, *options)


def test_gaussian(tmp_path):
    table(tmp_path)
    density("power", tmp_path, tmp_path, "--model", "gaussian")
    (row,) = rows_of(tmp_path / "density.csv")
    with np.load(tmp_path / "power.npz") as arrays:
        train, test = arrays["train"].astype("float64"), arrays["test"].astype("float64")
    centred, covariance = test - train.mean(axis=0), np.cov(train.T)
    distance = (centred @ np.linalg.inv(covariance) * centred).sum(axis=1)
    log_prob = -0.5 * (distance + np.linalg.slogdet(2.0 * np.pi * covariance)[1])
    assert float(row["log_prob"]) == pytest.approx(log_prob.mean(), abs=1e-4)
    assert float(row["error"]) == pytest.approx(2 * log_prob.std(ddof=1) / 200**0.5, abs=1e-4)
    assert row["steps"] == ""


MODELS = ["made", "made-mog", "real-nvp-5", "maf-mog", "maf-residual", "nsf-coupling", "nsf"]


@pytest.mark.parametrize(
    "model",
    [name if name == "made-mog" else pytest.param(name, marks=pytest.mark.long) for name in MODELS],
)
def test_densities(model, tmp_path):
    patches(tmp_path)
    density("bsds300", tmp_path, tmp_path, "--model", model)
    (row,) = rows_of(tmp_path / "density.csv")
    assert np.isfinite(float(row["log_prob"]))
    assert int(row["steps"]) == int(row["planned"]) == 50


def test_a_run_goes_on_where_time_ended_it(tmp_path):
    table(tmp_path)
    run = tmp_path / "density-power-made-0"
    for _ in range(2):
        density("power", tmp_path, tmp_path, "--model", "made", "--minutes", 0)
    density("power", tmp_path, tmp_path, "--model", "made")
    rows = rows_of(tmp_path / "density.csv")
    assert [int(row["steps"]) for row in rows] == [1, 2, 50]
    assert len(rows_of(run / "log.csv")) == 50
    # The weights are those of the least loss of all three.
    losses = [float(row["val_loss"]) for row in rows_of(run / "log.csv")]
    assert float(rows[-1]["validation"]) == pytest.approx(-min(losses), abs=1e-4)
    assert json.loads((run / "clock.json").read_text())["seconds"] > 0.0
    with pytest.raises(SystemExit, match=r"'epochs': 1\.0.*Received: .*'epochs': 2\.0"):
        density("power", tmp_path, tmp_path, "--model", "made", "--epochs", 2)


def test_rows_that_are_no_patches_cannot_be_mirrored(tmp_path, capsys):
    table(tmp_path)
    with pytest.raises(SystemExit):
        density("power", tmp_path, tmp_path, "--model", "made", "--mirror")
    assert "--mirror is for patches, of bsds300_patches.npz. Received: power" in (
        capsys.readouterr().err
    )


def test_a_table_of_other_columns_is_left_alone(tmp_path):
    table(tmp_path)
    results = tmp_path / "density.csv"
    results.write_text("date,set,model\n2026-11-26,power,made\n")
    with pytest.raises(SystemExit, match=r"columns date, set, .*Received, .*: date, set, model\."):
        density("power", tmp_path, tmp_path, "--model", "gaussian")
    assert len(rows_of(results)) == 1


@pytest.fixture
def mnist(tmp_path):
    arrays = {f"x_{name}": RNG.integers(0, 256, size=(n, 28, 28)) for name, n in SPLIT.items()}
    labels = {f"y_{name}": RNG.integers(0, 10, size=n) for name, n in SPLIT.items()}
    np.savez(tmp_path / "mnist.npz", **{k: v.astype("uint8") for k, v in arrays.items()}, **labels)
    return tmp_path / "mnist.npz"


SPLIT = {"train": 10_100, "test": 20}


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "options"),
    [("nice", []), ("maf-5", ["--by-class"]), ("made-mog", ["--by-class"]), ("multiscale", [])],
)
def test_images(model, options, mnist, tmp_path):
    words = ("--model", model, "--data", mnist, "--out", tmp_path, "--minutes", 0, *options)
    run_example("reproduce/images", *words, "--epochs", 1, "--batch-size", 10, "--rows", 100)
    (row,) = rows_of(tmp_path / "images.csv")
    assert np.isfinite(float(row["log_prob"]))
    assert (row["steps"], row["planned"]) == ("1", "50")
    (picture,) = tmp_path.glob("images-*/samples.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_simulators():
    example = load_example("reproduce/sbi")
    rng = np.random.default_rng(0)
    for task, (size, half_width, _) in example.TASKS.items():
        theta, x = example.simulate(task, 4000, rng)
        assert theta.shape == (4000, size)
        assert x.shape == (4000, 8 if task == "slcp" else size)
        if half_width is not None:
            assert np.max(np.abs(theta)) <= half_width
            assert np.max(np.abs(theta)) > 0.99 * half_width
    theta = np.tile([0.3, -0.7, 1.1, 0.8, 0.5], (20_000, 1))
    points = example.slcp(theta, rng).reshape(-1, 2)
    np.testing.assert_allclose(points.mean(axis=0), [0.3, -0.7], atol=0.02)
    np.testing.assert_allclose(points.std(axis=0), [1.21, 0.64], atol=0.02)
    assert np.corrcoef(points.T)[0, 1] == pytest.approx(np.tanh(0.5), abs=0.02)


@pytest.mark.long
def test_posteriors(tmp_path):
    arrays = {"observation": RNG.normal(size=(2, 2)), "posterior": RNG.normal(size=(2, 200, 2))}
    arrays = {f"two_moons_{name}": x.astype("float32") for name, x in arrays.items()}
    np.savez(tmp_path / "sbi.npz", **arrays)
    words = ("--task", "two_moons", "--simulations", 500, "--data", tmp_path / "sbi.npz")
    run_example("reproduce/sbi", *words, "--epochs", 1, "--rows", 100, "--out", tmp_path)
    (row,) = rows_of(tmp_path / "sbi.csv")
    assert row["network"] in ("wide", "narrow")
    assert 0.5 < float(row["c2st"]) <= 1.0


# The page.


def test_the_page_has_the_results():
    """`python examples/reproduce/page.py` writes its tables."""
    page = (ROOT / "docs" / "results.md").read_text()
    assert load_example("reproduce/page").with_tables(page) == page


def test_a_run_that_went_on_counts_once(tmp_path, monkeypatch):
    page = load_example("reproduce/page")
    monkeypatch.setattr(page, "DOCS", tmp_path)
    (tmp_path / "results").mkdir()
    columns = "set,model,seed,parameters,batch_size,steps,planned,minutes,log_prob,error"
    lines = [
        "power,maf-5,0,5000,1000,10,50,1.4,-0.5,0.02",
        "power,maf-5,0,5000,1000,50,50,7.6,0.1,0.01",
        "power,nsf,0,7000,500,25,50,90.0,0.61,0.01",
        "bsds300,nsf-mirrored,0,9000,250,50,50,60.0,156.7,0.44",
    ]
    (tmp_path / "results" / "density.csv").write_text("\n".join([columns, *lines]) + "\n")
    text = page.with_tables((ROOT / "docs" / "results.md").read_text())
    assert "| MAF (5) | 0.14 | 0.10 ± 0.01 | 5,000 | 50 × 1000 | 8 |" in text
    assert "| 0.66 | 0.61 ± 0.01 | 7,000 | 25 × 500 (50 % of the plan) | 90 |" in text
    assert "| MADE | −3.08 | – | – | – | – |" in text
    own = "| RQ-NSF, autoregressive | 157.31 | – | – | – | – |"
    mirrored = "| … mirrored patches | 157.31 | 156.70 ± 0.44 | 9,000 | 50 × 250 | 60 |"
    assert f"{own}\n{mirrored}\n" in text
    assert text.count("mirrored patches") == 1
