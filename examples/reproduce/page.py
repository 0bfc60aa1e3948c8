"""Write the tables of docs/results.md anew, from the results in docs/results.

    python examples/reproduce/page.py

A table stands in the page between `<!-- begin NAME -->` and `<!-- end NAME -->`. Of several rows of
a run, as one that went on has, the last counts.
"""

import csv
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"

# Published mean test log-likelihoods, in nats: arXiv:1705.07057, tables 1 and 2; of flows with
# residual networks or splines, arXiv:1906.04032, table 1.
DENSITY = {
    "power": {
        "gaussian": -7.74,
        "made": -3.08,
        "made-mog": 0.40,
        "real-nvp-5": -0.02,
        "real-nvp-10": 0.17,
        "maf-5": 0.14,
        "maf-10": 0.24,
        "maf-mog": 0.30,
        "maf-residual": 0.45,
        "nsf-coupling": 0.64,
        "nsf": 0.66,
    },
    "bsds300": {
        "gaussian": 96.67,
        "made": 148.85,
        "made-mog": 153.71,
        "real-nvp-5": 152.97,
        "real-nvp-10": 153.28,
        "maf-5": 155.69,
        "maf-10": 154.93,
        "maf-mog": 156.36,
        "maf-residual": 156.95,
        "nsf-coupling": 157.54,
        "nsf": 157.31,
    },
    "miniboone": {
        "gaussian": -37.24,
        "made": -15.59,
        "made-mog": -12.27,
        "real-nvp-5": -13.55,
        "real-nvp-10": -13.84,
        "maf-5": -11.75,
        "maf-10": -12.24,
        "maf-mog": -11.68,
        "maf-residual": -10.92,
        "nsf-coupling": -9.67,
        "nsf": -9.22,
    },
}
TITLES = {
    "gaussian": "Gaussian",
    "made": "MADE",
    "made-mog": "MADE MoG",
    "real-nvp-5": "Real NVP (5)",
    "real-nvp-10": "Real NVP (10)",
    "maf-5": "MAF (5)",
    "maf-10": "MAF (10)",
    "maf-mog": "MAF MoG (5)",
    "maf-residual": "MAF (10), residual networks, linear layers",
    "nsf-coupling": "RQ-NSF, couplings",
    "nsf": "RQ-NSF, autoregressive",
}
# Likewise of images: NICE in [0, 1]^784 (arXiv:1410.8516), others in logit space; of the last two,
# minus the bits per dimension of far larger networks (arXiv:1810.01367, table 2).
IMAGES = {
    "nice": 1980.50,
    "gaussian": -1366.9,
    "made": -1380.8,
    "made-mog": -1038.5,
    "real-nvp-5": -1323.2,
    "maf-5": -1300.5,
    "made-by-class": -1361.9,
    "made-mog-by-class": -1030.3,
    "real-nvp-5-by-class": -1326.3,
    "maf-5-by-class": -1302.9,
    "glow": -1.05,
    "multiscale": -1.06,
}
BITS_PER_DIMENSION = ("glow", "multiscale")
# Accuracies of the classifier after 1,000, 10,000 and 100,000 simulations, of posteriors by spline
# flows: arXiv:2101.04653, and its repository.
SBI = {
    "two_moons": (0.725, 0.606, 0.542),
    "slcp": (0.975, 0.901, 0.831),
    "gaussian_linear": (0.694, 0.552, 0.506),
    "gaussian_linear_uniform": (0.696, 0.553, 0.509),
    "gaussian_mixture": (0.716, 0.615, 0.548),
}


def runs(name, keys):
    """Return the last row of each run of a table of results, by some of its columns."""
    path = DOCS / "results" / f"{name}.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    return {tuple(row[key] for key in keys): row for row in rows}


def number(text, digits):
    """Return a number as the page shows it, with a minus sign."""
    return f"{float(text):.{digits}f}".replace("-", "−")


def training(row):
    """Return how much of a training there was."""
    if not row["steps"]:
        return "none | –"
    part = int(row["steps"]) / int(row["planned"])
    of_plan = "" if part == 1.0 else f" ({100.0 * part:.0f} % of the plan)"
    minutes = float(row["minutes"])
    time = f"{minutes:.0f}" if minutes >= 1.0 else "under 1"
    return f"{int(row['steps']):,} × {row['batch_size']}{of_plan} | {time}"


def measured(rows, name, digits):
    """Return the figure of one run, or the mean of several seeds."""
    values = [float(row[name]) for row in rows]
    errors = [float(row["error"]) for row in rows]
    mean = number(sum(values) / len(values), digits)
    seeds = "" if len(rows) == 1 else f", {len(rows)} seeds"
    return f"{mean} ± {max(errors):.{digits}f}{seeds}"


def line(title, published, digits, rows):
    """Return the line of a model, with dashes where nothing was measured."""
    # Papers have two digits at most.
    start = f"| {title} | {number(published, min(digits, 2)) if published else '–'} |"
    if not rows:
        return f"{start} – | – | – | – |"
    parameters = f"{int(rows[-1]['parameters']):,}"
    return f"{start} {measured(rows, 'log_prob', digits)} | {parameters} | {training(rows[-1])} |"


MODELS_HEAD = [
    "| model | paper | ours, ± 2 standard errors | parameters | steps × rows | minutes |",
    "|---|--:|--:|--:|--:|--:|",
]


def density_table(name):
    """Return the table of a set of data; of models of mirrored patches, what was measured."""
    found = runs("density", ("set", "model", "seed"))
    lines = []
    for model, published in DENSITY[name].items():
        for run, title in ((model, TITLES[model]), (f"{model}-mirrored", "… mirrored patches")):
            rows = [row for key, row in found.items() if key[:2] == (name, run)]
            if rows or run == model:
                lines.append(line(title, published, 2, rows))
    return [*MODELS_HEAD, *lines]


def image_table():
    """Return the table of images: of those that papers have, and of what else was measured."""
    found = runs("images", ("model", "seed"))
    lines = []
    for model in dict.fromkeys([*IMAGES, *(model for model, _ in found)]):
        rows = [row for key, row in found.items() if key[0] == model]
        name = model.removesuffix("-by-class")
        title = f"`{name}`" if name == model else f"`{name}` given the label"
        lines.append(line(title, IMAGES.get(model), 3 if name in BITS_PER_DIMENSION else 1, rows))
    return [*MODELS_HEAD, *lines]


def sbi_table():
    lines = [
        "| task | simulations | paper | ours, ± 2 standard errors | network | steps × rows "
        "| minutes |",
        "|---|--:|--:|--:|---|--:|--:|",
    ]
    found = runs("sbi", ("task", "simulations", "seed"))
    for task, published in SBI.items():
        for simulations, value in zip((1000, 10_000, 100_000), published, strict=True):
            rows = [row for key, row in found.items() if key[:2] == (task, str(simulations))]
            if rows:
                lines.append(
                    f"| {task.replace('_', ' ')} | {simulations:,} | {value:.3f} | "
                    f"{measured(rows, 'c2st', 3)} | {rows[-1]['network']} | {training(rows[-1])} |"
                )
    return lines


def with_tables(page):
    """Return the page with its tables made anew."""
    tables = {f"density {name}": density_table(name) for name in DENSITY}
    for name, lines in {**tables, "images": image_table(), "sbi": sbi_table()}.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = "".join([before, begin, "\n".join(["", *lines, "", ""]), end, after])
    return page


def main():
    path = DOCS / "results.md"
    path.write_text(with_tables(path.read_text()))


if __name__ == "__main__":
    main()
