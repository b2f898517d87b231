"""The files of one experiment (its table, its figure, and what is read from them) and the page about all of them."""

import csv
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from modeling_adapt.errors import InputError
from modeling_adapt.evaluation import metrics
from modeling_adapt.files import finished_folder, require_empty_folder, write_whole
from modeling_adapt.tables import markdown_table

from . import forces_cost, shared
from .experiment import REAL, Experiment, Row, source_hash
from .lab import Lab

TABLE, FIGURE, MADE_OF, SURROUNDINGS = "table.csv", "figure.png", "made_of.json", "surroundings.json"
NOT_RUN = "not yet run"
# What experiments measure and draw with.
_SOURCES = source_hash(*(str(module.__file__) for module in (metrics, shared, forces_cost)))
_PACKAGES = ("torch", "transformers", "ase", "matscipy")
_HEAD = """# The paper's experiments, rerun

This page is written by `make results`; a test compares its numbers with the tables in `docs/results/`. {about}

Errors are on trajectories that were not trained on, with one seed: differences of some ten percent may be chance
(see the other seeds among the [descriptors](#element-descriptors)). "Of zero
force" is the share of the error of predicting no forces at all, "near the defect" means within 5 Å of a defect site,
"far from it" more than 8 Å.
"""


def copy_results(experiments: Sequence[Experiment], results: Path, page: Path) -> None:
    """Copies the tables and figures from the folder of the results to beside the page."""
    beside = page.with_suffix("")
    beside.mkdir(parents=True, exist_ok=True)
    for experiment in experiments:
        for name in (TABLE, FIGURE):
            shutil.copyfile(results / experiment.name / name, beside / f"{experiment.name}{Path(name).suffix}")
    shutil.copyfile(results / SURROUNDINGS, beside / SURROUNDINGS)


def page_text(experiments: Sequence[Experiment], beside: Path) -> str:
    """The page, from the files beside it alone; an experiment without a table is a line of the summary."""
    summary, sections = [], []
    for experiment in experiments:
        file = beside / f"{experiment.name}.csv"
        if not file.is_file():
            command = f"`python -m experiments {experiment.name}`"
            summary.append((f"{experiment.title} ({command})", experiment.paper, NOT_RUN))
            continue
        rows = read_table(experiment, file)
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


def draw_again(experiments: Sequence[Experiment], beside: Path) -> None:
    """Their figures, from the tables beside the page."""
    for experiment in experiments:
        if (table := beside / f"{experiment.name}.csv").is_file():
            experiment.draw(read_table(experiment, table), table.with_suffix(Path(FIGURE).suffix))


def write_surroundings(lab: Lab, trainings: int, seconds: float) -> None:
    """Writes them into the folder of the results; `seconds` is the sum over the trainings."""
    found: dict[str, Any] = {
        "scale": lab.scale,
        "cores": os.cpu_count(),
        "jobs": lab.jobs,
        "trainings": trainings,
        "minutes of training": round(seconds / 60, 1),
        "structures": lab.data.sizes(),
        "versions": {package: version(package) for package in _PACKAGES},
    }
    write_whole(lab.folder / SURROUNDINGS, json.dumps(found, indent=2) + "\n")


def about(path: Path) -> str:
    """The same as sentences."""
    found = json.loads(path.read_text(encoding="utf-8"))
    sets = ", ".join(
        f"{name} ({', '.join(f'{count:,d} {split}' for split, count in counts.items())})"
        for name, counts in found["structures"].items()
    )
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    real = (
        f"; {REAL} is the real DFT data. Experiments without it need what these do not have (carbon, equal structures "
        "in cells of several sizes, several kinds among the unseen structures), or the potential itself"
    )
    return (
        f"All of it at scale {found['scale']:g}: {found['trainings']} trainings of together "
        f"{found['minutes of training']:.0f} minutes, {found['jobs']} at a time on {found['cores']} cores "
        f"({versions}). Data sets: {sets}. The generated ones are labelled with an empirical potential (Erhart and "
        f"Albe), not with DFT{real if REAL in found['structures'] else ''}."
    )


def write_outcome(experiment: Experiment, rows: Sequence[Row], folder: Path, made_of: Mapping[str, Any]) -> None:
    """
    Writes the folder of an experiment, whole or not at all, where an earlier outcome of it may be; `made_of` says from
    which models and data.

    Raises:
        [`InputError`]: The folder is none of an experiment.
    """
    if not (folder / MADE_OF).is_file():
        require_empty_folder(folder)
    new, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    for leftover in (new, old):  # of a kill
        shutil.rmtree(leftover, ignore_errors=True)
    with finished_folder(new) as unfinished:
        (unfinished / TABLE).write_text(to_csv(experiment.columns, rows), encoding="utf-8")
        rows = read_table(experiment, unfinished / TABLE)  # what is said is said of what stands in the file
        (unfinished / "table.md").write_text(to_markdown(experiment.columns, rows) + "\n", encoding="utf-8")
        (unfinished / "reading.md").write_text(reading(experiment, rows) + "\n", encoding="utf-8")
        experiment.draw(rows, unfinished / FIGURE)
        write_whole(unfinished / MADE_OF, json.dumps(_all_of(experiment, made_of), indent=2) + "\n")
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def is_made_of(experiment: Experiment, folder: Path, made_of: Mapping[str, Any]) -> bool:
    """Whether the folder holds an outcome of the experiment, as it is now, from the same models and data."""
    file = folder / MADE_OF
    return file.is_file() and json.loads(file.read_text(encoding="utf-8")) == _all_of(experiment, made_of)


def outcome_text(experiment: Experiment, folder: Path) -> str:
    """Table and reading, from the numbers in the folder."""
    rows = read_table(experiment, folder / TABLE)
    return f"{to_markdown(experiment.columns, rows)}\n\n{reading(experiment, rows)}"


def _all_of(experiment: Experiment, made_of: Mapping[str, Any]) -> dict[str, Any]:
    return {**made_of, "measured by": experiment.source, "with": _SOURCES}


def reading(experiment: Experiment, rows: Sequence[Row]) -> str:
    """The paragraph with the verdict."""
    verdict, why = experiment.verdict(rows)
    return f"{experiment.reading(rows)}\n\nThe paper: {experiment.paper}. **{verdict.capitalize()}**: {why}."


def to_csv(columns: Mapping[str, str], rows: Sequence[Row]) -> str:
    """Numbers to six digits, which is more than any of them is good for; nothing where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_plain(row[heading], style) for heading, style in columns.items()])
    return text.getvalue()


def read_table(experiment: Experiment, path: Path) -> list[dict[str, Any]]:
    """The rows that [`to_csv`] wrote."""
    with open(path, encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    if lines and list(lines[0]) != list(experiment.columns):
        raise InputError(f"{path} has other columns than {experiment.name} writes; run the experiment again")
    return [{heading: _value(line[heading], style) for heading, style in experiment.columns.items()} for line in lines]


def to_markdown(columns: Mapping[str, str], rows: Sequence[Row]) -> str:
    """The table, with numbers as the experiment wants them written."""
    cells = [[_cell(row[heading], style) for heading, style in columns.items()] for row in rows]
    return markdown_table(list(columns), cells)


def _plain(value: Any, style: str) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if style and not style.endswith("d") else str(value)


def _value(text: str, style: str) -> Any:
    if not style:
        return text
    return None if text == "" else int(text) if style.endswith("d") else float(text)


def _cell(value: Any, style: str) -> str:
    return "-" if value is None else format(value, style) if style else str(value)
