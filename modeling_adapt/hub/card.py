"""README.md of a model: its header for the Hub, and a text in which every number comes from a file beside it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..errors import InputError, one_line
from .card_text import PublishedModel, card_body
from .staging import ENERGY

_RESULTS = (
    ("force_mae_mev_per_ang", "mae", "Force MAE (meV/Å)"),
    ("force_rmse_mev_per_ang", "rmse", "Force RMSE (meV/Å)"),
    ("near_defect_mae_mev_per_ang", "mae", "Force MAE within 5 Å of a defect (meV/Å)"),
    ("energy_mae_mev_per_atom", "mae", "Energy MAE (meV/atom)"),
    ("energy_rmse_mev_per_atom", "rmse", "Energy RMSE (meV/atom)"),
)
_TAGS = ["chemistry", "physics", "materials-science", "force-field", "interatomic-potential"]


def write_model_card(
    folder: Path,
    repository: str,
    *,
    license: str = "mit",
    dataset: str | None = None,
    revision: str | None = None,
) -> str:
    """Writes `README.md` into a staged folder, from nothing but the files there.

    Args:
        repository: `organisation/name` that the code in it loads.
        license: identifier of the Hub for the weights.
        dataset: Hub id of the data set that the model was trained on, where there is one.
        revision: tag or branch to recommend.

    Returns:
        The text.

    Raises:
        [`InputError`]: `huggingface_hub` does not read the header back as it was written.
    """
    models = [_published(folder)]
    if (folder / ENERGY / "config.json").is_file():
        models.append(_published(folder / ENERGY, ENERGY))
    name = repository.split("/")[-1]
    results = [result for model in models for result in _results(model, dataset)]
    header = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="other",  # of the tasks that the Hub knows; the pipeline's own name is among the tags
        tags=[*_TAGS, *(["atom-forces"] if models[0].kind != "mlp" else []), *_elements(models)],
        datasets=None if dataset is None else [dataset],
        model_name=name,
        eval_results=results or None,
    )
    if not results:
        header.pop("model_name")
    body = card_body(models, repository, license=license, dataset=dataset, revision=revision)
    text = f"---\n{header.to_yaml()}\n---\n\n{body.rstrip()}\n"
    _require_readable(text, results)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return text


def _published(folder: Path, name: str = "") -> PublishedModel:
    def read(file: str) -> dict[str, Any]:
        path = folder / file
        if not path.is_file():
            return {}
        text = path.read_text(encoding="utf-8")
        return yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)

    return PublishedModel(
        name=name,
        config=read("config.json"),
        example=read("example.json"),
        recipe=read("recipe.yaml"),
        run=(read("run.json").get("parts") or [{}])[-1],
        metrics=read("metrics.json"),
        training_metrics=read("training_metrics.json"),
        figures=[path.name for path in sorted(folder.glob("*.png"))],
    )


def _results(model: PublishedModel, dataset: str | None) -> Iterator[EvalResult]:
    """Of the evaluation; without one those of the training, which are of the split that is named in the table too."""
    source, prefix, split = model.headline()
    local = str(source.get("dataset") or model.recipe.get("dataset") or "unknown")
    where = f" of {model.name}/" if model.name else ""
    for key, kind, title in _RESULTS:
        if prefix + key in source:
            yield EvalResult(
                task_type="other",
                task_name="Forces and energies of atoms",
                dataset_type=dataset or local,
                dataset_name=dataset or local,
                dataset_split=split,
                metric_type=kind,
                metric_name=title + where,
                metric_value=source[prefix + key],
            )


def _elements(models: list[PublishedModel]) -> list[str]:
    domains = [model.config.get("training_domain") or {} for model in models]
    return sorted({symbol for domain in domains for symbol in domain.get("elements", [])})


def _require_readable(text: str, results: list[EvalResult]) -> None:
    try:
        read = ModelCard(text, ignore_metadata_errors=False).data
    except Exception as error:  # the YAML library raises many types
        raise InputError(f"the card cannot be read back: {one_line(error)}") from error
    values = [result.metric_value for result in results]
    if [result.metric_value for result in read.get("eval_results") or []] != values:
        raise InputError("the results in the header of the card are not read back as they were written")
