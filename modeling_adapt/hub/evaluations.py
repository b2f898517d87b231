"""Which evaluation is of a model. Its numbers stand on the card, so those of another one must never get there."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .records import read_record
from .weights import weights_hash


def evaluation_folder(given: str | Path) -> Path:
    """The folder that `evaluate.py` wrote, also where its `metrics.json` is named.

    Raises:
        [`InputError`]: there is no metrics.json, or its numbers are not those of one model.
    """
    folder = Path(given).expanduser()
    folder = folder.parent if folder.name == "metrics.json" and folder.is_file() else folder
    if not (folder / "metrics.json").is_file():
        raise InputError(f"{given} holds no metrics.json; name a folder that evaluate.py wrote")
    if _is_of_several(read_record(folder / "metrics.json")):
        raise InputError(
            f"{given} is an evaluation of averaged predictions, not of this model alone; run evaluate.py on it "
            "without --ensemble and --num-images"
        )
    return folder


def evaluation_of(model: Path, given: Sequence[Path], nearby: Sequence[Path]) -> Path | None:
    """The evaluation of the checkpoint in `model`: of those that were given, or else the first of those nearby.

    Raises:
        [`InputError`]: two of those given are of it.
    """
    found = [folder for folder in given if _is_of(folder, model, given=True)]
    if len(found) > 1:
        raise InputError(f"{found[0]} and {found[1]} are both evaluations of {model}; name one of them")
    return found[0] if found else _nearby(model, nearby)


def require_all_used(evaluations: Sequence[str | Path], used: Sequence[Path | None]) -> None:
    """Raises [`InputError`] for an evaluation of another model: its numbers must not stand beside this one."""
    for given in evaluations:
        folder = evaluation_folder(given)
        if folder in used:
            continue
        metrics = read_record(folder / "metrics.json")
        if "weights_sha256" not in metrics:
            raise InputError(
                f"{given} does not say of which weights it is (by an earlier evaluate.py, of {metrics.get('model')}): "
                "evaluate the model again"
            )
        raise InputError(
            f"{given} is an evaluation of {metrics.get('model')}, not of this model; run evaluate.py on this one"
        )


def _nearby(model: Path, folders: Sequence[Path]) -> Path | None:
    found = [folder for folder in folders if _is_of(folder, model, given=False)]
    for folder in found[:1]:
        left_out = f"; {found[1]} is one of it too" if len(found) > 1 else ""
        print(f"{model}: the card has the errors of {folder}{left_out}", file=sys.stderr)
    if not found:
        for folder in folders:
            if (folder / "metrics.json").is_file():
                print(
                    f"{folder} is not taken: it is no evaluation of these weights alone, or does not say of which",
                    file=sys.stderr,
                )
    return found[0] if found else None


def _is_of(evaluation: Path, model: Path, given: bool) -> bool:
    """By the hash of the weights. One without is of an earlier version: whoever names it says that it is this one's,
    and still what it names must be this folder."""
    metrics = read_record(evaluation / "metrics.json")
    if not metrics or _is_of_several(metrics):
        return False
    if "weights_sha256" in metrics:
        return metrics["weights_sha256"] == weights_hash(model)
    if not given or not isinstance(metrics.get("model"), str):
        return False
    recorded = Path(metrics["model"]).expanduser() / str(metrics.get("subfolder", ""))
    return recorded.resolve() == model.resolve()


def _is_of_several(metrics: dict[str, Any]) -> bool:
    """Of an ensemble, or of images of one model that nobody averages who loads it."""
    return bool(metrics.get("ensemble")) or metrics.get("num_images", 1) != 1
