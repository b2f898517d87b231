"""The text of a model card. Sentences depend on the kind of model; numbers come from the files that are published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..evaluation.report import error_cells
from ..tables import markdown_table
from .card_checks import physical_checks
from .card_use import use

_CITATION = Path(__file__).resolve().parents[2] / "CITATION.cff"
_FIGURES = {
    "parity.png": "Predictions against references",
    "energy_parity.png": "Predicted energies per atom against references",
    "error_by_distance.png": "Errors of forces against the distance to the nearest defect site",
    "error_by_force.png": "Errors of forces against the size of the reference force",
    "training_curve.png": "Errors during training",
}
_SETTINGS = (
    *("geometry", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "pairwise_cutoff"),
    *("force_loss", "augmentation", "num_train_epochs", "per_device_train_batch_size", "learning_rate"),
    *("lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "ema_decay", "train_subset", "seed"),
)


@dataclass(frozen=True)
class PublishedModel:
    """The files of one model in the folder that is published; `name` is its subfolder, "" for the first one.

    Attributes:
        config, example, recipe, metrics, training_metrics: what these files hold; empty where there is none.
        run: the last part of run.json.
        figures: names of the pictures.
    """

    name: str
    config: Mapping[str, Any]
    example: Mapping[str, Any]
    recipe: Mapping[str, Any]
    run: Mapping[str, Any]
    metrics: Mapping[str, Any]
    training_metrics: Mapping[str, Any]
    figures: Sequence[str]

    @property
    def kind(self) -> str:
        """forces, pooled (an energy with its gradient) or mlp (an energy alone)."""
        return "forces" if self.config["model_type"] == "adapt" else str(self.config["architecture"])

    def headline(self) -> tuple[Mapping[str, Any], str, str]:
        """Where the errors stand, what their names begin with, and the split that they are of."""
        if self.metrics:
            return self.metrics, "", str(self.metrics.get("split", "test"))
        prefix = "test_" if any(name.startswith("test_") for name in self.training_metrics) else "eval_"
        return self.training_metrics, prefix, self.split("test" if prefix == "test_" else "validation")

    @property
    def chose_a_checkpoint(self) -> bool:
        """Whether errors on the validation split decided which weights these are."""
        return bool(self.recipe.get("load_best_model_at_end"))

    def split(self, role: str) -> str:
        return str(self.recipe.get(f"{role}_split") or role)


def card_body(
    models: Sequence[PublishedModel], repository: str, *, license: str, datasets: Sequence[str], revision: str | None
) -> str:
    """What stands below the header, as Markdown."""
    first = models[0]
    parts = [f"# {repository.split('/')[-1]}", _what(first)]
    parts += [f"The folder `{model.name}/` holds a second model: {_what(model)}" for model in models[1:]]
    parts += use(repository, [(model.name, model.kind) for model in models], revision)
    for model in models:
        parts += _of_model(model)
    parts += ["## Limits", "\n".join(f"- {line}" for line in _limits(models))]
    parts += ["## Licence", f"Weights: {license}. Code: MIT, see LICENSE."]
    for dataset in datasets:
        parts[-1] += f" Data: as [{dataset}](https://huggingface.co/datasets/{dataset}) says."
    return "\n\n".join([*parts, *_citation()])


def _what(model: PublishedModel) -> str:
    what = {
        "forces": "forces on the atoms of a structure, for relaxing point defects",
        "pooled": "the energy of a structure and, as its gradient, conservative forces on the atoms",
        "mlp": "the total energy of a structure",
    }[model.kind]
    size = f", {model.run['parameters']} parameters" if "parameters" in model.run else ""
    return (
        f"ADAPT, a force field of Transformer layers over atoms without a graph, predicts {what} "
        f"(geometry `{model.config['geometry']}`{size}). Units: Å, eV, eV/Å."
    )


def _of_model(model: PublishedModel) -> list[str]:
    title = f" of `{model.name}/`" if model.name else ""
    return [
        *_domain(model, title),
        f"## Errors{title}",
        *_errors(model),
        *_breakdown(model),
        *(_figure(model, name) for name in _FIGURES if name in model.figures),
        *_checks(model, title),
        *_training(model, title),
    ]


def _domain(model: PublishedModel, title: str) -> list[str]:
    domain = model.config.get("training_domain")
    heading = f"## What it was trained on{title}"
    if not domain:
        return [
            heading,
            "The checkpoint does not say, so nothing tells whether a structure is like its training data.",
        ]
    pairs = ", ".join(f"{pair} {_number(value)}" for pair, value in domain["closest_distances"].items())
    rows = [
        ("elements", ", ".join(domain["elements"])),
        ("periodic along", ", ".join(axes or "nothing" for axes in domain["periodicity"])),
        ("atoms", _range(domain["number_of_atoms"])),
        ("edges of the cell (Å)", _range(domain.get("cell_edges"))),
        ("angles of the cell (°)", _range(domain.get("cell_angles"))),
        ("volume per atom (Å³)", _range(domain.get("volume_per_atom"))),
        ("closest distances (Å)", pairs),
        ("largest force (eV/Å)", _number(domain["largest_force"])),
        ("largest way of an atom (Å)", _number(domain.get("largest_displacement"))),
    ]
    ranges = " The number of atoms and the edges of the cell do not matter to it." if domain.get("local") else ""
    outside = (
        "Outside: other elements, closer atoms, larger forces, longer ways and other cells than in this table. The "
        "calculator and the pipeline of the package warn there, and a relaxation is not called converged. Inside, a "
        f"structure unlike those of the training can still be wrong.{ranges}"
    )
    return [heading, markdown_table(("", "in training"), [row for row in rows if row[1]]), outside]


def _errors(model: PublishedModel) -> list[str]:
    if model.metrics:
        kinds = model.metrics.get("by_config_type", {})
        lines = {name or "(none)": group for name, group in kinds.items()} | {"all": model.metrics}
        where = f"split `{model.metrics.get('split')}` of `{model.metrics.get('dataset')}`"
        note = f"By `evaluate.py` on the {where} (`metrics.json`)."
        if model.metrics.get("dataset") != model.recipe.get("dataset"):
            return [note, *_tables("config_type", lines)]  # splits of another data set only share the names of ours
        if model.metrics.get("split") == model.split("train"):
            note += " These structures were trained on: the errors say nothing about structures that were not."
        elif model.metrics.get("split") == model.split("validation") and model.chose_a_checkpoint:
            note += " This split chose among checkpoints, so the errors flatter."
        return [note, *_tables("config_type", lines)]
    found = {
        role: {name[5:]: value for name, value in model.training_metrics.items() if name.startswith(prefix)}
        for role, prefix in (("validation", "eval_"), ("test", "test_"))
    }
    lines = {model.split(role): values for role, values in found.items() if "num_structures" in values}
    note = "It has not been evaluated by kind of structure."
    if not lines:
        return [f"{note} No errors were measured in training either: do not rely on it."]
    chose = ", which chose the checkpoint, so its errors flatter" if model.chose_a_checkpoint else ""
    said = {"validation": f"the validation split{chose}", "test": "the test split, looked at once"}
    parts = [said[role] for role, values in found.items() if "num_structures" in values]
    return [f"{note} From the training (`training_metrics.json`): {', and '.join(parts)}.", *_tables("split", lines)]


def _breakdown(model: PublishedModel) -> list[str]:
    """The same errors by where an atom is and what it is; a group counts the structures that have such atoms."""
    found = []
    for key, what in (("by_defect_distance", "distance to the nearest defect site"), ("by_element", "element")):
        groups = model.metrics.get(key, {})
        headings, rows = error_cells(groups, "forces")
        if headings and (len(groups) > 1 or key != "by_element"):  # of one element they are those of all atoms
            found += [f"Forces in meV/Å by {what}:", markdown_table((what, *headings), rows)]
    return found


def _tables(what: str, lines: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Forces and energies apart, each beside its trivial baseline."""
    found = []
    for key, unit in (("forces", "Forces in meV/Å"), ("energy", "Energies in meV")):
        headings, rows = error_cells(lines, key)
        if len(headings) > 1:
            found += [f"{unit}:", markdown_table((what, *headings), rows)]
    return found


