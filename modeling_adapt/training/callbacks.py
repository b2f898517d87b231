"""What a run says while it runs."""

from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class RunProgress(TrainerCallback):
    """
    The progress bar (none where the output is no terminal), and one line per evaluation, every error beside the
    trivial baseline that it has to beat. Losses go to `trainer_state.json` and the training curve.
    """

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            disable = True if args.disable_tqdm else None
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", disable=disable)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and metrics:
            prefix = next(iter(metrics)).partition("_")[0] + "_"
            tqdm.write(f"step {state.global_step:>6}  epoch {state.epoch or 0:>7.1f}  {describe(metrics, prefix)}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()


class EpochToDataset(TrainerCallback):
    """Tells the training data set its epoch. The loaders of accelerate do not, on many processes or after a resume."""

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kwargs["train_dataloader"].dataset.set_epoch(int(state.epoch or 0))


def describe(metrics: dict[str, Any], prefix: str = "eval_") -> str:
    """The metrics of one evaluation in words; keys as in `evaluation.metrics`, with `prefix`."""

    def value(name: str, digits: int = 1) -> str:
        return f"{metrics[prefix + name]:.{digits}f}"

    text = ""
    if prefix + "energy_mae_mev_per_atom" in metrics:
        text = f"energy MAE {value('energy_mae_mev_per_atom', 2)} meV/atom"
        if prefix + "composition_baseline_mae_mev_per_atom" in metrics:
            text += f" (composition only {value('composition_baseline_mae_mev_per_atom', 2)})"
        if prefix + "force_mae_mev_per_ang" not in metrics:
            return text
        text += "  "
    text += (
        f"force MAE {value('force_mae_mev_per_ang')} (zero force {value('zero_force_mae_mev_per_ang')})"
        f"  RMSE {value('force_rmse_mev_per_ang')}"
    )
    if prefix + "near_defect_mae_mev_per_ang" in metrics:
        text += (
            f"  near defect {value('near_defect_mae_mev_per_ang')}"
            f" (zero force {value('zero_force_near_defect_mae_mev_per_ang')})"
        )
    if prefix + "force_cosine" in metrics:
        text += f"  cosine {value('force_cosine', 3)}"
    return text + "  [meV/Å]"
