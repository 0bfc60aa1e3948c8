"""Makes notebooks of the scripts in examples/notebooks, and pages of them.

A build executes them at the small size that `SMALL` asks for. Serving leaves
them without output, so that a change of a page is seen at once.
"""

import os
import tempfile
from pathlib import Path

import jupytext
import nbformat
from mkdocs.structure.files import File
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

SCRIPTS = Path(__file__).parents[2] / "examples" / "notebooks"
SMALL = {"KERAS_NF_NOTEBOOK_EPOCHS": "15", "TF_CPP_MIN_LOG_LEVEL": "3"}
NOTE = """
!!! note

    This page is `examples/notebooks/{name}.py`, executed at a small size.
    [Download the notebook]({name}.ipynb){{ download }}, or run the script,
    for the whole of it.
"""

_execute = True


def on_startup(*, command, dirty):
    global _execute
    _execute = command != "serve"


def on_files(files, config):
    for script in sorted(SCRIPTS.glob("*.py")):
        for path, content in _files_of(script):
            path = f"notebooks/{path}"
            files.append(File.generated(config, path, content=content))
    return files


def _files_of(script):
    """Yield path and content of a notebook, its page, and its pictures."""
    name, notebook = script.stem, jupytext.read(script, fmt="py:percent")
    yield f"{name}.ipynb", nbformat.writes(notebook)
    if _execute:
        _run(notebook)
    resources = {"unique_key": name, "output_files_dir": f"{name}_files"}
    exporter = MarkdownExporter()
    text, resources = exporter.from_notebook_node(notebook, resources=resources)
    yield from resources["outputs"].items()
    title, _, rest = text.lstrip().partition("\n")
    yield f"{name}.md", f"{title}\n{NOTE.format(name=name)}{rest}"


def _run(notebook):
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(
            notebook, kernel_name="python3", resources=resources
        )
        client.execute(env={**os.environ, **SMALL})
    for cell in notebook.cells:
        # What TensorFlow logs as it starts is not of the notebook.
        outputs = [
            each for each in cell.get("outputs", []) if not _is_log(each)
        ]
        if cell.cell_type == "code":
            cell.outputs = outputs


def _is_log(output):
    return output.get("name") == "stderr"
