"""The folder that is published, made anew from a list of what may go out; whatever else is in a run stays home.

`example.json` in it is one structure and what the model says about it, so that anybody can see that a copy works.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml
from ase.build import bulk
from huggingface_hub import HfApi
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_imports, get_relative_imports
from transformers.utils import FEATURE_EXTRACTOR_NAME

from ..data.columns import open_rows
from ..data.load.reading import parquet_splits
from ..data.structures import atoms_from_row
from ..errors import InputError, one_line
from ..evaluation.answers import ANSWERS_FIGURE, ANSWERS_FILE
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..files import is_full_disk
from ..loading import load_model
from ..markdown import TEMPLATES
from ..modeling_adapt import forces_of
from ..simulation.doubt import load_doubt
from .card import write_model_card
from .dataset import trained_on
from .picture import PICTURE, draw_example
from .privacy import copy_png, last_name, publishable
from .run_folder import ENERGY, PICKLES, RunFolder
from .schema import published_fields

SUBFOLDERS = ["", ENERGY]  # of the first model and of the second
MAY_BE_IMPORTED = {"numpy", "torch", "transformers", "huggingface_hub"} | sys.stdlib_module_names  # by published code
_CODE = (
    *("architectures", "configuration", "elements", "embeddings", "encoder", "feature_extraction", "mesh", "mlp"),
    *("modeling", "neighbours", "pairwise", "pipeline", "pretrained", "reciprocal", "repulsion", "versions"),
)
_OF_EVALUATION = ("parity", "energy_parity", "stress_parity", "error_by_distance", "error_by_force")  # its figures
_OF_A_MODEL = (
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|config\.json|preprocessor_config\.json|"
    r"doubt\.safetensors|"
    r"example\.json|recipe\.yaml|run\.json|training_metrics\.json|metrics\.json|training_curve\.png|"
    rf"answers\.json|({'|'.join((*_OF_EVALUATION, 'answers', 'example'))})\.png"
)
_ALLOWED = re.compile(rf"({ENERGY}/)?({_OF_A_MODEL})|({'|'.join(_CODE)})_adapt\.py|README\.md|LICENSE")
_SHARD = "2GB"
_COLUMNS = ["atomic_numbers", "positions", "cell", "pbc", "config_type", "trajectory", "source"]
_ROWS = 1000  # of which the smallest structure is taken as the example


@contextmanager
def enough_space(folder: Path) -> Iterator[None]:
    """Says in one line that the file system of a temporary folder is full, instead of what a writer says."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not is_full_disk(error):
            raise
        raise InputError(f"no space is left in {folder}: make room, or name another folder with TMPDIR") from error


def is_ours(name: str) -> bool:
    """Whether a file of that name in a model repository is one that an upload writes, and may take away again."""
    return _ALLOWED.fullmatch(name) is not None


def stage_repository(
    runs: Sequence[RunFolder],
    folder: Path,
    repository: str,
    *,
    dataset: str | Path | None = None,
    data_repository: str = "",
    license: str = "unknown",
    revision: str | None = None,
    api: HfApi | None = None,
) -> dict[str, Path]:
    """
    Writes all that is published of one model, or of two, and the card.

    Args:
        runs (`Sequence[RunFolder]`): A model, and an energy beside a force model.
        folder (`Path`): To write into.
        repository (`str`): `organisation/name` where it goes.
        dataset (`str` or `Path`, *optional*): The data set that is published too, if any.
        data_repository (`str`, defaults to `""`): Where that goes.
        license (`str`, defaults to `"unknown"`): Of the weights.
        revision (`str`, *optional*): Tag or branch that the card recommends.
        api (`HfApi`, *optional*): The Hub, or None where it must not be asked.

    Returns:
        `dict[str, Path]`: Name in the repository -> file.

    Raises:
        [`InputError`]: As [`stage_model`], or the second model is no energy beside forces.
    """
    structure = example_structure(dataset)
    models = [stage_model(run, structure, folder, name) for run, name in zip(runs, SUBFOLDERS, strict=False)]
    kinds = [model.config.model_type for model in models]
    if kinds[1:] == ["adapt"]:
        raise InputError(f"--energy {runs[1].run} is no energy model")
    if kinds == ["adapt_energy"] * 2:
        raise InputError(f"{runs[0].run} is an energy model itself; --energy stands beside a force model")
    shutil.copyfile(TEMPLATES / "LICENSE", folder / "LICENSE")
    named = [
        trained_on(run, model.config, dataset, data_repository, api) for run, model in zip(runs, models, strict=True)
    ]
    write_model_card(folder, repository, license=license, datasets=named, revision=revision)
    return staged_files(folder)


