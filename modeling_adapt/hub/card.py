"""README.md of a model: its header for the Hub, and a text in which every number comes from a file beside it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..errors import InputError, one_line
from ..evaluation.metrics import NEAR_DEFECT_RADIUS
from .card_text import PublishedModel, card_body
from .records import read_record
from .staging import ENERGY

_RESULTS = (
    ("force_mae_mev_per_ang", "mae", "Force MAE (meV/Å)"),
    ("force_rmse_mev_per_ang", "rmse", "Force RMSE (meV/Å)"),
    ("near_defect_mae_mev_per_ang", "mae", f"Force MAE within {NEAR_DEFECT_RADIUS:g} Å of a defect (meV/Å)"),
    ("energy_mae_mev_per_atom", "mae", "Energy MAE (meV/atom)"),
    ("energy_rmse_mev_per_atom", "rmse", "Energy RMSE (meV/atom)"),
)
_TAGS = ["chemistry", "physics", "materials-science", "force-field", "interatomic-potential"]


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
        repository: `organisation/name` that the code in it loads.
        license: identifier of the Hub for the weights.
        datasets: per model the Hub id of the data set that it was trained on, None where there is none.
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
    trained_on = [*datasets, *[None] * len(models)][: len(models)]
    named = list(dict.fromkeys(one for one in trained_on if one is not None))
    results = [result for pair in zip(models, trained_on, strict=True) for result in _results(*pair)]
    header = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="other",  # of the tasks that the Hub knows; the pipeline's own name is among the tags
        tags=[*_TAGS, *(["atom-forces"] if models[0].kind != "mlp" else []), *_elements(models)],
        datasets=named or None,
        model_name=name,
        eval_results=results or None,
    )
    if not results:
        header.pop("model_name")
    body = card_body(models, repository, license=license, datasets=named, revision=revision)
    text = f"---\n{header.to_yaml()}\n---\n\n{body.rstrip()}\n"
    _require_readable(text, results)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return text


def _published(folder: Path, name: str = "") -> PublishedModel:
    return PublishedModel(
        name=name,
        config=read_record(folder / "config.json"),
        example=read_record(folder / "example.json"),
        recipe=read_record(folder / "recipe.yaml"),
        run=(read_record(folder / "run.json").get("parts") or [{}])[-1],
        metrics=read_record(folder / "metrics.json"),
        training_metrics=read_record(folder / "training_metrics.json"),
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
