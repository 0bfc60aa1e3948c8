"""Scripts in processes of their own."""

import os
import subprocess
import sys
import textwrap

import keras_nf

ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def run_python(script, *args, returncode=0):
    """Run a script in a process of its own and return what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        cwd=os.path.dirname(os.path.dirname(keras_nf.__file__)),
        env=ENVIRONMENT,
    )
    assert result.returncode == returncode, result.stderr
    return result.stdout
