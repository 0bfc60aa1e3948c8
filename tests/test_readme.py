"""README and documentation: every code block runs, and what they name exists."""

import contextlib
import doctest
import importlib
import inspect
import io
import re
import shlex
from pathlib import Path

import keras
import pytest
import tensorflow as tf

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FLOWS = [
    name
    for name in keras_nf.__all__
    if isinstance(getattr(keras_nf, name), type)
    and issubclass(getattr(keras_nf, name), keras_nf.Flow)
    and name != "Flow"
]


FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
# A block of code, and what it prints where the page shows that.
SHOWN = re.compile(
    r"^```python\n(.*?)^```$(?:\n\n?```output\n(.*?)^```$)?", flags=re.MULTILINE | re.DOTALL
)


def blocks(text, language):
    return [code for name, code in FENCE.findall(text) if name == language]


def run(code, namespace, name):
    """Run a block and return what it prints."""
    # A file, so that tracebacks and `inspect.getsource` find the lines.
    path = Path(name).absolute()
    path.write_text(code)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, str(path), "exec"), namespace)
    return printed.getvalue()


def assert_shown(expected, printed):
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if not doctest.OutputChecker().check_output(expected, printed, options):
        pytest.fail(f"The page shows:\n{expected}\nThe block prints:\n{printed}")


@pytest.fixture
def namespace(tmp_path, monkeypatch):
    """Names of a text that runs in a folder of its own, with fixed seeds."""
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    names = {"__name__": "page"}
    yield names
    # Classes that a page registers with Keras stay, and with them all names of their module.
    names.clear()
    # So do variables of TensorFlow 1, such as those of TFP's templates, in collections.
    tf.compat.v1.reset_default_graph()


# A block of the README stands for itself: a reader pastes one of them.
@pytest.mark.parametrize("index", range(len(blocks(README, "python"))))
def test_readme_block_runs(index, namespace):
    run(blocks(README, "python")[index], namespace, f"readme_{index}.py")


# Pages that a newcomer reads first, as they come with a plain run.
FIRST = ("index.md", "quickstart.md", "models.md", "keras.md", "tfp.md", "theory/index.md")


# A page is read from top to bottom: its blocks share one namespace.
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name, marks=[] if name in FIRST else [pytest.mark.slow])
        for page, name in ((page, str(page.relative_to(ROOT / "docs"))) for page in PAGES)
    ],
)
def test_page_runs(page, namespace):
    for index, (code, shown) in enumerate(SHOWN.findall(page.read_text())):
        printed = run(code, namespace, f"{page.stem}_{index}.py")
        if shown:
            assert_shown(shown, printed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_output_follows_the_block_that_prints_it(page):
    text = page.read_text()
    assert len(blocks(text, "output")) == sum(bool(shown) for _, shown in SHOWN.findall(text))


def lines_of_code():
    """Yield where each line of code or output of the site stands, and the line."""
    for page in PAGES:
        for _, code in FENCE.findall(page.read_text()):
            for line in code.splitlines():
                yield page.relative_to(ROOT), line
    for code in blocks(README, "python"):
        for line in code.splitlines():
            yield "README.md", line
    for script in (ROOT / "examples" / "notebooks").glob("*.py"):
        for line in script.read_text().splitlines():
            if not line.startswith("# "):  # text, which flows
                yield script.relative_to(ROOT), line
    parser = doctest.DocTestParser()
    for path in (ROOT / "keras_nf").rglob("*.py"):
        for example in parser.get_examples(path.read_text()):
            for line in example.source.splitlines():
                yield path.relative_to(ROOT), ">>> " + line


def test_code_fits_a_page():
    wide = [f"{where}: {line}" for where, line in lines_of_code() if len(line) > 80]
    assert wide == []


def test_first_example_has_ten_lines():
    lines = [line for line in blocks(README, "python")[0].splitlines() if line]
    assert len(lines) <= 10


def rows_of(path):
    """Return the cells of the rows of a table, by the classes that the second one names."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: row for row in cells for name in re.findall(r"`(\w+)`", row[1])}


@pytest.mark.parametrize("name", FLOWS)
def test_tables_name_every_flow(name):
    for path in (ROOT / "README.md", ROOT / "docs" / "flows" / "index.md"):
        row = rows_of(path).get(name)
        assert row, f"no row of {path} names {name}"
        # The paper of a row is that of a flow in it.
        texts = [inspect.getdoc(getattr(keras_nf, each)) for each in re.findall(r"`(\w+)`", row[1])]
        for number in re.findall(r"\b\d{4}\.\d{4,5}\b", " ".join(row)):
            assert any(f"arXiv:{number}" in text for text in texts), number


def test_commands_name_files_that_exist():
    commands = "\n".join(blocks(README, "bash"))
    words = {word for word in shlex.split(commands) if not word.startswith((".venv", "-"))}
    files = {word for word in words if word.endswith((".py", ".sh", ".toml"))}
    assert "examples/quickstart.py" in files
    for file in files:
        assert (ROOT / file).is_file(), file


def test_commands_name_extras_that_exist():
    pyproject = (ROOT / "pyproject.toml").read_text()
    documents = [README, *(page.read_text() for page in PAGES)]
    extras = set(re.findall(r'"\.\[([a-z,]+)\]"', "\n".join(documents)))
    for extra in ",".join(extras).split(","):
        assert re.search(rf"^{extra} = \[", pyproject, flags=re.MULTILINE), extra


@pytest.mark.parametrize("command", blocks(README, "bash"))
def test_commands_are_one_paste_in_a_fresh_clone(command):
    assert command.startswith("python3 -m venv .venv && ")
    assert command.count("\n") == 1


# A package index shows the README without the files beside it.
def test_readme_has_no_links_to_files():
    assert re.findall(r"\]\((?!https?:)[^)]*\)", README) == []


def test_files_that_the_readme_names_exist():
    names = re.findall(r"`([\w/]+\.md|LICENSE|docs[\w/]*)`", README)
    assert {"docs/deploy.md", "docs/flows", "LICENSE"} <= set(names)
    for name in names:
        assert (ROOT / name).exists(), name


MODULES = ["keras_nf", *(f"keras_nf.{each}" for each in ("bases", "convert", "datasets"))]
MODULES += ["keras_nf.diagnostics", "keras_nf.elementwise", "keras_nf.plot", "keras_nf.sklearn"]
MODULES += ["keras_nf.tables"]
PUBLIC = {
    f"{module}.{name}": getattr(importlib.import_module(module), name)
    for module in MODULES
    for name in importlib.import_module(module).__all__
    if f"{module}.{name}" not in MODULES
}


def names_of_the_api():
    """Yield the full names that the pages of the API show."""
    section = re.compile(r"^::: (\S+)(?:\n    options:\n      members: \[(.*?)\])?", re.MULTILINE)
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for name, members in section.findall(page.read_text()):
            yield name
            yield from (f"{name}.{member}" for member in members.split(", "))


def test_api_names_every_public_name():
    assert set(PUBLIC) - set(names_of_the_api()) == set()


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name):
    text = inspect.getdoc(PUBLIC[name])
    parameters = inspect.signature(PUBLIC[name]).parameters.values()
    own = [
        each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]
    if name != "keras_nf.AutoregressiveNetwork":  # whose arguments are those of any layer
        assert [
            each for each in own if not re.search(rf"^  (.*, )?{each}\b.*:", text, re.MULTILINE)
        ] == []
    sections = ["Example:", ">>> "]
    if name.removeprefix("keras_nf.") in FLOWS:
        sections += ["Args:", "Input shape:", "Output shape:", "Raises:"]
    assert [each for each in sections if each not in text] == []