def stage_model(run: RunFolder, structure: dict[str, Any], folder: Path, name: str = "") -> PreTrainedModel:
    """Writes into `folder` all that is published of one model; below `name` where it is the second one.

    Returns:
        `PreTrainedModel`: The model.

    Raises:
        [`InputError`]: The model does not load, has weights that are not finite, or cannot read the example.
    """
    model, feature_extractor = load_model(run.model)
    if not model.config.gives_forces and not (run.model / FEATURE_EXTRACTOR_NAME).is_file():
        raise InputError(
            f"{run.model} has no {FEATURE_EXTRACTOR_NAME}, without which nobody knows in which order this network "
            "reads the atoms; copy it from where the model was trained"
        )
    _require_finite(model, run)
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    _save(model, feature_extractor, target)
    if (doubt := load_doubt(run.model)) is not None:
        doubt.save(target)  # for the weights as they are written here
    if name:  # the code of the first model serves both
        for path in target.glob("*.py"):
            path.unlink()
    for file in ("config.json", "preprocessor_config.json"):
        _write(target / file, json.loads((target / file).read_text(encoding="utf-8")))
    example = _with_answer(structure, model, feature_extractor)
    _write(target / "example.json", example)
    if not name:  # both models are given the same structure
        draw_example(example, target / PICTURE)
    _write(target / "recipe.yaml", run.recipe | _names_of_folders(run))
    _write(target / "run.json", _published_run(run))
    _write(target / "training_metrics.json", run.training_metrics)
    _write(target / "metrics.json", _published_metrics(run))
    _write(target / ANSWERS_FILE, run.answers)
    figures = [(run.run, "training_curve.png")]
    if run.evaluation is not None:
        figures += [(run.evaluation, f"{name}.png") for name in _OF_EVALUATION]
    if run.answered is not None:
        figures.append((run.answered, ANSWERS_FIGURE))
    for source, file in figures:
        if (source / file).is_file():
            copy_png(source / file, target / file)
    return model


