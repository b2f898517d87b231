"""From where a run goes on, and whether it may."""

import sys
from pathlib import Path

from ..command_line import require_empty_folder
from ..configuration_adapt import ADAPTConfig
from ..errors import InputError
from ..loading import load_model
from .arguments import MODEL_FIELDS, ADAPTTrainingArguments
from .checkpoints import newest_checkpoint, read_seal
from .trainer import ADAPTTrainer


def checkpoint_to_resume(training: ADAPTTrainingArguments, config: ADAPTConfig) -> Path | None:
    """
    The checkpoint that `resume_from_checkpoint` names, or for "true" the newest complete one of the run; None to start
    from the beginning. What is wrong with newer ones is said; the run will write them anew.

    Raises:
        [`InputError`]: the checkpoint is incomplete, damaged, or holds another model than `config` describes; or the
            run starts from the beginning, but its folder holds something that is no run.
    """
    wanted, output = training.resume_from_checkpoint, Path(training.output_dir)
    if wanted is None or wanted.lower() == "false":
        require_empty_folder(output)
        return None
    if wanted.lower() == "true":
        folder, faults = newest_checkpoint(output)
        if folder is None and not (output / "run.json").is_file():
            require_empty_folder(output)
        faults += [] if folder else [f"no complete checkpoint in {output}: starting from the beginning"]
        for fault in faults if training.process_index == 0 else []:
            print(f"warning: {fault}", file=sys.stderr)
        if folder is None:
            return None
    else:
        folder = Path(wanted)
        if not (folder / "trainer_state.json").is_file():
            raise InputError(f"{folder} is no checkpoint of a run: it has no trainer_state.json")
        read_seal(folder)
    saved = load_model(folder)[0].config
    for field in ("model_type", *MODEL_FIELDS):
        there, here = (getattr(one, field, None) for one in (saved, config))
        there, here = (list(value) if isinstance(value, tuple) else value for value in (there, here))
        if there != here:
            raise InputError(f"{folder} holds another model: {field} is {there} there and {here} here")
    return folder


def require_same_run(checkpoint: Path, trainer: ADAPTTrainer) -> None:
    """Raises [`InputError`] if `checkpoint` learned from other structures than `trainer` is about to."""
    there, here = read_seal(checkpoint), trainer.run
    if there["data"] != here["data"]:
        raise InputError(
            f"{checkpoint} was trained on other structures than the data set has now; resume with the data of that "
            "run, or start a new one from it with --initial_model"
        )
    if there["average"] != here["average"]:
        raise InputError(
            f"{checkpoint} was written with ema_decay: {there['average']}, this run has {here['average']}; resume "
            "with the recipe of that run"
        )
    if there["processes"] != here["processes"] and trainer.is_world_process_zero():
        print(
            f"note: {checkpoint} ran in {there['processes']} processes, this run in {here['processes']}; what dropout "
            "draws will differ from an uninterrupted run",
            file=sys.stderr,
        )
