"""The folder that is published, made anew from a list of what may go out; whatever else is in a run stays home."""

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from transformers import Pipeline, PreTrainedModel
from transformers.dynamic_module_utils import get_imports, get_relative_imports
from transformers.utils import FEATURE_EXTRACTOR_NAME

from ..errors import InputError, one_line
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..hub_access import is_full_disk
from ..loading import load_model
from ..modeling_adapt import gives_forces
from ..pipeline_adapt import AtomForcesPipeline
from .example import with_answer
from .private import publishable, require_png
from .run_folder import PICKLES, RunFolder

ENERGY = "energy"  # the folder of a second model
LICENSE = Path(__file__).resolve().parents[2] / "LICENSE"
MAY_BE_IMPORTED = {"numpy", "torch", "transformers", "huggingface_hub"} | sys.stdlib_module_names  # by published code
_CODE = (
    *("configuration", "elements", "feature_extraction", "geometry", "modeling", "pairwise", "pipeline", "versions"),
)
_OF_EVALUATION = ("parity", "energy_parity", "error_by_distance", "error_by_force")  # its figures
_OF_A_MODEL = (
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|config\.json|preprocessor_config\.json|"
    r"example\.json|recipe\.yaml|run\.json|training_metrics\.json|metrics\.json|training_curve\.png|"
    rf"({'|'.join(_OF_EVALUATION)})\.png"
)
_ALLOWED = re.compile(rf"({ENERGY}/)?({_OF_A_MODEL})|({'|'.join(_CODE)})_adapt\.py|README\.md|LICENSE")
_SHARD = "2GB"


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


def stage_model(run: RunFolder, structure: dict[str, Any], folder: Path, name: str = "") -> PreTrainedModel:
    """Writes into `folder` all that is published of one model; below `name` where it is the second one.

    Returns:
        The model.

    Raises:
        [`InputError`]: the model does not load, has weights that are not finite, or cannot read the example.
    """
    model, feature_extractor = load_model(run.model)
    if getattr(model.config, "architecture", None) == "mlp" and not (run.model / FEATURE_EXTRACTOR_NAME).is_file():
        raise InputError(
            f"{run.model} has no {FEATURE_EXTRACTOR_NAME}, without which nobody knows in which order this network "
            "reads the atoms; copy it from where the model was trained"
        )
    _require_finite(model, run)
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    _save(model, feature_extractor, target)
    if name:  # the code of the first model serves both
        for path in target.glob("*.py"):
            path.unlink()
    for file in ("config.json", "preprocessor_config.json"):
        _write(target / file, _without_local_names(json.loads((target / file).read_text(encoding="utf-8"))))
    _write(target / "example.json", with_answer(structure, model, feature_extractor))
    _write(target / "recipe.yaml", run.recipe)
    _write(target / "run.json", _published_run(run))
    _write(target / "training_metrics.json", run.training_metrics)
    _write(target / "metrics.json", _published_metrics(run))
    figures = [(run.run, "training_curve.png")]
    if run.evaluation is not None:
        figures += [(run.evaluation, f"{name}.png") for name in _OF_EVALUATION]
    for source, file in figures:
        if (source / file).is_file():
            require_png(source / file)
            shutil.copyfile(source / file, target / file)
    return model


def staged_files(folder: Path) -> dict[str, Path]:
    """Name in the repository -> file, of a staged folder.

    Raises:
        [`InputError`]: something is there that is not on the list, or code that imports what a stranger need not have.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for name, path in files.items():
        if not is_ours(name) or path.suffix in PICKLES or path.is_symlink():
            raise InputError(f"{name} is not on the list of what is published")
        if path.suffix == ".py":
            _require_modest(path)
    return files


def _save(model: PreTrainedModel, feature_extractor: ADAPTFeatureExtractor, folder: Path) -> None:
    try:
        if gives_forces(model):  # through the pipeline, which enters itself in config.json and adds its code
            pipeline: Pipeline = AtomForcesPipeline(
                model=model, feature_extractor=feature_extractor, task="atom-forces", device="cpu"
            )
            pipeline.save_pretrained(folder, max_shard_size=_SHARD)
        else:
            model.save_pretrained(folder, max_shard_size=_SHARD)
            feature_extractor.save_pretrained(folder)
    except (ValueError, TypeError) as error:
        raise InputError(f"the model cannot be saved: {one_line(error)}") from error


def _published_run(run: RunFolder) -> dict[str, Any]:
    """The last part of the training. Not its command: what stands there names this machine in ways nobody foresees."""
    if not run.parts:
        return {}
    last = {name: value for name, value in run.parts[-1].items() if name != "command"}
    if run.training_seconds is not None:
        last["training_seconds"] = run.training_seconds
    return {"parts": [last | {"part": len(run.parts)}]}


def _published_metrics(run: RunFolder) -> dict[str, Any]:
    """With what the card cannot tell from the names alone, when they are cut to their last part."""
    kept = {name: value for name, value in run.metrics.items() if name != "model_path"}
    return kept | {"data_set_of_the_training": run.evaluated_on_its_data} if kept else {}


def _require_finite(model: PreTrainedModel, run: RunFolder) -> None:
    for name, values in model.state_dict().items():
        if not torch.isfinite(values).all():
            raise InputError(
                f"{run.model}: {name} has values that are not finite; the training went wrong, take another checkpoint"
            )


def _without_local_names(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("_name_or_path", "_commit_hash")}


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """As JSON or YAML, with nothing private in it; a record that is not there is not written."""
    if not values:
        return
    values = publishable(values)
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