def _checks(model: PublishedModel, title: str) -> list[str]:
    energies_alone = model.kind == "mlp" or (model.kind == "pooled" and model.config.get("force_weight") == 0)
    found = physical_checks(model.metrics, model.training_metrics, model.example, not energies_alone)
    return [f"## Physical checks{title}", *found] if found else []


def _figure(model: PublishedModel, name: str) -> str:
    return f"![{_FIGURES[name]}]({f'{model.name}/' if model.name else ''}{name})"


def _training(model: PublishedModel, title: str) -> list[str]:
    if not model.recipe and not model.run:
        return []
    run = model.run
    data = run.get("data") or run.get("data_sha256") or {}
    prints = data if isinstance(data, Mapping) else {"all": data}
    rows = [
        ("data", model.recipe.get("dataset")),
        ("structures", ", ".join(f"{split} {count}" for split, count in run.get("structures", {}).items())),
        ("fingerprint of the data", ", ".join(f"{split} {value}" for split, value in prints.items())),
        ("started from", model.recipe.get("initial_model")),
        *((name, model.recipe.get(name)) for name in _SETTINGS),
        ("hardware", f"{run['device']}, processes: {run.get('processes')}" if "device" in run else None),
        (f"time{_of_part(run)} (h)", f"{run['training_seconds'] / 3600:.2f}" if "training_seconds" in run else None),
        ("versions", ", ".join(f"{name} {value}" for name, value in run.get("versions", {}).items())),
        ("revision of the code", run.get("git_revision")),
    ]
    shown = [(name, value) for name, value in rows if value not in (None, "", [], {})]
    where = f"{model.name}/" if model.name else ""
    return [
        f"## Training{title}",
        f"`train.py` reads [recipe.yaml]({where}recipe.yaml) again.",
        markdown_table(("", ""), shown),
    ]


