"""Repetitions, order and summary of the benchmarks."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from statistics import median

import pytest

# An ordinary run of the tests stays clear of the benchmarks; a file that is named is collected.
collect_ignore_glob = ["*.py"]

# TensorFlow reads these when it starts, in the processes of the benchmarks as well.
if hasattr(os, "sched_getaffinity"):
    CORES = len(os.sched_getaffinity(0))
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(CORES))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", str(CORES))
else:
    CORES = os.cpu_count()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

NONE = "\N{EN DASH}"
TIMES = pytest.StashKey()
HEADER = (
    "work",
    "keras_nf ms",
    "TFP graph ms",
    "TFP XLA ms",
    "floor ms",
    "keras_nf / TFP XLA",
    "keras_nf / floor",
)


def pytest_addoption(parser):
    group = parser.getgroup("keras_nf benchmarks")
    group.addoption(
        "--repetitions",
        type=int,
        help="repetitions of each work item (default: 7; 3 end to end and of fresh processes)",
    )
    group.addoption("--table", type=Path, metavar="PATH", help="write the table as Markdown")


def pytest_configure(config):
    config.stash[TIMES] = {}
    # The table below takes the place of pytest-benchmark's, which has a row for each repetition.
    config.option.benchmark_quiet = True


@pytest.fixture
def record(request, benchmark):
    """Return a function that keeps the seconds of one repetition for the summary."""

    def keep(work, contestant, repetition, seconds):
        benchmark.extra_info["seconds"] = seconds
        times = request.config.stash[TIMES].setdefault(work, {})
        times.setdefault(contestant, {})[repetition] = seconds

    return keep


def pytest_terminal_summary(terminalreporter, config):
    times = config.stash.get(TIMES, {})
    if not times:
        return
    lines = [
        *_environment(),
        "",
        *_table([HEADER, *(row for work in times.items() for row in _rows(*work))]),
        *(line for work in times.items() for line in _differences(*work)),
    ]
    terminalreporter.section("keras_nf and TFP")
    for line in lines:
        terminalreporter.write_line(line)
    if config.option.table:
        config.option.table.write_text("\n".join(lines) + "\n")


def _environment():
    """Lines that say where and when."""
    packages = ("tensorflow", "keras", "tf_keras", "tensorflow-probability", "numpy")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return [
        f"- {datetime.date.today()}, {_processor()}, {CORES} core(s)",
        f"- Python {platform.python_version()}, {', '.join(versions)}",
    ]


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _rows(work, times):
    """Rows of a work item: one for each of keras_nf's contestants."""
    references = [_milliseconds(times.get(name)) for name in ("TFP graph", "TFP XLA", "floor")]
    for name in [name for name in times if name.startswith("keras_nf")] or ["keras_nf"]:
        yield (
            work + name.removeprefix("keras_nf").replace(" ", ", ", 1),
            _milliseconds(times.get(name)),
            *references,
            _ratio(times.get(name), times.get("TFP XLA")),
            _ratio(times.get(name), times.get("floor")),
        )


def _differences(work, times):
    """What keras_nf adds to an import."""
    if work.startswith("import") and {"keras_nf", "floor"} <= set(times):
        pairs = _pairs(times["keras_nf"], times["floor"])
        yield f"\n{work}: keras_nf adds {1e3 * median(a - b for a, b in pairs):.0f} ms."


def _milliseconds(seconds):
    if not seconds:
        return NONE
    value = 1e3 * median(seconds.values())
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _ratio(seconds, reference):
    """Median over the repetitions of the ratio within a repetition."""
    if not seconds or not reference:
        return NONE
    return f"{median(a / b for a, b in _pairs(seconds, reference)):.2f}"


def _pairs(a, b):
    return [(a[repetition], b[repetition]) for repetition in a.keys() & b.keys()]


def _table(rows):
    """Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    for header, *cells in (rows[0], rule, *rows[1:]):
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:])]
        yield f"| {' | '.join([header.ljust(widths[0]), *padded])} |"
