"""Tables: round trips of every kind of column, likelihoods against closed forms, errors, files."""

import itertools
import json
import sys

import keras
import numpy as np
import pandas as pd
import pytest
from processes import load_example
from scipy import stats

import keras_nf
from keras_nf.tables import TablePreparation

pytestmark = pytest.mark.usefixtures("without_xla")

ROWS = 400
RNG = np.random.default_rng(0)
GAPS = RNG.random(ROWS) < 0.2
NORMAL, LETTERS = RNG.normal(size=ROWS), RNG.choice(["a", "b", "c"], ROWS)
DIGITS = RNG.integers(0, 9, ROWS)
LEVELS = pd.CategoricalDtype(["low", "high", "never"], ordered=True)
CENTS = np.round(RNG.gamma(2.0, size=ROWS), 2)
KEYS = [f"{letter}{digit}" for letter in "abcdefgh" for digit in range(5)]


def with_gaps(values, dtype, gap=None):
    return pd.Series(np.where(GAPS, gap, np.asarray(values, object)), dtype=dtype)


# A column, arguments of the preparation, and the number of its components.
COLUMNS = {
    "int8": (DIGITS.astype("int8") - 5, {}, 1),
    "uint16": (DIGITS.astype("uint16"), {"bounds": {"column": (0, None)}}, 1),
    "int64": (DIGITS * 1000, {"bounds": {"column": (0, 8000)}}, 1),
    "int as grades": (DIGITS, {"categorical": {"column": "ordinal"}}, 1),
    "float as grades": (DIGITS / 2.0, {"categorical": {"column": "one_hot"}}, 9),
    "float gap as grades": (
        np.where(GAPS, np.nan, DIGITS),
        {"categorical": {"column": "ordinal"}},
        1,
    ),
    "cents": (CENTS, {"steps": {"column": 0.01}}, 1),
    "float32 cents": (CENTS.astype("float32"), {"steps": {"column": 0.01}}, 1),
    "ordinal cents": (
        CENTS.astype("float32"),
        {"steps": {"column": 0.01}, "categorical": {"column": "ordinal"}},
        1,
    ),
    "ordinal gap": (
        np.where(GAPS, np.nan, CENTS),
        {
            "steps": {"column": 0.01},
            "categorical": {"column": "ordinal"},
            "bounds": {"column": (0, None)},
        },
        1,
    ),
    "cents between": (CENTS, {"steps": {"column": 0.01}, "bounds": {"column": (0, 20)}}, 1),
    "eighths": (DIGITS / 8.0, {"steps": {"column": 0.125}}, 1),
    "thirds": (DIGITS * (1.0 / 3.0), {"steps": {"column": 1.0 / 3.0}}, 1),
    "cents gap": (np.where(GAPS, np.nan, CENTS), {"steps": {"column": 0.01}}, 2),
    "bool": (NORMAL > 0.5, {}, 1),
    "object strings": (LETTERS.astype(object), {}, 1),
    "many strings": (RNG.choice(KEYS, ROWS).astype(object), {"categorical": "one_hot"}, 40),
    "object None": (np.where(GAPS, None, LETTERS.astype(object)), {}, 1),
    "object NaN": (np.where(GAPS, np.nan, LETTERS.astype(object)), {"categorical": "one_hot"}, 4),
    "object NA": (np.where(GAPS, pd.NA, LETTERS.astype(object)), {}, 1),
    "object bool": (np.where(GAPS, None, (NORMAL > 0.0).astype(object)), {}, 1),
    "Int64": (with_gaps(DIGITS, "Int64", pd.NA), {}, 2),
    "UInt8": (pd.Series(DIGITS, dtype="UInt8"), {}, 1),
    "boolean": (with_gaps(NORMAL > 0.0, "boolean", pd.NA), {}, 1),
    "string": (with_gaps(LETTERS, "string", pd.NA), {}, 1),
    "string python": (with_gaps(LETTERS, "string[python]", pd.NA), {"categorical": "one_hot"}, 4),
    "category": (pd.Series(np.where(NORMAL > 0.0, "low", "high"), dtype=LEVELS), {}, 1),
    "category gap": (with_gaps(np.where(NORMAL > 0, "low", "high"), LEVELS), {}, 1),
    "category one-hot": (pd.Series(LETTERS, dtype="category"), {"categorical": "one_hot"}, 3),
    "category of numbers": (pd.Series(pd.Categorical(DIGITS, list(range(9))[::-1])), {}, 1),
    "constant": (np.full(ROWS, 7, "int16"), {"constant": "drop"}, 0),
    "constant string": (np.full(ROWS, "a", object), {"constant": "drop"}, 0),
    "nothing": (np.full(ROWS, np.nan), {"constant": "drop"}, 0),
}
# Numbers without a step, which come back as close as float32 holds them.
NUMBERS = {
    "float32": (NORMAL.astype("float32"), {}, 1),
    "float64": (1e9 + 1e3 * NORMAL, {}, 1),
    "float16": (NORMAL.astype("float16"), {}, 1),
    "gap": (np.where(GAPS, np.nan, NORMAL), {}, 2),
    "positive": (np.exp(3.0 * NORMAL), {"bounds": {"column": (0, None)}}, 1),
    "below": (4.0 - np.exp(NORMAL), {"bounds": {"column": (None, 4)}}, 1),
    "between": (2.0 + np.tanh(NORMAL), {"bounds": {"column": (1, 3)}}, 1),
    "between gap": (np.where(GAPS, np.nan, np.tanh(NORMAL)), {"bounds": {"column": (-1, 1)}}, 2),
    "Float64": (with_gaps(NORMAL, "Float64", pd.NA), {}, 2),
    "Float32": (pd.Series(NORMAL, dtype="Float32"), {"bounds": {"column": (-9, 9)}}, 1),
}