def _of_part(run: Mapping[str, Any]) -> str:
    """A training that was broken off and went on has a time per part, of which that of the last one is known."""
    return f" of part {run['part']}, the last one" if run.get("part", 1) != 1 else ""


def _limits(models: Sequence[PublishedModel]) -> list[str]:
    kinds = {model.kind for model in models}
    lines = []
    if "forces" in kinds:
        lines.append(
            "Forces of the force model are predicted, not the gradient of an energy: relax structures with them; do "
            "not run molecular dynamics, and use no optimiser with a line search."
        )
    if "pooled" in kinds:
        lines.append(
            "Forces of the energy model are the gradient of its energy, so it serves for molecular dynamics too, "
            "inside the trained region; measure the drift of the energy first."
        )
    if "mlp" in kinds:
        limit = next(model.config["max_atoms"] for model in models if model.kind == "mlp")
        lines.append(f"The energy network takes at most {limit} atoms and reads them by their place in the list.")
    return [
        *lines,
        "Neutral defects only: there is no charge, no magnetic moment and no stress; cells stay fixed.",
        "Its labels are its truth: at best it is as good as the level of theory of the data.",
        "Check what matters with the method that made the labels.",
    ]


def _citation() -> list[str]:
    if not _CITATION.is_file():
        return []
    paper = yaml.safe_load(_CITATION.read_text(encoding="utf-8"))["preferred-citation"]
    authors = " and ".join(f"{one['family-names']}, {one['given-names']}" for one in paper["authors"])
    fields = {"title": f"{{{paper['title']}}}", "author": authors, "year": paper["year"], "doi": paper["doi"]}
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return ["## Citation", "\n".join(["```bibtex", "@misc{adapt,", *lines, "}", "```"])]


def _range(limits: Sequence[float] | None) -> str:
    return "" if limits is None else " to ".join(dict.fromkeys(map(_number, limits)))


def _number(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"
