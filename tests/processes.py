"""Scripts in processes of their own, and the examples, which are scripts and modules."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import textwrap

import keras_nf

ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
ROOT = pathlib.Path(keras_nf.__file__).parents[1]


def run_python(script, *args, returncode=0):
    """Run a script in a process of its own and return what it prints."""
    return _run("-c", textwrap.dedent(script), *args, returncode=returncode).stdout


def run_example(name, *options, returncode=0, **environment):
    """Run an example as its command line does, and return what it prints, or its errors."""
    path = ROOT / "examples" / f"{name}.py"
    environment = {"PYTHONPATH": str(ROOT), **environment}
    result = _run(path, *options, returncode=returncode, environment=environment)
    return result.stdout if returncode == 0 else result.stderr


def _run(*command, returncode, environment=None):
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**ENVIRONMENT, **(environment or {})},
    )
    assert result.returncode == returncode, result.stdout + result.stderr
    return result


def load_example(name):
    """Return an example as a module."""
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