def staged_files(folder: Path) -> dict[str, Path]:
    """Name in the repository -> file, of a staged folder.

    Raises:
        [`InputError`]: Something is there that is not on the list, or code that imports what a stranger need not have.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for name, path in files.items():
        if not is_ours(name) or path.suffix in PICKLES or path.is_symlink():
            raise InputError(f"{name} is not on the list of what is published")
        if path.suffix == ".py":
            _require_modest(path)
    return files


def example_structure(dataset: str | Path | None) -> dict[str, Any]:
    """
    The smallest of the first structures of a data set that is published too, of its validation split where that has
    any; without a data set 8 atoms of silicon off their sites, which show that a copy computes the same and nothing
    more.

    Raises:
        [`InputError`]: `dataset` is no data set of structures, or has none.
    """
    if dataset is None:
        atoms, source = bulk("Si", cubic=True), "silicon off its lattice sites, not from the training data"
        atoms.rattle(0.05, seed=0)
    else:
        table = _first_rows(dataset)
        sizes = [len(numbers) for numbers in table["atomic_numbers"]]
        row = table.slice(int(np.argmin(sizes)), 1).to_pylist()[0]
        atoms, source = atoms_from_row(row), row["source"]
    return {
        "atomic_numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.round(6).tolist(),
        "cell": atoms.cell.array.round(9).tolist(),
        "pbc": atoms.pbc.tolist(),
        "source": source,
        "units": {"positions": "Å", "forces": "eV/Å", "energy": "eV"},
    }


def _save(model: PreTrainedModel, feature_extractor: ADAPTFeatureExtractor, folder: Path) -> None:
    try:
        model.save_pretrained(folder, max_shard_size=_SHARD)
        feature_extractor.save_pretrained(folder)
    except (ValueError, TypeError) as error:
        raise InputError(f"the model cannot be saved: {one_line(error)}") from error


def _published_run(run: RunFolder) -> dict[str, Any]:
    """The last part of the training."""
    if not run.parts:
        return {}
    last = dict(run.parts[-1])
    if run.training_seconds is not None:
        last["training_seconds"] = run.training_seconds
    return {"parts": [last | {"part": len(run.parts)}]}


def _published_metrics(run: RunFolder) -> dict[str, Any]:
    """With what the card cannot tell from the names alone, when they are cut to their last part."""
    if not run.metrics:
        return {}
    folder = _names_of_folders(run).get("dataset") if run.evaluated_on_its_data else None
    named = {} if folder is None else {"dataset": folder}
    return run.metrics | named | {"data_set_of_the_training": run.evaluated_on_its_data}


def _names_of_folders(run: RunFolder) -> dict[str, str]:
    """What the recipe names and is no repository: a relative path looks like the id of one, and has no revision."""
    names = {"dataset": "dataset_revision", "initial_model": "initial_revision"}
    return {
        name: last_name(folder)
        for name, revision in names.items()
        if revision in run.recipe and run.recipe[revision] is None and (folder := run.recipe.get(name))
    }


def _require_finite(model: PreTrainedModel, run: RunFolder) -> None:
    for name, values in model.state_dict().items():
        if not torch.isfinite(values).all():
            raise InputError(
                f"{run.model}: {name} has values that are not finite; the training went wrong, take another checkpoint"
            )


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """As JSON or YAML, its named fields alone, with nothing private in them; one that is not there is not written."""
    values = publishable(published_fields(path.name, values))
    if not values:
        return
    if path.suffix == ".yaml":
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    else:
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def _require_modest(path: Path) -> None:
    """What stands in a try block, such as ASE for reading files, may be missing."""
    foreign = set(get_imports(path)) - MAY_BE_IMPORTED
    absent = [name for name in get_relative_imports(path) if not path.with_name(f"{name}.py").is_file()]
    if foreign or absent:
        raise InputError(f"{path.name} imports {sorted([*foreign, *absent])[0]}, which a stranger does not have")


def _first_rows(dataset: str | Path) -> pa.RecordBatch:
    splits = parquet_splits(dataset)
    try:
        for path in [*splits.get("validation", []), *sum(splits.values(), [])]:
            for batch in open_rows(path).iter_batches(_ROWS, columns=_COLUMNS):
                if len(batch):
                    return batch
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged: {one_line(error)}") from error
    raise InputError(f"{dataset} holds no structures")


def _with_answer(
    structure: dict[str, Any], model: PreTrainedModel, feature_extractor: ADAPTFeatureExtractor
) -> dict[str, Any]:
    """`structure` with the `forces` and the `energy` that the model gives.

    Raises:
        [`InputError`]: The model cannot read the structure, or gives what is not finite.
    """
    answer: dict[str, Any] = {}
    try:
        with _one_thread(), torch.no_grad():
            inputs = feature_extractor(structure)
            output = forces_of(model, **inputs) if model.config.gives_forces else model(**inputs)
    except ValueError as error:
        raise InputError(f"the model cannot read the example ({structure['source']}): {error}") from error
    for name, decimals in (("forces", 7), ("energy", 6)):
        if output.get(name) is not None:
            values = output[name][0].double().numpy()
            if not np.isfinite(values).all():
                raise InputError("the model predicts values that are not finite; it must not be published")
            answer[name] = values.round(decimals).tolist()
    return structure | answer


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums come in the same order at every run, so that an example that is written again is the same file."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
