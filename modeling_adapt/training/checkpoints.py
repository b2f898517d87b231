"""Checkpoints that exist as a whole or not at all: a seal, written last, holds the hash of every file."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.trainer_utils import sort_checkpoints

from ..errors import InputError, one_line
from ..files import whole_file

SEAL = "seal.json"
_SIGNS_OF_A_FULL_DISK = ("enforce fail", "StreamWriter", "iostream")  # in the RuntimeError of torch.save


@contextmanager
def whole_or_gone(folder: Path) -> Iterator[None]:
    """While a checkpoint is written: what a full disk leaves of it is removed. Errors as in [`readable_errors`]."""
    with readable_errors(str(folder)):
        try:
            yield
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextmanager
def readable_errors(what: str) -> Iterator[None]:
    """Turns what a disk can do to `what` into one line with the remedy ([`InputError`])."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if type(error) is RuntimeError and not any(sign in str(error) for sign in _SIGNS_OF_A_FULL_DISK):
            raise
        raise InputError(
            f"{what} cannot be written: {one_line(error)}; make room and give the same command with "
            "--resume_from_checkpoint true, which goes on from the newest checkpoint that is whole"
        ) from error


def seal_checkpoint(folder: Path, run: Mapping[str, Any]) -> None:
    """
    Declares `folder` complete. Before, it is a checkpoint that was cut off, whatever it holds.

    Args:
        run: what a run that goes on from here must share, such as the hash of its data; plain JSON.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    files = {name: _digest(folder / name, to_disk=True) for name in names}
    with whole_file(folder / SEAL) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        json.dump({"files": files, "run": run}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def is_sealed(folder: Path) -> bool:
    """Whether `folder` was completed; what has become of its files since, [`read_seal`] tells."""
    return (folder / SEAL).is_file()


def read_seal(folder: Path) -> dict[str, Any]:
    """What [`seal_checkpoint`] was told about the run.

    Raises:
        [`InputError`]: the checkpoint is incomplete, or a file of it is missing or has changed since.
    """
    try:
        seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        files, run = seal["files"], seal["run"]
    except FileNotFoundError:
        raise InputError(f"{folder} is incomplete: the run ended while it was written") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is damaged: its {SEAL} cannot be read") from error
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{folder} is damaged: {name} is missing")
        if _digest(path) != digest:
            raise InputError(f"{folder} is damaged: {name} is not as it was written")
    return run


def newest_checkpoint(output: Path) -> tuple[Path | None, list[str]]:
    """The newest complete checkpoint in `output`, and what is wrong with each newer one."""
    faults = []
    for name in reversed(sort_checkpoints(str(output))):
        try:
            read_seal(Path(name))
        except InputError as error:
            faults.append(str(error))
        else:
            return Path(name), faults
    return None, faults


def rotate(newest: Path, limit: int | None, best: str | None) -> None:
    """
    Removes checkpoints beside `newest`, which was sealed just now: those without a seal, those of later steps (of a
    future that this run writes anew), and the oldest of more than `limit`. The best one stays.
    """
    checkpoints = [Path(name) for name in sort_checkpoints(str(newest.parent))]
    place = next(index for index, folder in enumerate(checkpoints) if folder.name == newest.name)
    kept = {newest.name} | ({Path(best).name} if best else set())
    spare = [folder for folder in checkpoints[:place] if is_sealed(folder) and folder.name not in kept]
    if limit:
        spare = spare[max(0, len(spare) - max(0, limit - len(kept))) :]
    kept |= {folder.name for folder in spare}
    for folder in checkpoints:
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _digest(path: Path, to_disk: bool = False) -> str:
    with path.open("rb") as file:
        if to_disk:  # a seal that outlives a loss of power must not vouch for files that do not
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
