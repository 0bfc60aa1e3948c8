"""Scripts in processes of their own, and the examples, which are scripts and modules."""

import contextlib
import importlib.util
import io
import os
import pathlib
import runpy
import subprocess
import sys
import textwrap
from unittest import mock

import tensorflow as tf

import keras_nf

ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
ROOT = pathlib.Path(keras_nf.__file__).parents[1]


def run_python(script, *args, returncode=0):
    """Run a script in a process of its own and return what it prints."""
    return _run("-c", textwrap.dedent(script), *args, returncode=returncode).stdout


def run_program(name, *args):
    """Run a program that lies beside the tests, and return what it prints."""
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return _run(ROOT / "tests" / f"{name}.py", *args, returncode=0, environment=environment).stdout


def run_example(name, *options):
    """Run an example in this process as its command line does, and return what it prints."""
    path = str(ROOT / "examples" / f"{name}.py")
    command, printed = [path, *map(str, options)], io.StringIO()
    with mock.patch.object(sys, "argv", command), contextlib.redirect_stdout(printed):
        runpy.run_path(path, run_name="__main__")
    return printed.getvalue()


def run_example_alone(name, *options, returncode=0, **environment):
    """Run an example by its command line, and return what it prints, or its errors."""
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


def compile_program(name, path):
    """Compile a C program of the examples with TensorFlow, and return its path."""
    folder = tf.sysconfig.get_lib()
    libraries = [f"{folder}/libtensorflow_{part}.so.2" for part in ("cc", "framework")]
    options = [f"-I{tf.sysconfig.get_include()}", f"-Wl,-rpath,{folder}", "-Wall", "-Werror"]
    subprocess.run(["gcc", ROOT / "examples" / name, "-o", path, *options, *libraries], check=True)
    return path