def frame_of(column):
    column = pd.Series(column, dtype=getattr(column, "dtype", None))
    return pd.DataFrame({"other": NORMAL[::-1], "column": column})


def round_trip(column, options):
    frame = frame_of(column)
    preparation = TablePreparation(**options).fit(frame)
    z = preparation.transform(frame, seed=1)
    assert z.dtype == "float32"
    assert np.isfinite(z).all()
    assert np.isfinite(preparation.log_det(z)).all()
    assert z.shape == (ROWS, preparation.event_size)
    return frame, preparation.event_size - 1, preparation.inverse_transform(z)


@pytest.mark.parametrize(("column", "options", "size"), COLUMNS.values(), ids=COLUMNS)
def test_round_trip_is_exact(column, options, size):
    frame, components, back = round_trip(column, options)
    assert components == size
    pd.testing.assert_series_equal(back["column"], frame["column"], check_exact=True)


@pytest.mark.parametrize(("column", "options", "size"), NUMBERS.values(), ids=NUMBERS)
def test_round_trip_of_numbers(column, options, size):
    frame, components, back = round_trip(column, options)
    assert components == size
    scale = float(np.nanstd(frame["column"].astype("float64")))
    tolerance = {"rtol": 1e-6, "atol": 1e-6 * scale}
    pd.testing.assert_series_equal(back["column"], frame["column"], **tolerance)


