"""
Checkpoints that exist as a whole or not at all, and from which of them a run goes on.

A seal, written last, holds the hash of every file, and what a run that goes on must share.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedConfig, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import sort_checkpoints

from ..configuration.versions_adapt import upgraded
from ..errors import InputError, one_line
from ..files import is_full_disk, require_empty_folder, whole_file
from .arguments import FITTED_FIELDS, MODEL_FIELDS, ADAPTTrainingArguments
from .callbacks import is_end_of_training

SEAL = "seal.json"
_SIGNS_OF_A_FULL_DISK = ("enforce fail", "StreamWriter", "iostream")  # in the RuntimeError of torch.save
# What makes another run of it; anything else that differs is said, and may be meant.
_MUST_AGREE = {
    "data": "was trained on other structures than the data set has now",
    "structures_per_step": "took another number of structures a step (processes x batch x accumulation)",
    "atoms_per_batch": "took another number of atoms a batch",
    "muon": "has the state of another optimiser (muon)",
    "ema_decay": "has another ema_decay",
}


class Checkpoints(TrainerCallback):
    """
    Seals the checkpoints of a run; older ones are removed only once the new one is whole.

    Attributes:
        run (`Mapping[str, Any]`):
            What a run that goes on from one of them must share, such as the hash of its data; plain JSON.
        unfinished (`Path`, *optional*): The folder of the checkpoint that is being written.
    """

    def __init__(self, run: Mapping[str, Any]) -> None:
        self.run = dict(run)
        self.unfinished: Path | None = None
        self._limit: int | None = None

    def begin(self, folder: Path, args: TrainingArguments) -> None:
        """`Trainer` begins to write a checkpoint, into a folder that is empty and removes none."""
        self.unfinished = folder
        self._limit, args.save_total_limit = args.save_total_limit, None
        if args.should_save:
            shutil.rmtree(folder, ignore_errors=True)  # what a run that was killed here left behind
            folder.mkdir(parents=True)
        args.distributed_state.wait_for_everyone()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """`Trainer` has written it. Nobody goes on before it is sealed: the best one is looked for soon."""
        if self.unfinished is None:
            raise RuntimeError("this version of transformers does not save checkpoints through Trainer.save_model")
        args.save_total_limit = self._limit
        args.distributed_state.wait_for_everyone()
        if args.should_save:
            seal_checkpoint(self.unfinished, self.run)
            rotate(self.unfinished, self._limit, state.best_model_checkpoint)
        args.distributed_state.wait_for_everyone()
        self.unfinished = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """The state of a checkpoint holds paths as they were; the run may have been moved or copied."""
        if state.global_step:
            args.eval_on_start = False  # this is not the start
            best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
            state.best_model_checkpoint = os.fspath(best) if (best / SEAL).is_file() else None

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """At the end `Trainer` loads the best checkpoint, whatever it holds."""
        if is_end_of_training(logs) and state.best_model_checkpoint is not None:
            try:
                read_seal(Path(state.best_model_checkpoint))
            except InputError as error:
                print(f"warning: the best checkpoint cannot be used, the last model is kept: {error}", file=sys.stderr)
                state.best_model_checkpoint = None

    @contextmanager
    def whole_or_gone(self) -> Iterator[None]:
        """What a full disk leaves of a checkpoint is removed. Errors as in [`readable_errors`]."""
        try:
            yield
        except Exception as error:
            if self.unfinished is None:
                raise
            shutil.rmtree(self.unfinished, ignore_errors=True)
            with readable_errors(str(self.unfinished)):
                raise error


@contextmanager
def readable_errors(what: str) -> Iterator[None]:
    """Turns what a disk can do to `what` into one line with the remedy ([`InputError`])."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if type(error) is RuntimeError and not any(sign in str(error) for sign in _SIGNS_OF_A_FULL_DISK):
            raise
        full = is_full_disk(error) or type(error) is RuntimeError
        raise InputError(
            f"{what} cannot be written: {one_line(error)}; {'make room' if full else 'see to that'} and give the same "
            "command with --resume_from_checkpoint true, which goes on from the newest checkpoint that is whole"
        ) from error


