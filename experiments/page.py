"""docs/results.md: every number in it is read from the result files beside it."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from modeling_adapt.files import write_whole
from modeling_adapt.tables import markdown_table

from .experiment import Experiment
from .outcome import FIGURE, TABLE, read_table, reading, to_markdown
from .surroundings import SURROUNDINGS, about

_HEAD = """# The paper's experiments, rerun

This page is written by `make results`; a test compares its numbers with the tables in `docs/results/`. {about}

Errors are on trajectories that were not trained on, with one seed: differences of some ten percent may be chance
(see the other seeds among the [descriptors](#element-descriptors)). "Of zero
force" is the share of the error of predicting no forces at all, "near the defect" means within 5 Å of a defect site,
"far from it" more than 8 Å.
"""


def write_page(experiments: Sequence[Experiment], results: Path, page: Path) -> None:
    """Copies the tables and figures from the folder of the results to beside the page, and writes it from there."""
    beside = page.with_suffix("")
    beside.mkdir(parents=True, exist_ok=True)
    for experiment in experiments:
        for name in (TABLE, FIGURE):
            shutil.copyfile(results / experiment.name / name, beside / f"{experiment.name}{Path(name).suffix}")
    shutil.copyfile(results / SURROUNDINGS, beside / SURROUNDINGS)
    write_whole(page, page_text(experiments, beside))


def page_text(experiments: Sequence[Experiment], beside: Path) -> str:
    """The page, from the files beside it alone."""
    summary, sections = [], []
    for experiment in experiments:
        rows = read_table(experiment, beside / f"{experiment.name}.csv")
        verdict, why = experiment.verdict(rows)
        anchor = experiment.title.lower().replace(" ", "-")
        summary.append((f"[{experiment.title}](#{anchor})", experiment.paper, f"{verdict}: {why}"))
        sections += [
            f"## {experiment.title}",
            f"{experiment.question} (`python -m experiments {experiment.name}`)",
            to_markdown(experiment.columns, rows),
            f"![{experiment.title}]({beside.name}/{experiment.name}.png)",
            reading(experiment, rows),
        ]
    table = markdown_table(("experiment", "the paper", "here"), summary)
    return "\n\n".join([_HEAD.format(about=about(beside / SURROUNDINGS)).rstrip(), table, *sections]) + "\n"