@pytest.mark.parametrize("strings", ["<U1", object])
@pytest.mark.parametrize("holder", ["dict", "structured"])
def test_tables_of_numpy(holder, strings, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    table = {"number": NORMAL, "count": DIGITS, "letter": LETTERS.astype(strings)}
    if holder == "structured":
        rows = np.empty(ROWS, [(name, column.dtype) for name, column in table.items()])
        for name, column in table.items():
            rows[name] = column
        table = rows
    preparation = TablePreparation().fit(table)
    back = preparation.inverse_transform(preparation.transform(table, seed=0))
    assert type(back) is type(table)
    for name in ("number", "count", "letter"):
        assert back[name].dtype == table[name].dtype
    np.testing.assert_allclose(back["number"], NORMAL, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(back["count"], DIGITS)
    np.testing.assert_array_equal(back["letter"], LETTERS)


def test_pandas_is_asked_for_by_name(monkeypatch):
    preparation = TablePreparation().fit(frame_of(NORMAL))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pandas"):
        preparation.inverse_transform(np.zeros((3, 2)))


def mixed_table():
    return pd.DataFrame(
        {
            "number": NORMAL,
            "size": np.where(GAPS, np.nan, CENTS + 0.01),
            "count": DIGITS,
            "letter": pd.Series(LETTERS, dtype="category"),
            "grade": with_gaps(np.where(NORMAL > 0, "low", "high"), LEVELS),
            "unit": "cm",
        }
    )


def mixed_preparation():
    return TablePreparation(
        categorical={"letter": "one_hot"},
        steps={"size": 0.01},
        bounds={"size": (0, None), "count": (0, 8)},
        constant="drop",
    )


def test_components_have_names():
    preparation = mixed_preparation().fit(mixed_table())
    letters = ["letter=a", "letter=b", "letter=c"]
    assert preparation.components == ["number", "size missing", "size", "count", *letters, "grade"]
    assert not preparation.is_exact
    assert TablePreparation().fit(frame_of(np.exp(NORMAL))).is_exact


def test_noise_is_that_of_the_seed():
    frame = mixed_table()
    preparation = mixed_preparation().fit(frame)
    z = preparation.transform(frame, seed=3)
    np.testing.assert_array_equal(z, preparation.transform(frame, seed=3))
    draws = [preparation.transform(frame, seed=np.random.default_rng(3)) for _ in range(2)]
    np.testing.assert_array_equal(*draws)
    other = preparation.transform(frame, seed=4)
    # Numbers without a step have none.
    assert [(z != other).mean(axis=0)[i] > 0.1 for i in range(z.shape[1])] == [False] + [True] * 7


def test_noise_is_not_that_of_a_table_of_the_same_seed():
    letters = np.random.default_rng(5).choice(["a", "b", "c"], 2000)
    z = TablePreparation().fit({"x": letters}).transform({"x": letters}, seed=5)
    assert stats.kstest(z[:, 0], "norm").pvalue > 1e-3


def test_columns_may_come_in_another_order():
    frame = mixed_table()
    preparation = mixed_preparation().fit(frame)
    expected = preparation.transform(frame, seed=3)
    np.testing.assert_array_equal(
        preparation.transform(frame[frame.columns[::-1]], seed=3), expected
    )


def test_samples_of_any_point_are_rows():
    frame = mixed_table()
    preparation = mixed_preparation().fit(frame)
    z = 3.0 * np.random.default_rng(0).normal(size=(1000, preparation.event_size))
    samples = preparation.inverse_transform(z)
    assert samples.dtypes.equals(frame.dtypes)
    assert samples["count"].between(0, 8).all()
    assert (samples["size"].dropna() >= 0.0).all()
    assert samples["grade"].isna().any()
    assert (samples["unit"] == "cm").all()
    assert (samples["letter"].cat.categories == ["a", "b", "c"]).all()
    # What is drawn is a row of the table: it goes through once more.
    samples["size"] = samples["size"].fillna(1.0)
    again = preparation.inverse_transform(preparation.transform(samples, seed=0))
    pd.testing.assert_frame_equal(again, samples, rtol=1e-5, atol=1e-5)


def test_integers_stay_within_their_dtype():
    preparation = TablePreparation().fit({"count": np.array([0, 100, 255], "uint8")})
    back = preparation.inverse_transform(np.array([[-9.0], [9.0]]))
    assert back["count"].tolist() == [0, 255]


# Likelihoods.


def log_normal(z, mean=0.0):
    return stats.norm.logpdf(z, loc=mean).sum(axis=1)


def probability(preparation, table, log_prob, draws):
    """Estimate the probability of the row of a table, and the bound of its logarithm."""
    table = {name: np.repeat(np.asarray(value), draws) for name, value in table.items()}
    z = preparation.transform(table, seed=0)
    values = log_prob(z) + preparation.log_det(z)
    return np.exp(values).mean(), values.mean()


@pytest.mark.parametrize(
    ("column", "options"),
    [(column, options) for column, options, size in NUMBERS.values() if size == 1],
    ids=[name for name, row in NUMBERS.items() if row[2] == 1],
)
def test_log_det_of_numbers_is_the_derivative(column, options):
    x = np.asarray(column, "float64")
    preparation = TablePreparation(**options).fit({"column": x})
    assert preparation.is_exact
    z = np.linspace(-1.5, 1.5, 7)[:, None]
    h = 1e-3
    ends = [preparation.inverse_transform(z + sign * h)["column"] for sign in (1.0, -1.0)]
    slope = (ends[0] - ends[1]) / (2.0 * h)
    np.testing.assert_allclose(preparation.log_det(z), -np.log(slope), atol=1e-5)


def test_density_of_bounded_numbers_integrates_to_one():
    x = np.tanh(NORMAL)
    preparation = TablePreparation(bounds={"x": (-1, 1)}).fit({"x": x})
    points = np.linspace(-1.0, 1.0, 20_001)[1:-1]
    z = preparation.transform({"x": points})
    density = np.exp(log_normal(z) + preparation.log_det(z))
    np.testing.assert_allclose(np.trapezoid(density, points), 1.0, atol=1e-4)


@pytest.mark.parametrize("encoding", ["ordinal", "one_hot"])
def test_normal_latents_have_the_shares_of_the_categories(encoding):
    table = {"letter": LETTERS, "is_high": NORMAL > 0.5}
    preparation = TablePreparation(categorical=encoding).fit(table)
    total = 0.0
    for letter, is_high in itertools.product("abc", [False, True]):
        share = (letter == LETTERS).mean() * ((NORMAL > 0.5) == is_high).mean()
        row = {"letter": [letter], "is_high": [is_high]}
        estimate, bound = probability(preparation, row, log_normal, 50)
        # Each draw gives the same, so that the bound is met.
        np.testing.assert_allclose([estimate, np.exp(bound)], share, rtol=1e-5)
        total += estimate
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)


@pytest.mark.parametrize("encoding", ["ordinal", "one_hot"])
def test_probabilities_of_a_dependent_table_sum_to_one(encoding):
    table = {"letter": LETTERS, "is_high": NORMAL > 0.5}
    preparation = TablePreparation(categorical=encoding).fit(table)
    size = preparation.event_size
    # Of a variance below 2 in each direction, for a finite one of the estimate.
    covariance = 0.85 * np.eye(size) + 0.15
    density = stats.multivariate_normal(np.full(size, 0.3), covariance)
    draws = preparation.inverse_transform(density.rvs(200_000, random_state=0))
    total = 0.0
    for letter, is_high in itertools.product("abc", [False, True]):
        row = {"letter": [letter], "is_high": [is_high]}
        estimate, bound = probability(preparation, row, density.logpdf, 20_000)
        share = ((draws["letter"] == letter) & (draws["is_high"] == is_high)).mean()
        np.testing.assert_allclose(estimate, share, atol=0.006)
        assert bound < np.log(estimate)
        total += estimate
    np.testing.assert_allclose(total, 1.0, atol=0.02)


def test_multiples_of_a_step_have_their_shares():
    x = np.array([0.0, 0.2, 0.2, 0.8, np.nan])
    preparation = TablePreparation(
        categorical={"x": "ordinal"}, steps={"x": 0.2}, bounds={"x": (0, 1.2)}
    ).fit({"x": x})
    # Those between that do not occur count once: 0.4, 0.6, 1.0 and 1.2.
    for value, count in zip([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2], [1, 2, 1, 1, 1, 1, 1]):
        estimate, bound = probability(preparation, {"x": [value]}, log_normal, 5)
        np.testing.assert_allclose([estimate, np.exp(bound)], count / 9 / 0.2, rtol=1e-5)
    estimate, _ = probability(preparation, {"x": [np.nan]}, log_normal, 5)
    np.testing.assert_allclose(estimate, 1 / 9, rtol=1e-5)
    with pytest.raises(ValueError, match=r"'x' has values that were not there in `fit`: \[1.4\]"):
        preparation.transform({"x": [0.2, 1.4]})


@pytest.mark.parametrize("step", [1.0, 0.25])
@pytest.mark.parametrize("high", [None, 8])
def test_rounded_numbers_have_the_integral_over_their_bin(step, high):
    x = step * DIGITS
    ends = None if high is None else step * high
    bounds = {} if high is None else {"x": (0, ends)}
    preparation = TablePreparation(steps={"x": step}, bounds=bounds).fit({"x": x})
    places = step * np.arange(-60 if high is None else 0, 60 if high is None else 9)
    total = 0.0
    for place in places:
        estimate, bound = probability(preparation, {"x": [place]}, log_normal, 2000)
        assert bound <= np.log(estimate)
        total += step * estimate
        if high is None:
            sides = (place + step * np.array([-0.5, 0.5]) - x.mean()) / x.std()
            exact = np.diff(stats.norm.cdf(sides))[0]
            if exact > 1e-3:
                np.testing.assert_allclose(step * estimate, exact, rtol=0.02)
    np.testing.assert_allclose(total, 1.0, atol=0.02)


def test_gaps_have_their_share_and_numbers_the_rest():
    preparation = TablePreparation().fit({"x": np.where(GAPS, np.nan, NORMAL)})
    estimate, _ = probability(preparation, {"x": [np.nan]}, log_normal, 50)
    np.testing.assert_allclose(estimate, GAPS.mean(), rtol=1e-5)
    x = NORMAL[~GAPS]
    estimate, _ = probability(preparation, {"x": [0.7]}, log_normal, 50)
    density = (1.0 - GAPS.mean()) * stats.norm.pdf(0.7, x.mean(), x.std())
    np.testing.assert_allclose(estimate, density, rtol=1e-5)


def test_gaps_have_their_probability_under_another_density():
    preparation = TablePreparation().fit({"x": np.where(GAPS, np.nan, NORMAL)})
    estimate, bound = probability(
        preparation, {"x": [np.nan]}, lambda z: log_normal(z, [0.5, 0.3]), 20_000
    )
    edge = stats.norm.ppf(1.0 - GAPS.mean())
    np.testing.assert_allclose(estimate, stats.norm.sf(edge, loc=0.5), rtol=0.02)
    assert bound < np.log(estimate)


def test_one_hot_latents_are_normal():
    shares = np.array([0.7, 0.25, 0.05])
    letters = np.random.default_rng(0).choice(list("abc"), 50_000, p=shares)
    preparation = TablePreparation(categorical="one_hot").fit({"letter": letters})
    z = preparation.transform({"letter": letters}, seed=1)
    for component in z.T:
        assert stats.kstest(component, "norm").pvalue > 1e-3
    np.testing.assert_allclose(np.corrcoef(z.T), np.eye(3), atol=0.02)
    rows = np.random.default_rng(2).normal(size=(50_000, 3))
    drawn = preparation.inverse_transform(rows)["letter"]
    np.testing.assert_allclose([(drawn == k).mean() for k in "abc"], shares, atol=0.01)


@pytest.mark.parametrize("encoding", ["ordinal", "one_hot"])
def test_rare_categories_come_back(encoding):
    letters = np.full(200_000, "a")
    letters[7], letters[-7] = "b", "c"
    table = {"letter": letters}
    preparation = TablePreparation(categorical=encoding).fit(table)
    for seed in range(3):
        back = preparation.inverse_transform(preparation.transform(table, seed=seed))
        np.testing.assert_array_equal(back["letter"], letters)


def test_flow_model_trains_on_a_table(tmp_path):
    frame = mixed_table()
    preparation = mixed_preparation().fit(frame)
    z = preparation.transform(frame, seed=0)
    keras.utils.set_random_seed(0)
    model = keras_nf.FlowModel(
        keras_nf.real_nvp(event_size=preparation.event_size, layers=2, hidden_units=(16,))
    )
    model.compile(keras.optimizers.Adam(1e-2))
    losses = model.fit(z, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    values = model.log_prob(z) + preparation.log_det(z)
    assert values.shape == (ROWS,)
    assert np.isfinite(values).all()
    samples = preparation.inverse_transform(model.sample(50, seed=0))
    assert samples.dtypes.equals(frame.dtypes)


# Files.


@pytest.mark.parametrize("way", ["file", "config", "keras"])
def test_files_and_configs_hold_all(way, tmp_path):
    frame = mixed_table()
    preparation = mixed_preparation().fit(frame)
    if way == "file":
        preparation.save(tmp_path / "table.json")
        other = TablePreparation.load(tmp_path / "table.json")
    elif way == "config":
        other = TablePreparation.from_config(json.loads(json.dumps(preparation.get_config())))
    else:
        held = json.dumps(keras.saving.serialize_keras_object(preparation))
        other = keras.saving.deserialize_keras_object(json.loads(held))
    z = preparation.transform(frame, seed=1)
    np.testing.assert_array_equal(other.transform(frame, seed=1), z)
    np.testing.assert_array_equal(other.log_det(z), preparation.log_det(z))
    pd.testing.assert_frame_equal(other.inverse_transform(z), preparation.inverse_transform(z))
    assert other.get_config() == preparation.get_config()


def test_a_config_before_fit_is_fitted_later():
    preparation = TablePreparation.from_config(mixed_preparation().get_config())
    frame = mixed_table()
    z = preparation.fit(frame).transform(frame, seed=1)
    np.testing.assert_array_equal(z, mixed_preparation().fit(frame).transform(frame, seed=1))


@pytest.mark.parametrize("text", ["[]", '{"class_name": "Other", "config": {}}'])
def test_other_files_are_refused(text, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"table.json' holds no TablePreparation"):
        TablePreparation.load(path)


# Errors.

TIMES = pd.date_range("2020-01-01", periods=3)

REFUSED_BY_FIT = {
    "constant": ({"a": [1.0, 1.0, 1.0]}, {}, "Column 'a' is constant, 1.0 .*Drop it"),
    "constant label": ({"a": ["x"] * 3}, {}, "Column 'a' is constant, 'x' .*constant='drop'"),
    "constant and gaps": ({"a": [1.0, np.nan, 1.0]}, {}, "Column 'a' is 1.0 where it is not miss"),
    "nothing else": ({"a": [1, 1, 1]}, {"constant": "drop"}, "All columns are constant"),
    "infinite": ({"a": [1.0, np.inf, 0.0]}, {}, "Column 'a' has infinite values"),
    "identifiers": ({"a": [1, 2**60, 3]}, {}, "Column 'a' has integers of 2"),
    "times": (pd.DataFrame({"a": TIMES}), {}, "Column 'a' has the dtype datetime64.*to days"),
    "zones": (pd.DataFrame({"a": TIMES.tz_localize("UTC")}), {}, "dtype datetime64.*UTC"),
    "periods": (pd.DataFrame({"a": TIMES.to_period("D")}), {}, "dtype period"),
    "complex": ({"a": [1j, 2.0, 3.0]}, {}, "Column 'a' has the dtype complex128"),
    "bytes": ({"a": np.array([b"x", b"y"])}, {}, "Column 'a' has the dtype"),
    "objects": ({"a": np.array([1, "x", 2.0], object)}, {}, r"the types \['float', 'int', 'str'\]"),
    "masked": ({"a": np.ma.masked_equal([1.0, 2.0], 2.0)}, {}, "Column 'a' is masked"),
    "no rows": ({"a": np.zeros(0)}, {}, "no rows"),
    "no columns": ({}, {}, r"must have the shape \(rows,\)"),
    "lengths": ({"a": [1, 2], "b": [1, 2, 3]}, {}, r"of as many rows.*'b': \(3,\)"),
    "an array": (np.zeros((3, 2)), {}, r"Received: ndarray.*dict\(zip\(names"),
    "names": (pd.DataFrame(np.zeros((3, 2))), {}, "Names of columns must be strings"),
    "twice": (pd.DataFrame(np.zeros((3, 2)), columns=["a", "a"]), {}, "each of one column"),
    "unknown name": ({"a": [1, 2, 3]}, {"steps": {"b": 1}}, r"the table lacks: \['b'\]"),
    "step": ({"a": [0.1, 0.25]}, {"steps": {"a": 0.1}}, "'a' has numbers, or bounds, that are no"),
    "bound": ({"a": [1, 2]}, {"bounds": {"a": (0.5, 3)}}, "or bounds, that are no multiples"),
    "outside": ({"a": [0.0, 2.0]}, {"bounds": {"a": (0, 3)}}, "1 of 2 values outside.*such as 0"),
    "above": ({"a": [1, 4]}, {"bounds": {"a": (0, 3)}}, "'a' has 1 of 2 .*such as 4"),
    "ordinal": (
        {"a": [1, 2, 3]},
        {"categorical": {"a": "ordinal"}, "bounds": {"a": (1, 2)}, "steps": {"a": 1}},
        "'a' has values outside of its bounds, .1.0, 2.0",
    ),
    "ordinal bounds": (
        {"a": [1, 2]},
        {"categorical": {"a": "ordinal"}, "bounds": {"a": (0, None)}},
        "'a' holds categories. A step",
    ),
    "one-hot step": (
        {"a": [1, 2]},
        {"categorical": {"a": "one_hot"}, "steps": {"a": 1}},
        "'a' holds categories. A step",
    ),
    "label bounds": ({"a": ["x", "y"]}, {"bounds": {"a": (0, 3)}}, "'a' holds categories. A step"),
}


@pytest.mark.parametrize(("table", "options", "words"), REFUSED_BY_FIT.values(), ids=REFUSED_BY_FIT)
def test_fit_refuses(table, options, words):
    with pytest.raises(ValueError, match=words):
        TablePreparation(**options).fit(table)


ARGUMENTS = {
    "encoding": ({"categorical": "hash"}, "`categorical` must be 'ordinal' or 'one_hot'"),
    "encodings": ({"categorical": {"a": "hash"}}, "`categorical` must be"),
    "step": ({"steps": {"a": 0.0}}, "`steps` must be positive"),
    "constant": ({"constant": "keep"}, "`constant` must be 'error' or 'drop'"),
    "bounds": ({"bounds": {"a": (2, 1)}}, "`bounds` must be pairs"),
    "bounds of three": ({"bounds": {"a": (1, 2, 3)}}, "`bounds` must be pairs"),
}


@pytest.mark.parametrize(("options", "words"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        TablePreparation(**options)


def changed(**columns):
    return mixed_table().assign(**columns)


REFUSED_BY_TRANSFORM = {
    "lacking": (mixed_table().drop(columns="count"), r"It lacks \['count'\]"),
    "extra": (changed(more=1), r"unknown are \['more'\]"),
    "gap": (changed(number=np.where(GAPS, np.nan, NORMAL)), "'number' has missing values, and had"),
    "unknown": (changed(letter=np.where(GAPS, "z", LETTERS)), r"'letter' has values .*\['z'\]"),
    "missing": (changed(letter=with_gaps(LETTERS, "str")), r"'letter' .*\['a missing one'\]"),
    "strings": (changed(count=LETTERS), "Column 'count' held numbers in `fit`. Received"),
    "half": (changed(count=DIGITS / 2.0), "Column 'count' has numbers, or bounds, that are no"),
    "outside": (changed(count=DIGITS + 1), "Column 'count' has .* outside of its bounds"),
    "unit": (changed(unit="m"), "Column 'unit' was constant in `fit`, 'cm', and is not now"),
}


@pytest.mark.parametrize(
    ("table", "words"), REFUSED_BY_TRANSFORM.values(), ids=REFUSED_BY_TRANSFORM
)
def test_transform_refuses(table, words):
    preparation = mixed_preparation().fit(mixed_table())
    with pytest.raises(ValueError, match=words):
        preparation.transform(table, seed=0)


def test_points_are_checked():
    preparation = mixed_preparation().fit(mixed_table())
    with pytest.raises(ValueError, match=r"the shape \(rows, 8\). Received: \(3, 2\)"):
        preparation.inverse_transform(np.zeros((3, 2)))
    z = np.zeros((3, 8))
    z[1, 1] = np.nan
    with pytest.raises(ValueError, match=r"must be finite. Received: 1 of 3"):
        preparation.log_det(z)


def test_fit_comes_first():
    with pytest.raises(ValueError, match="Call `fit` first"):
        TablePreparation().transform({"a": [1.0, 2.0]})


def test_integers_that_float32_cannot_tell_apart_are_refused():
    numbers = np.array([0, 1, 2, 10**12])
    preparation = TablePreparation().fit({"a": numbers})
    with pytest.raises(ValueError, match="Column 'a' has values too close to one another"):
        preparation.transform({"a": numbers}, seed=0)


def test_repeated_numbers_are_told_of():
    with pytest.warns(UserWarning, match="Column 'a' repeats 9 numbers in 400 rows"):
        TablePreparation().fit({"a": DIGITS / 2.0})


def test_the_example_prepares_and_compares(tmp_path, capsys):
    example = load_example("tables")
    rng = np.random.default_rng(0)
    carat = np.round(rng.uniform(0.3, 2.0, 500), 2)
    sizes = np.round(
        6.5 * np.cbrt(carat[:, None]) * [1.0, 1.0, 0.6] + 0.05 * rng.random((500, 3)), 2
    )
    sizes[3, 2] = 0.0
    grades = [rng.integers(0, number, 500) for number in (5, 7, 8)]
    depth, table = np.round(rng.normal([61.7, 57.4], [1.4, 2.2], (500, 2)), 1).T
    price = np.rint(4000.0 * carat**1.5)
    names = ["carat", "cut", "color", "clarity", "depth", "table", "price", "x", "y", "z"]
    x = np.stack([carat, *grades, depth, table, price, *sizes.T], axis=1).astype("float32")
    np.savez(tmp_path / "diamonds.npz", x=x, columns=names)
    frame = example.read(tmp_path / "diamonds.npz")
    assert frame["z"].isna().sum() == 1
    preparation = example.make_preparation("one_hot", ["carat", "table"]).fit(frame)
    assert preparation.event_size == 6 + 20 + 2
    z = preparation.transform(frame, seed=0)
    back = preparation.inverse_transform(z)
    pd.testing.assert_frame_equal(back, frame, check_exact=True)
    values = example.log_likelihood(example.standard_normal, preparation, frame, draws=3)
    assert np.isfinite(values).all()
    densities = (
        np.exp(example.gaussian(z)(z)),
        stats.multivariate_normal(z.mean(axis=0), np.cov(z.T)).pdf(z),
    )
    np.testing.assert_allclose(*densities, rtol=1e-4)
    example.compare(frame, frame, back)
    assert "synthetic: off by at most 0.000" in capsys.readouterr().out
