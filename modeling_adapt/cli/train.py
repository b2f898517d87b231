"""
Trains ADAPT from a recipe on a structure data set, on one process or many.

    python train.py configuration/recipes/demo.yaml --dataset DATASET --output_dir runs/demo
    accelerate launch train.py configuration/recipes/demo.yaml --dataset DATASET --output_dir runs/demo

A run that was cut off goes on when the same command is given again with --resume_from_checkpoint true.
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..training.options import RunArguments, help_text

if TYPE_CHECKING:
    import datasets
    from transformers import TrainingArguments

    from ..configuration_adapt import ADAPTConfig
    from ..data.structures import Target
    from ..evaluation.answers import Questions


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if "--help-all" in argv:
        from ..training.arguments import further_options

        print(help_text(further_options()), end="")
    elif {"-h", "--help"} & set(argv):
        print(help_text(), end="")
    else:
        train(argv)


def train(argv: list[str]) -> None:
    """Everything that takes seconds to import is imported here, so that help does not wait for it."""
    from ..data.load.reading import pinned_revision, told_sources
    from ..files import alone_in
    from ..training.arguments import describe_processes, parse_arguments, warn_of_one_process
    from ..training.checkpoints import checkpoint_to_resume, require_same_run
    from ..training.preparation import build_trainer, unseen_elements
    from ..training.read_out import require_read_out
    from ..training.record import write_metrics, write_recipe, write_surroundings
    from ..training.tasks import target_of

    config, data, training = parse_arguments(argv)
    questions = None if data.answers is None else _quick_questions(data.answers, config)
    processes = describe_processes(training, data.atoms_per_batch)
    checkpoint = checkpoint_to_resume(training)
    data.dataset_revision = pinned_revision(data.dataset, data.dataset_revision)
    rows = read_rows(data, target_of(config), getattr(config, "reads_charge", False))
    unseen = [] if data.initial_model is None else unseen_elements(config, rows["train"])
    if data.refit_read_out:
        require_read_out(config, rows, training)
    if "validation" not in rows:
        training.eval_strategy = "no"
    trainer = build_trainer(config, data, training, rows)
    notes = [] if checkpoint is None else require_same_run(checkpoint, trainer.checkpoints.run, config)
    if unseen:
        notes.append(
            f"{data.initial_model} was not trained on {', '.join(unseen)}: of these it knows only what descriptors of "
            "elements tell; look at their errors apart"
        )
    training.distributed_state.wait_for_everyone()  # nobody writes before everybody has checked

    output = Path(training.output_dir)
    with alone_in(output) if trainer.is_world_process_zero() else nullcontext():
        if trainer.is_world_process_zero():
            if checkpoint_to_resume(training, say=False) != checkpoint:
                raise InputError(f"another command has written to {output} just now; give the same command again")
            warn_of_one_process(training)
            for note in notes:
                print(f"note: {note}", file=sys.stderr)
            print(processes)
            write_surroundings(trainer, rows, checkpoint, told_sources(data.dataset, data.dataset_revision))
            write_recipe(output, config, data, training)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        trainer.save_model()  # before all else: hours of work do not hang on what comes after
        if data.refit_read_out:
            _refit_read_out(trainer, rows, training)
        metrics = trainer.evaluate() if "validation" in rows else {}
        if "test" in rows:
            metrics |= trainer.test(rows["test"])
        trainer.save_state()
        if trainer.is_world_process_zero():
            write_metrics(output, metrics)
            print(trainer.saved_weights())
            if config.predicts == "energy" and "validation" in rows:
                add_doubt(output, rows, training)
            print(f"model saved to: {output}")
            if questions is not None:
                _answer(questions, output, data, trainer.args.device)


def _refit_read_out(trainer: Any, rows: "dict[str, datasets.Dataset]", training: "TrainingArguments") -> None:
    """Solves the last layer of the model that is left, in each process alike, and saves it so."""
    from ..training.read_out import refit_read_out

    batch_size = training.per_device_eval_batch_size
    refit = refit_read_out(trainer.model, trainer.processing_class, rows["train"], rows["validation"], batch_size)
    if trainer.is_world_process_zero():
        print(refit)
    trainer.save_model()


def _quick_questions(host: str, config: "ADAPTConfig") -> "Questions":
    """Asked before the training, so that a model that cannot answer is not trained for hours first."""
    from ..evaluation.answers import read_questions, require_answers

    questions = read_questions(host).only_quick()
    require_answers(config, questions, "the model of this recipe")
    return questions


def _answer(questions: "Questions", output: Path, data: RunArguments, device: Any) -> None:
    """Prints the answers of the saved model, and writes them beside it, where its card finds them."""
    from ..evaluation.answers import answer, answering_calculator, answers_text, write_answers
    from ..loading import weights_hash

    try:
        answers = answer(questions, answering_calculator(str(output.absolute()), questions, device, None, ""))
    except InputError as error:  # no reason to end a training with an error
        print(f"warning: no answers: {error}", file=sys.stderr)
        return
    print(answers_text(answers))
    record = {"model": str(output), "host": data.answers, "weights_sha256": weights_hash(output)}
    write_answers(output, answers, record)


def add_doubt(output: Path, rows: "dict[str, datasets.Dataset]", training: "TrainingArguments") -> None:
    """Beside the weights, how uncertain their energies are; a line where that is not found."""
    from ..evaluation.rigidity import write_doubt

    try:
        batch_size = training.per_device_eval_batch_size
        found = write_doubt(output, rows["train"], rows["validation"], training.device, batch_size)
        print(found.summary())
    except InputError as error:
        print(f"energies have no uncertainty: {error}", file=sys.stderr)


def read_rows(data: RunArguments, target: "Target", reads_charge: bool = False) -> "dict[str, datasets.Dataset]":
    """
    The splits that the run uses: `"train"`, and `"validation"` and `"test"` where they are named; and `"isolated"`,
    the isolated atoms of the training split, where there are any.
    """
    from ..data.load.reading import NoSuchSplitError, of_one_charge, read_isolated, read_split, select_subset

    revision = data.dataset_revision
    train = read_split(data.dataset, data.train_split, target, revision)
    rows = {"train": select_subset(train, data.train_subset)}
    for name, split in (("validation", data.validation_split), ("test", data.test_split)):
        if split is None:
            continue
        try:
            rows[name] = read_split(data.dataset, split, target, revision)
        except NoSuchSplitError as error:
            raise InputError(
                f"{error}; name another with --{name}_split, go without with --{name}_split null, or divide the data "
                "with data_scripts/split_dataset.py"
            ) from None
    rows = {split: of_one_charge(table, data.charge, split, reads_charge) for split, table in rows.items()}
    if (isolated := read_isolated(data.dataset, data.train_split, revision)) is not None:
        rows["isolated"] = isolated
    return rows