def seal_checkpoint(folder: Path, run: Mapping[str, Any]) -> None:
    """Declares `folder` complete. Before, it is a checkpoint that was cut off, whatever it holds.

    Args:
        run (`Mapping[str, Any]`): What [`read_seal`] returns; plain JSON.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    files = {name: _digest(folder / name, to_disk=True) for name in names}
    with whole_file(folder / SEAL) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        json.dump({"files": files, "run": run}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def read_seal(folder: Path) -> dict[str, Any]:
    """What [`seal_checkpoint`] was told about the run.

    Raises:
        [`InputError`]: The checkpoint is incomplete, or a file of it is missing or has changed since.
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
    spare = [folder for folder in checkpoints[:place] if (folder / SEAL).is_file() and folder.name not in kept]
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


def checkpoint_to_resume(training: ADAPTTrainingArguments, say: bool = True) -> Path | None:
    """
    The checkpoint that `resume_from_checkpoint` names, or for "true" the newest complete one of the run; None to start
    from the beginning.

    Args:
        say (`bool`, defaults to `True`): What is wrong with newer ones, which the run will write anew.

    Raises:
        [`InputError`]: The checkpoint is incomplete or damaged, or of another run; or the run starts from the
            beginning, but its folder holds something that is no run.
    """
    wanted, output = training.resume_from_checkpoint, Path(training.output_dir)
    if wanted is None or wanted.lower() == "false":
        require_empty_folder(output)
        return None
    if wanted.lower() != "true":
        folder = Path(wanted)
        if not (folder / "trainer_state.json").is_file():
            raise InputError(f"{folder} is no checkpoint of a run: it has no trainer_state.json")
        if folder.resolve().parent != output.resolve():
            raise InputError(
                f"{folder} is of another run than {output}; resume with --output_dir {folder.parent}, or start a new "
                "run from it with --initial_model"
            )
        read_seal(folder)
        return folder
    newest, faults = newest_checkpoint(output)
    if newest is None:
        if not (output / "run.json").is_file():
            require_empty_folder(output)
        faults.append(f"no complete checkpoint in {output}: starting from the beginning")
    for fault in faults if say and training.process_index == 0 else []:
        print(f"warning: {fault}", file=sys.stderr)
    return newest


def require_same_run(checkpoint: Path, run: Mapping[str, Any], config: PreTrainedConfig) -> list[str]:
    """
    Holds the run that wrote `checkpoint` against one of this `config` that would go on from it.

    Args:
        run (`Mapping[str, Any]`): As for [`Checkpoints`].

    Returns:
        `list[str]`: What differs and may be meant, one line each.

    Raises:
        [`InputError`]: Going on would mix two runs: another model, other statistics, data, average or batch; or the
            checkpoint has no state of an optimiser.
    """
    if not any(checkpoint.glob("optimizer*")):
        raise InputError(f"{checkpoint} holds only the model (save_only_model); start a new run with --initial_model")
    there = read_seal(checkpoint)
    for name, fault in _MUST_AGREE.items():
        if there.get(name) != run[name]:
            detail = "" if name == "data" else f": {there.get(name)} there and {run[name]} here"
            remedy = "resume as that run was, or start a new one from it with --initial_model"
            raise InputError(f"{checkpoint} {fault}{detail}; {remedy}")
    try:
        saved = upgraded(PreTrainedConfig.get_config_dict(checkpoint)[0])
    except ValueError as error:
        raise InputError(f"{checkpoint} cannot be resumed: {error}") from error
    for field in ("model_type", *MODEL_FIELDS, *sorted(FITTED_FIELDS - {"training_domain"})):
        before, now = (_plain(one.get(field)) for one in (saved, config.to_dict()))
        if before != now:
            raise InputError(f"{checkpoint} holds another model: {field} is {before} there and {now} here")
    changed = {name: value for name, value in run.items() if there.get(name) != value}
    return [f"{name} is {now}, but was {there.get(name)} up to {checkpoint.name}" for name, now in changed.items()]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
