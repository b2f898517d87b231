"""
README.md of a model: its header for the Hub, and a text in which every number comes from a file beside it.

The sentences are in `templates/model_card.md.jinja`.
"""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..configuration.architectures_adapt import ARCHITECTURES, Architecture
from ..configuration.versions_adapt import ADAPT_VERSION, FORMAT_VERSION
from ..errors import InputError, one_line
from ..evaluation.answers import ANSWERS_FILE, Answer, answer_cells, answer_notes
from ..evaluation.metrics import NEAR_DEFECT_RADIUS
from ..evaluation.physical_checks import CHECKS
from ..evaluation.report import by_config_type, error_cells
from ..hub_access import is_local
from ..markdown import TEMPLATES, render
from ..training.arguments import MODEL_FIELDS, RunArguments
from .picture import PICTURE
from .records import answers_of, checks_of, read_record
from .run_folder import ENERGY

# Identifiers of licences that the Hub knows (https://huggingface.co/docs/hub/repositories-licenses).
LICENSES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
    gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ms-pl ncsa
    odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
    """.split()
)
_RESULTS = (
    ("force_mae_mev_per_ang", "mae", "Force MAE (meV/Å)"),
    ("force_rmse_mev_per_ang", "rmse", "Force RMSE (meV/Å)"),
    ("near_defect_mae_mev_per_ang", "mae", f"Force MAE within {NEAR_DEFECT_RADIUS:g} Å of a defect (meV/Å)"),
    ("energy_mae_mev_per_atom", "mae", "Energy MAE (meV/atom)"),
    ("energy_rmse_mev_per_atom", "rmse", "Energy RMSE (meV/atom)"),
    ("stress_mae_gpa", "mae", "Stress MAE (GPa)"),
)
_TAGS = ["chemistry", "physics", "materials-science", "force-field", "interatomic-potential"]
_PACKAGES = ("transformers", "torch", "accelerate", "datasets")
_ROLES = {"validation": "eval_", "test": "test_"}  # split of a training -> what its errors begin with
_NET_FORCE = "net_force_per_atom_mev_per_ang"
# What stands in where no evaluation measured it: (name in training_metrics.json, name in CHECKS, what it is).
_OF_TRAINING = (
    ("eval_octahedral_error", "octahedral_error_mev_per_ang", "the symmetries of the cube"),
    ("eval_rotation_error", "rotation_error_mev_per_ang", "random rotations"),
)
# Of a recipe: rows of their own, a folder of somebody, and what every training has.
_NO_SETTINGS = ("dataset", "initial_model", "output_dir", "label_names")
# Fields of a model that mean nothing where another one is zero or false: what the field is -> what decides.
_ONLY_WITH = {
    "force_loss": "force_weight",
    "force_weight": "force_weight",
    "stress_weight": "stress_weight",
    **dict.fromkeys(("long_range", "long_range_cutoff", "long_range_channels"), "long_range"),
    "reads_charge": "reads_charge",
    "short_range_repulsion": "short_range_repulsion",
}


def require_license(name: str | None) -> None:
    """
    Raises [`InputError`] for none, as nobody may use what has no licence, and for a name that the Hub would refuse
    with the card, after the files went up.
    """
    if name is None:
        raise InputError(
            "--license: say under which licence the weights go out, as far as that of the data allows it: mit, "
            "cc-by-4.0, other, ...; or unknown"
        )
    if name not in LICENSES:
        raise InputError(
            f"--license {name!r}: the Hub knows no such identifier; take one like mit or cc-by-4.0, other for a "
            "licence of your own, or unknown"
        )


def write_model_card(
    folder: Path,
    repository: str,
    *,
    license: str = "unknown",
    datasets: Sequence[str | None] = (),
    revision: str | None = None,
) -> str:
    """Writes `README.md` into a staged folder, from nothing but the files there.

    Args:
        repository (`str`): `organisation/name` that the code in it loads.
        license (`str`, defaults to `"unknown"`): Identifier of the Hub for the weights.
        datasets (`Sequence[str | None]`, defaults to `()`):
            Per model the Hub id of the data set that it was trained on, None where there is none.
        revision (`str`, *optional*): Tag or branch to recommend.

    Returns:
        `str`: The text.

    Raises:
        [`InputError`]: `huggingface_hub` does not read the header back as it was written.
    """
    models = [_published(folder)]
    if (folder / ENERGY / "config.json").is_file():
        models.append(_published(folder / ENERGY, ENERGY))
    trained_on = [*datasets, *[None] * len(models)][: len(models)]
    named = list(dict.fromkeys(one for one in trained_on if one is not None))
    paper = yaml.safe_load((TEMPLATES / "CITATION.cff").read_text(encoding="utf-8"))["preferred-citation"]
    results = [result for pair in zip(models, trained_on, strict=True) for result in _results(*pair)]
    header = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="other",  # of the tasks that the Hub knows; the pipeline's own name is among the tags
        tags=[
            *(*_TAGS, *(["atom-forces"] if models[0].kind != "energy" else []), *_elements(models)),
            f"arxiv:{paper['url'].rsplit('/', 1)[-1]}",
        ],
        datasets=named or None,
        base_model=list(dict.fromkeys(model.base_model for model in models if model.base_model)) or None,
        thumbnail=_address(repository, revision, PICTURE) if (folder / PICTURE).is_file() else None,
        model_name=repository.split("/")[-1],
        eval_results=results or None,
    )
    if not results:
        header.pop("model_name")
    body = render(
        "model_card.md.jinja",
        models=models,
        repository=repository,
        revision=revision,
        license=license,
        datasets=named,
        versions={"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        project=ADAPT_VERSION,
        format_version=FORMAT_VERSION,
        paper=paper,
        error_cells=error_cells,
        by_config_type=by_config_type,
        tables_of_answers=_tables_of_answers,
        answer_notes=answer_notes,
    )
    text = f"---\n{header.to_yaml()}\n---\n\n{body}\n"
    _require_readable(text, results)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return text


@dataclass(frozen=True)
class Check:
    """A line of the physical checks: its name in `CHECKS`, in words, the value, and what it should be.

    `of_forces`: whether it was measured on forces, so that what `CHECKS` says of them holds.
    """

    name: str
    words: str
    measured: str
    ideal: str
    of_forces: bool = True


@dataclass(frozen=True)
class PublishedModel:
    """The files of one model in the folder that is published; `name` is its subfolder, "" for the first one.

    Args:
        config, example, recipe, metrics, training_metrics (`Mapping[str, Any]`):
            What these files hold; empty where there is none.
        answers (`Mapping[str, Answer]`): Those of answers.json, by name; empty where there is none.
        run (`Mapping[str, Any]`): The last part of run.json.
        figures (`Sequence[str]`): Names of the pictures.
    """

    name: str
    config: Mapping[str, Any]
    example: Mapping[str, Any]
    recipe: Mapping[str, Any]
    run: Mapping[str, Any]
    metrics: Mapping[str, Any]
    training_metrics: Mapping[str, Any]
    answers: Mapping[str, Answer]
    figures: Sequence[str]

    @property
    def kind(self) -> str:
        """What it gives: `"forces"`, an `"energy"`, or `"both"`, where the forces are the gradient of the energy."""
        gives_forces, gives_energy = "forces" in self.example, "energy" in self.example
        return "both" if gives_forces and gives_energy else "forces" if gives_forces else "energy"

    def headline(self) -> tuple[Mapping[str, Any], str, str]:
        """Where the errors stand, what their names begin with, and the split that they are of."""
        if self.metrics:
            return self.metrics, "", str(self.metrics.get("split", "test"))
        role = "test" if any(name.startswith("test_") for name in self.training_metrics) else "validation"
        return self.training_metrics, _ROLES[role], self.split(role)

    def split(self, role: str) -> str:
        return str(self.recipe.get(f"{role}_split") or role)

    @property
    def evaluated_role(self) -> str | None:
        """What the training did with the split of the evaluation; splits of another data set only share the names."""
        if self.metrics.get("dataset") != self.recipe.get("dataset"):
            return None
        split = self.metrics.get("split")
        return next((role for role in ("train", "validation") if split == self.split(role)), None)

    @property
    def measured_in_training(self) -> dict[str, dict[str, Any]]:
        """Role of a split (validation, test) -> the errors on it."""
        measured = self.training_metrics.items()
        found = {
            role: {name.removeprefix(prefix): value for name, value in measured if name.startswith(prefix)}
            for role, prefix in _ROLES.items()
        }
        return {role: values for role, values in found.items() if "num_structures" in values}

    @property
    def trained_lines(self) -> dict[str, dict[str, Any]]:
        return {self.split(role): values for role, values in self.measured_in_training.items()}

    @property
    def physical_checks(self) -> list[Check]:
        """Those of the evaluation; where one is missing, what the training or the example tells of it."""
        checks = checks_of(self.metrics)
        # The training measures a model that did not learn forces by its energies.
        of_forces = self.kind != "energy" and self.config.get("force_weight") != 0
        scale = "RMS force component" if of_forces else "composition-only error"
        found = [Check(name, CHECKS[name][0], _shown(value, name), CHECKS[name][1]) for name, value in checks.items()]
        for name, same, what in _OF_TRAINING:
            if name in self.training_metrics and same not in checks:
                measured = f"{self.training_metrics[name]:.1e} of the {scale}"
                found.append(Check(same, f"RMS deviation under {what}, in training", measured, "0", of_forces))
        if "forces" in self.example and _NET_FORCE not in checks:
            net = np.abs(np.sum(self.example["forces"], axis=0)).max()
            found.append(Check(_NET_FORCE, "net force on the example", f"{net:.1e} eV/Å", "0"))
        return found

    @property
    def base_model(self) -> str | None:
        """Hub id of the model that the training started from; None for a folder, which nobody else has."""
        name = self.recipe.get("initial_model")
        return name if isinstance(name, str) and "/" in name and not is_local(name) else None

    @property
    def gives_stress(self) -> bool:
        """Whether its energy has a derivative by strain."""
        return self.kind == "both" and self._architecture.has_stress

    @property
    def settings(self) -> dict[str, str]:
        """
        Of the model, as config.json has them, those that it reads; what training fits is no setting, and neither is
        how to weigh or reach what counts for nothing.
        """
        read = self._architecture.fields("forces" if self.kind == "forces" else "energy")
        values = {name: self.config.get(name) for name in MODEL_FIELDS if name in read or name == "architecture"}
        idle = {name for name, decides in _ONLY_WITH.items() if decides in read and not self.config.get(decides)}
        return _settings({name: value for name, value in values.items() if name not in idle})

    @property
    def _architecture(self) -> Architecture:
        return ARCHITECTURES[self.config["architecture"]]

    @property
    def training_settings(self) -> dict[str, str]:
        """What the recipe has beside the model, where it is not the default."""
        defaults = asdict(RunArguments(dataset=""))
        no_settings = {*MODEL_FIELDS, *_NO_SETTINGS}
        return _settings(
            {
                name: value
                for name, value in self.recipe.items()
                if name not in no_settings and value != defaults.get(name)
            }
        )

    @property
    def sources(self) -> list[list[Any]]:
        """Cells of a line for each source that its data set was built from; none where it tells of none."""
        columns = ("name", "license", "structures", "citation", "url")
        return [[source.get(name, "-") for name in columns] for source in self.run.get("sources") or []]


def _published(folder: Path, name: str = "") -> PublishedModel:
    return PublishedModel(
        name=name,
        config=read_record(folder / "config.json"),
        example=read_record(folder / "example.json"),
        recipe=read_record(folder / "recipe.yaml"),
        run=(read_record(folder / "run.json").get("parts") or [{}])[-1],
        metrics=read_record(folder / "metrics.json"),
        training_metrics=read_record(folder / "training_metrics.json"),
        answers=answers_of(read_record(folder / ANSWERS_FILE)),
        figures=[path.name for path in sorted(folder.glob("*.png"))],
    )


def _results(model: PublishedModel, dataset: str | None) -> Iterator[EvalResult]:
    """Of the evaluation; without one those of the training, which are of the split that is named in the table too."""
    source, prefix, split = model.headline()
    measured_on = str(source.get("dataset") or model.recipe.get("dataset") or "unknown")
    if dataset is not None and (not model.metrics or model.metrics.get("data_set_of_the_training")):
        measured_on = dataset
    where = f" of {model.name}/" if model.name else ""
    for key, kind, title in _RESULTS:
        if prefix + key in source:
            yield EvalResult(
                task_type="other",
                task_name="Forces and energies of atoms",
                dataset_type=measured_on,
                dataset_name=measured_on,
                dataset_split=split,
                metric_type=kind,
                metric_name=title + where,
                metric_value=source[prefix + key],
            )


def _address(repository: str, revision: str | None, file: str) -> str:
    """Of a file as the Hub serves it: in a header it takes no names beside the card."""
    return f"https://huggingface.co/{repository}/resolve/{revision or 'main'}/{file}"


def _tables_of_answers(answers: Mapping[str, Answer]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """What each table is of -> its headings and lines: energies first, of which there are most."""
    energies = {name: one for name, one in answers.items() if one.unit == "eV"}
    others = {name: one for name, one in answers.items() if one.unit != "eV"}
    named = {"Energies in eV": energies, "Crystal and surface": others}
    return {name: answer_cells(some) for name, some in named.items() if some}


def _elements(models: list[PublishedModel]) -> list[str]:
    domains = [model.config.get("training_domain") or {} for model in models]
    return sorted({symbol for domain in domains for symbol in domain.get("elements", [])})


def _shown(value: float, name: str) -> str:
    text = "0" if value == 0 else f"{value:.3g}" if 0.001 <= abs(value) < 1000 else f"{value:.1e}"
    return f"{text} meV/Å" if name.endswith("_mev_per_ang") else text


def _settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Those that are set, as text."""
    return {name: _setting(value) for name, value in values.items() if value not in (None, "", [], {})}


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _require_readable(text: str, results: list[EvalResult]) -> None:
    try:
        read = ModelCard(text, ignore_metadata_errors=False).data
    except Exception as error:  # the YAML library raises many types
        raise InputError(f"the card cannot be read back: {one_line(error)}") from error
    values = [result.metric_value for result in results]
    if [result.metric_value for result in read.get("eval_results") or []] != values:
        raise InputError("the results in the header of the card are not read back as they were written")
