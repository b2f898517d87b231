"""From where a run goes on, and whether it may."""

import sys
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from ..configuration.versions_adapt import upgraded
from ..errors import InputError
from ..files import require_empty_folder
from .arguments import FITTED_FIELDS, MODEL_FIELDS, ADAPTTrainingArguments
from .checkpoints import newest_checkpoint, read_seal
from .trainer import ADAPTTrainer

# What makes another run of it; anything else that differs is said, and may be meant.
_MUST_AGREE = {
    "data": "was trained on other structures than the data set has now",
    "structures_per_step": "took another number of structures a step (processes x batch x accumulation)",
    "ema_decay": "has another ema_decay",
}


def checkpoint_to_resume(training: ADAPTTrainingArguments) -> Path | None:
    """
    The checkpoint that `resume_from_checkpoint` names, or for "true" the newest complete one of the run; None to start
    from the beginning. What is wrong with newer ones is said; the run will write them anew.

    Raises:
        [`InputError`]: the checkpoint is incomplete or damaged, or of another run; or the run starts from the
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
    for fault in faults if training.process_index == 0 else []:
        print(f"warning: {fault}", file=sys.stderr)
    return newest


def require_same_run(checkpoint: Path, trainer: ADAPTTrainer) -> None:
    """
    Says what differs between the run that wrote `checkpoint` and `trainer`, one line each.

    Raises:
        [`InputError`]: going on would mix two runs: another model, other statistics, data, average or batch; or the
            checkpoint has no state of an optimiser.
    """
    if not any(checkpoint.glob("optimizer*")):
        raise InputError(f"{checkpoint} holds only the model (save_only_model); start a new run with --initial_model")
    there, here = read_seal(checkpoint), trainer.run
    for name, fault in _MUST_AGREE.items():
        if there.get(name) != here[name]:
            detail = "" if name == "data" else f": {there.get(name)} there and {here[name]} here"
            remedy = "resume as that run was, or start a new one from it with --initial_model"
            raise InputError(f"{checkpoint} {fault}{detail}; {remedy}")
    try:
        saved = upgraded(PreTrainedConfig.get_config_dict(checkpoint)[0])
    except ValueError as error:
        raise InputError(f"{checkpoint} cannot be resumed: {error}") from error
    config = trainer.model.config.to_dict()
    for field in ("model_type", *MODEL_FIELDS, *sorted(FITTED_FIELDS - {"training_domain"})):
        before, now = (_plain(one.get(field)) for one in (saved, config))
        if before != now:
            raise InputError(f"{checkpoint} holds another model: {field} is {before} there and {now} here")
    for name, value in here.items():
        if there.get(name) != value and trainer.is_world_process_zero():
            print(f"note: {name} is {value}, but was {there.get(name)} up to {checkpoint.name}", file=sys.stderr)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
