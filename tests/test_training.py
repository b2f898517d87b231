"""`train.py`: recipes are checked first, runs end in a model that loads, and resuming changes nothing."""

import csv
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from modeling_adapt import ADAPTForEnergy, ADAPTForForces
from modeling_adapt.cli import train
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.augmentation import STEPS
from modeling_adapt.data.load.batching import StructureDataset
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.load.survey import content_hash, fit_statistics
from modeling_adapt.errors import InputError
from modeling_adapt.loading import load_model
from modeling_adapt.training.arguments import MODEL_FIELDS, ADAPTTrainingArguments, parse_arguments, preset_config
from modeling_adapt.training.callbacks import FiniteGradients
from modeling_adapt.training.checkpoints import Checkpoints, newest_checkpoint
from modeling_adapt.training.options import AUGMENTATIONS, LOSS_OPTIONS, MODEL_OPTIONS, TRAINING_OPTIONS, RunArguments
from modeling_adapt.training.trainer import HOOKS, ADAPTTrainer, require_hooks

LOGGING = os.environ | {"TORCH_LOGS": "recompiles"}
RECIPES = sorted(Path("configuration/recipes").glob("*.yaml"))


class TestRecipes:
    @pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
    def test_every_shipped_recipe_is_valid(self, path, tmp_path, make_energy_model):
        argv = [str(path), "--dataset", "data", "--output_dir", str(tmp_path / "run")]
        if "model" not in yaml.safe_load(path.read_text()):
            make_energy_model(architecture="cartesian").save_pretrained(tmp_path / "first")
            argv += ["--initial_model", str(tmp_path / "first")]
        parse_arguments(argv)

    def test_command_line_wins(self, recipe, tmp_path):
        argv = [recipe(), "--dataset", "d", "--output_dir", str(tmp_path / "run")]
        config, run, training = parse_arguments(
            [*argv, "--hidden_size", "32", "--learning_rate", "1e-4", "--seed", "7"]
        )
        assert (config.hidden_size, run.dataset, training.learning_rate, training.seed) == (32, "d", 1e-4, 7)
        assert training.num_train_epochs == 4

    def test_numbers_that_yaml_reads_as_text(self, tmp_path):
        (tmp_path / "r.yaml").write_text("model: published-small\nlearning_rate: 3e-4\n")
        _, _, training = parse_arguments([str(tmp_path / "r.yaml"), "--dataset", "d", "--output_dir", "run"])
        assert training.learning_rate == 3e-4

    @pytest.mark.parametrize(
        "fields, message",
        [
            ({"lerning_rate": 1e-3}, "no field 'lerning_rate'; did you mean 'learning_rate'"),
            ({"hiden_size": 8}, "no field 'hiden_size'; did you mean 'hidden_size'"),
            ({"architecture": "polar"}, "architecture must be one of"),
            ({"hidden_size": "wide"}, "expected int, got str"),
            ({"model": None}, "name either a model"),
            ({"model": "huge"}, "no model preset 'huge'; name a JSON file or one of: .*published-small"),
            ({"eval_strategy": "sometimes"}, "sometimes"),
            ({"help": True}, "no field 'help'"),
            ({"learning_rate": "fast"}, "invalid float value: 'fast'"),
            ({"learning_rate": [1, 2]}, "learning_rate cannot be"),
            ({"learning_rate": None}, "learning_rate cannot be None"),
            ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be at least 1"),
            ({"report_to": "no-such-tracker"}, "no-such-tracker is not supported"),
            ({"hidden_act": "no-such"}, "hidden_act must be one of"),
            ({"num_descriptors": 5}, "there is no field 'num_descriptors'"),
            (
                {"architecture": "pairwise", "attention_radius": 4.0},
                "'pairwise' does not read attention_radius",
            ),
        ],
    )
    def test_bad_recipes_are_refused_and_nothing_is_written(self, recipe, springs, tmp_path, fields, message):
        with pytest.raises(InputError, match=message):
            train.main([recipe(**fields), "--dataset", springs, "--output_dir", str(tmp_path / "run")])
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["--lerning_rate", "1"], "no field '--lerning_rate'; did you mean '--learning_rate'"),
            (["--learning_rate", "fast"], "invalid float value"),
            (["--embedding_sizes", "[1"], "is no YAML"),
            (["--resume_from_checkpoint", "nowhere"], "nowhere is no checkpoint of a run"),
        ],
    )
    def test_bad_arguments_are_one_line_and_nothing_is_written(self, recipe, springs, tmp_path, arguments, message):
        with pytest.raises(InputError, match=message) as caught:
            train.main([recipe(), "--dataset", springs, "--output_dir", str(tmp_path / "run"), *arguments])
        assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()

    def test_a_recipe_in_another_place_is_not_overlooked(self, recipe, springs, tmp_path):
        with pytest.raises(InputError, match="the recipe comes first"):
            train.main(["--dataset", springs, "--output_dir", str(tmp_path / "run"), recipe()])

    @pytest.mark.parametrize("content, message", [("- a\n- b\n", "must be a mapping"), ("a: [", "is no YAML")])
    def test_files_that_are_no_recipe(self, tmp_path, content, message):
        (tmp_path / "r.yaml").write_text(content)
        with pytest.raises(InputError, match=message):
            parse_arguments([str(tmp_path / "r.yaml"), "--dataset", "d", "--output_dir", "run"])
        with pytest.raises(InputError, match="does not exist"):
            parse_arguments([str(tmp_path / "none.yaml"), "--dataset", "d", "--output_dir", "run"])

    def test_output_folder_that_is_not_empty(self, recipe, springs, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "precious").write_text("")
        with pytest.raises(InputError, match="exists and is not empty"):
            train.main([recipe(), "--dataset", springs, "--output_dir", str(tmp_path / "run")])

    def test_data_set_that_is_missing_or_has_no_such_split(self, recipe, springs, tmp_path):
        for arguments in (["--dataset", str(tmp_path / "none")], ["--dataset", springs, "--validation_split", "test"]):
            with pytest.raises(InputError):
                train.main([recipe(), *arguments, "--output_dir", str(tmp_path / "run")])
        assert not (tmp_path / "run").exists()

    def test_the_start_on_the_command_line_wins(self, recipe, tmp_path, make_force_model):
        """A recipe that names a model goes on with --initial_model; one that names a checkpoint can start anew."""
        make_force_model(architecture="fourier").save_pretrained(tmp_path / "first")
        more = ["--dataset", "d", "--output_dir", str(tmp_path / "run")]
        _, run, _ = parse_arguments([recipe(), *more, "--initial_model", str(tmp_path / "first")])
        assert (run.model, run.initial_model) == (None, str(tmp_path / "first"))
        path = recipe(model=None, initial_model="organisation/other", initial_revision="v1", refit_statistics=True)
        _, run, _ = parse_arguments([path, *more, "--initial_model", str(tmp_path / "first")])
        assert (run.initial_model, run.initial_revision) == (str(tmp_path / "first"), None)
        _, run, _ = parse_arguments([path, *more, "--model", "fourier-small"])
        assert (run.model, run.initial_model, run.initial_revision) == ("fourier-small", None, None)
        both = ["--model", "fourier-small", "--initial_model", str(tmp_path / "first")]
        with pytest.raises(InputError, match="name either a model"):
            parse_arguments([recipe(), *more, *both])

    def test_a_revision_stays_with_its_data_set(self, recipe, tmp_path):
        path, more = recipe(dataset="one", dataset_revision="v1"), ["--output_dir", str(tmp_path / "run")]
        for dataset, revision in (("one", "v1"), ("other", None)):
            assert parse_arguments([path, *more, "--dataset", dataset])[1].dataset_revision == revision


WITHOUT_EFFECT = [
    ({"eval_strategy": "epoch"}, {"eval_steps": 10}, "eval_steps cannot act: eval_strategy is epoch, not steps"),
    ({"save_strategy": "epoch"}, {"save_steps": 10}, "save_steps cannot act: save_strategy is epoch, not steps"),
    ({"save_strategy": "no"}, {"save_total_limit": 1}, "save_total_limit cannot act: save_strategy is no"),
    ({"logging_strategy": "epoch"}, {"logging_steps": 2}, "logging_steps cannot act: logging_strategy is epoch"),
    ({"lr_scheduler_type": "constant"}, {"warmup_steps": 5}, "warmup_steps cannot act: lr_scheduler_type is constant"),
    (
        {"load_best_model_at_end": "false"},
        {"metric_for_best_model": "force_cosine"},
        "metric_for_best_model cannot act: load_best_model_at_end is false",
    ),
    ({"muon": "true"}, {"optim": "sgd"}, "optim cannot act: muon takes its place"),
    ({"force_loss": "mse"}, {"weight_maximum": 5.0}, "weight_maximum cannot act: force_loss is mse"),
]


class TestFieldsThatCannotAct:
    @pytest.mark.parametrize("cause, field, message", WITHOUT_EFFECT)
    def test_they_are_said(self, recipe, tmp_path, capsys, cause, field, message):
        path, more = recipe(), ["--dataset", "d", "--output_dir", str(tmp_path / "run")]
        words = [f"--{name}={value}" for name, value in (cause | field).items()]
        with pytest.raises(InputError, match=f"--{message}.*leave one of the two out"):
            parse_arguments([path, *more, *words])
        parse_arguments([recipe(**(cause | field)), *more])
        assert f"warning: {message}" in capsys.readouterr().err

    def test_those_that_act_are_not(self, recipe, tmp_path, capsys):
        fields = {"eval_strategy": "steps", "eval_steps": 5, "save_strategy": "steps", "save_steps": 5}
        fields |= {"lr_scheduler_type": "cosine", "warmup_steps": 2, "load_best_model_at_end": True}
        fields |= {"metric_for_best_model": "force_cosine", "save_total_limit": 1, "weight_maximum": 5.0}
        parse_arguments([recipe(**fields), "--dataset", "d", "--output_dir", str(tmp_path / "run")])
        assert "cannot act" not in capsys.readouterr().err

    @pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
    def test_no_shipped_recipe_has_one(self, path, tmp_path, capsys, make_energy_model):
        argv = [str(path), "--dataset", "data", "--output_dir", str(tmp_path / "run")]
        if "model" not in yaml.safe_load(path.read_text()):
            make_energy_model(architecture="cartesian").save_pretrained(tmp_path / "first")
            argv += ["--initial_model", str(tmp_path / "first")]
        parse_arguments(argv)
        assert "cannot act" not in capsys.readouterr().err

    @pytest.mark.parametrize(
        "field, message",
        [
            ({"remove_unused_columns": True}, "remove_unused_columns must stay false"),
            ({"dataloader_persistent_workers": True}, "needs dataloader_num_workers of at least 1"),
        ],
    )
    def test_those_that_would_break_the_run(self, recipe, tmp_path, field, message):
        with pytest.raises(InputError, match=message):
            parse_arguments([recipe(**field), "--dataset", "d", "--output_dir", str(tmp_path / "run")])


class TestHelp:
    def test_it_is_short_and_in_groups(self, capsys):
        train.main(["--help"])
        text = capsys.readouterr().out
        assert len(text.splitlines()) < 160 and max(map(len, text.splitlines())) <= 130
        for group in ("data", "model", "loss and weights", "augmentation", "optimisation", "hardware"):
            assert f"\n{group}:\n" in text
        for name in (*MODEL_FIELDS, *(field.name for field in dataclasses.fields(RunArguments))):
            assert len(re.findall(rf"^  --{name} ", text, re.MULTILINE)) == 1, name

    def test_everything_is_told_on_request(self, capsys):
        train.main(["--help-all"])
        text = capsys.readouterr().out
        for field in dataclasses.fields(ADAPTTrainingArguments):
            assert f"--{field.name} " in text or not field.init, field.name

    def test_it_says_what_is_so(self):
        """What is said of fields that are defined elsewhere, held against the definitions."""
        assert {*MODEL_OPTIONS, *LOSS_OPTIONS} == set(MODEL_FIELDS)
        assert set(AUGMENTATIONS) == set(STEPS)
        actual = {field.name: field.default for field in dataclasses.fields(ADAPTTrainingArguments)}
        enums = {"eval_strategy": IntervalStrategy, "save_strategy": SaveStrategy}
        for name, option in (one for options in TRAINING_OPTIONS.values() for one in options.items()):
            default = getattr(actual[name], "value", actual[name])
            assert option.default == default, name
            assert not option.choices or default in option.choices, name
            assert name not in enums or set(option.choices) == {value.value for value in enums[name]}, name
        for name, option in (MODEL_OPTIONS | LOSS_OPTIONS).items():
            if option.choices:
                of_energies = "mlp" in option.choices or name == "energy_loss"
                with pytest.raises(InputError, match=f"{name} must be one of {', '.join(option.choices)},"):
                    preset_config("published-energy" if of_energies else "published-small", {name: "no-such"})

    def test_it_waits_for_no_library(self):
        script = (
            "import sys, types; package = types.ModuleType('modeling_adapt'); package.__path__ = ['modeling_adapt']\n"
            "sys.modules['modeling_adapt'] = package; import modeling_adapt.training.options as options\n"
            "options.help_text(); print({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules))"
        )
        assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"


class TestHooks:
    """A method of `Trainer` that is renamed is an error, and not a run whose model is not the average."""

    def test_none_is_private_and_all_are_checked(self):
        ours = {name for name in vars(ADAPTTrainer) if hasattr(transformers.Trainer, name)}
        ours = {name for name in ours if not name.startswith("__")}
        assert ours == set(HOOKS) and not any(name.startswith("_") for name in ours)
        require_hooks([])

    @pytest.mark.parametrize("name", HOOKS)
    def test_one_that_is_gone(self, recipe, springs, tmp_path, monkeypatch, name):
        monkeypatch.delattr(transformers.Trainer, name)
        with pytest.raises(InputError, match=rf"transformers .* has no Trainer.{name}\(.*\), which training needs"):
            train.main([recipe(), "--dataset", springs, "--output_dir", str(tmp_path / "run")])
        assert not (tmp_path / "run").exists()

    def test_one_of_other_parameters(self, monkeypatch):
        monkeypatch.setattr(transformers.Trainer, "save_model", lambda self, folder=None: None)
        with pytest.raises(RuntimeError, match=r"has no Trainer.save_model\(output_dir\)"):
            require_hooks([])

    def test_an_event_that_is_gone(self, monkeypatch):
        monkeypatch.delattr(transformers.TrainerCallback, "on_save")
        with pytest.raises(RuntimeError, match="has no TrainerCallback.on_save"):
            require_hooks([Checkpoints({})])

    def test_checkpoints_that_are_saved_in_another_way(self, recipe, springs, tmp_path, monkeypatch):
        def save(trainer, model, trial):
            trainer.model.save_pretrained(f"{trainer.args.output_dir}/checkpoint-{trainer.state.global_step}")

        monkeypatch.setattr(transformers.Trainer, "_save_checkpoint", save)
        path = recipe(save_strategy="epoch", ema_decay=0.9)
        with pytest.raises(RuntimeError, match="does not save checkpoints through Trainer.save_model"):
            train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / "run")])

    def test_an_end_that_is_not_logged(self, recipe, springs, tmp_path, monkeypatch):
        monkeypatch.setattr("modeling_adapt.training.ema.is_end_of_training", lambda logs: False)
        with pytest.raises(RuntimeError, match="the model that is left is not the average"):
            train.main([recipe(ema_decay=0.9), "--dataset", springs, "--output_dir", str(tmp_path / "run")])

    def test_workers_read_the_same(self, recipe, springs, tmp_path):
        weights = []
        for name, workers in (("without", {}), ("with", {"num_workers": 1, "persistent_workers": True})):
            fields = {f"dataloader_{field}": value for field, value in workers.items()}
            path = recipe(augmentation=["translation"], num_train_epochs=2, **fields)
            train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / name)])
            weights.append(load_file(tmp_path / name / "model.safetensors"))
        assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


class TestRuns:
    @pytest.mark.parametrize("geometry", ["pairwise", "fourier"])
    def test_pooled_energy_learns_energies_and_forces(self, recipe, springs, tmp_path, geometry):
        path = recipe(
            model="pairwise-energy",
            hidden_size=16,
            **{"architecture": "fourier"} if geometry == "fourier" else {"num_vector_channels": 8},
            force_weight=10.0,
            num_train_epochs=50,
            learning_rate=1e-2,
            lr_scheduler_type="cosine",
            eval_strategy="no",
        )
        train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / "run")])
        model, _ = load_model(tmp_path / "run", ADAPTForEnergy)
        assert set(model.config.element_energies) == {"Si"}
        metrics = json.loads((tmp_path / "run" / "training_metrics.json").read_text())
        assert metrics["eval_force_mae_mev_per_ang"] < 0.9 * metrics["eval_zero_force_mae_mev_per_ang"]
        assert metrics["eval_energy_mae_mev_per_atom"] > 0

    @pytest.mark.parametrize("model", ["pairwise-small", "pairwise-energy"])
    def test_run_goes_on_from_a_checkpoint(self, recipe, springs, tmp_path, model):
        small = {"hidden_size": 16, "num_vector_channels": 8, "num_train_epochs": 1}
        train.main([recipe(model=model, **small), "--dataset", springs, "--output_dir", str(tmp_path / "first")])
        (tmp_path / "second.yaml").write_text("learning_rate: 0.0\nnum_train_epochs: 1\nforce_loss: mse\n")
        more = ["--initial_model", str(tmp_path / "first"), "--output_dir", str(tmp_path / "second")]
        train.main([str(tmp_path / "second.yaml"), "--dataset", springs, *more])
        (first, _), (second, _) = load_model(tmp_path / "first"), load_model(tmp_path / "second")
        assert all(torch.equal(first.state_dict()[name], weight) for name, weight in second.state_dict().items())
        assert second.config.feature_mean == first.config.feature_mean and second.config.force_loss == "mse"

    def test_reference_energies_are_those_of_the_new_labels(self, recipe, springs, tmp_path):
        small = {"hidden_size": 16, "num_vector_channels": 8, "num_train_epochs": 1}
        path = recipe(model="pairwise-energy", **small)
        train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / "first")])
        shifted = {}
        for split in ("train", "validation"):
            rows = read_split(springs, split).to_list()
            shifted[split] = [row | {"energy": row["energy"] - 3.0 * len(row["atomic_numbers"])} for row in rows]
        write_dataset(shifted, tmp_path / "shifted")
        (tmp_path / "second.yaml").write_text("learning_rate: 0.0\nnum_train_epochs: 1\n")
        more = ["--initial_model", str(tmp_path / "first"), "--dataset", str(tmp_path / "shifted")]
        train.main([str(tmp_path / "second.yaml"), *more, "--output_dir", str(tmp_path / "second")])
        first, second = (load_model(tmp_path / run)[0].config for run in ("first", "second"))
        assert abs(first.element_energies["Si"] - second.element_energies["Si"] - 3.0) < 1e-6
        assert second.energy_std == first.energy_std

    @pytest.mark.figures
    def test_force_run_learns_and_leaves_a_model_that_loads(self, recipe, springs, tmp_path, capsys):
        path = recipe(
            num_train_epochs=60,
            learning_rate=1e-2,
            lr_scheduler_type="cosine",
            force_loss="weighted_mse",
            eval_strategy="no",
        )
        train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / "run")])
        assert f"model saved to: {tmp_path / 'run'}" in capsys.readouterr().out
        model, _ = load_model(tmp_path / "run", ADAPTForForces)
        metrics = json.loads((tmp_path / "run" / "training_metrics.json").read_text())
        assert metrics["eval_force_mae_mev_per_ang"] < 0.9 * metrics["eval_zero_force_mae_mev_per_ang"]
        assert metrics["eval_near_defect_mae_mev_per_ang"] > 0
        assert (tmp_path / "run" / "training_curve.png").stat().st_size > 1000
        # Statistics and the trained domain come from the training split alone.
        statistics = fit_statistics(read_split(springs, "train"))
        assert np.allclose(model.config.force_std, statistics.force_std)
        assert model.config.training_domain["number_of_atoms"] == [6, 16]

    def test_recorded_recipe_repeats_the_run(self, recipe, springs, tmp_path, capsys):
        train.main([recipe(), "--dataset", springs, "--output_dir", str(tmp_path / "run")])
        again = ["--output_dir", str(tmp_path / "again")]
        train.main([str(tmp_path / "run" / "recipe.yaml"), *again])
        first, second = (load_file(tmp_path / run / "model.safetensors") for run in ("run", "again"))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert "cannot act" not in capsys.readouterr().err

    def test_recorded_recipe_goes_on_from_its_model(self, recipe, springs, tmp_path):
        """It names the preset of the first run; the command line says that the second begins where that one ended."""
        train.main([recipe(num_train_epochs=1), "--dataset", springs, "--output_dir", str(tmp_path / "run")])
        more = ["--initial_model", str(tmp_path / "run"), "--learning_rate", "0", "--output_dir", str(tmp_path / "on")]
        train.main([str(tmp_path / "run" / "recipe.yaml"), *more])
        first, second = (load_file(tmp_path / run / "model.safetensors") for run in ("run", "on"))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_a_compiled_run_learns_the_same_by_one_graph(self, recipe, springs, tmp_path):
        """Batches of other sizes, and the last of an epoch, would cost minutes each if they were compiled for anew."""
        fields = {"model": "pairwise-energy", "pairwise_cutoff": 4.0, "hidden_dropout_prob": 0.0}
        argv = [recipe(**fields, per_device_train_batch_size=5), "--dataset", springs, "--output_dir"]
        train.main([*argv, str(tmp_path / "plain")])
        script = f"from modeling_adapt.cli import train; train.main({[*argv, str(tmp_path / 'compiled')]} + "
        script += "['--torch_compile', 'true', '--torch_compile_backend', 'eager'])"  # kernels take minutes
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=LOGGING)
        assert done.returncode == 0, done.stderr
        assert "Recompiling" not in done.stderr
        plain, compiled = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "compiled"))
        for name, weight in plain.items():
            torch.testing.assert_close(compiled[name], weight, rtol=1e-3, atol=1e-5)

    def test_energy_run_has_the_composition_baseline_beside_it(self, recipe, springs, tmp_path):
        path = recipe(model="published-energy", max_atoms=16, energy_hidden_sizes=[32, 16])
        train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / "run")])
        model, feature_extractor = load_model(tmp_path / "run", ADAPTForEnergy)
        assert feature_extractor.canonical_order and set(model.config.element_energies) == {"Si"}
        metrics = json.loads((tmp_path / "run" / "training_metrics.json").read_text())
        # Of energies of -5 eV per atom, the composition tells all but some meV; had it not been subtracted, a model
        # would be off by eV after so few steps.
        assert 0 < metrics["eval_composition_baseline_mae_mev_per_atom"] < 100
        assert metrics["eval_energy_mae_mev_per_atom"] < 100

    def test_energy_model_too_small_for_the_data(self, recipe, springs, tmp_path):
        path = recipe(model="published-energy", max_atoms=10, energy_hidden_sizes=[8])
        with pytest.raises(InputError, match="16 atoms.*at most 10"):
            train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / "run")])
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("muon", [False, True])
    def test_resumed_run_ends_with_the_same_weights(self, recipe, springs, tmp_path, muon):
        path = recipe(save_strategy="epoch", hidden_dropout_prob=0.1, muon=muon, lr_scheduler_type="cosine")
        train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / "run")])
        whole = load_file(tmp_path / "run" / "model.safetensors")
        checkpoint = str(tmp_path / "run" / "checkpoint-8")
        train.main(
            [path, "--dataset", springs, "--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint", checkpoint]
        )
        resumed = load_file(tmp_path / "run" / "model.safetensors")
        with pytest.raises(InputError, match="holds another model: hidden_size is 16 there and 32 here"):
            train.main(
                [
                    *[path, "--dataset", springs, "--output_dir", str(tmp_path / "run"), "--hidden_size", "32"],
                    *["--resume_from_checkpoint", checkpoint],
                ]
            )
        with pytest.raises(InputError, match="has the state of another optimiser"):
            other = ["--muon", str(not muon).lower(), "--resume_from_checkpoint", checkpoint]
            train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / "run"), *other])
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


class TestBadRuns:
    """What stops a run says which structures or fields it was, and leaves the checkpoints as they were."""

    @pytest.fixture
    def run(self, recipe, springs, tmp_path):
        def train_it(*more: str, **fields) -> None:
            train.main([recipe(**fields), "--dataset", springs, "--output_dir", str(tmp_path / "run"), *more])

        return train_it

    def test_loss_that_is_not_finite_names_the_row(self, run, tmp_path, monkeypatch):
        plain = StructureDataset.__getitems__

        def broken(self, indices):
            items = plain(self, indices)
            for item in items:
                if item["row"] == 11 and self.epoch == 1 and len(self) == 16:
                    item["forces"] = np.full_like(item["forces"], np.inf)
            return items

        monkeypatch.setattr(StructureDataset, "__getitems__", broken)
        with pytest.raises(InputError, match="the loss is not finite for row 11 of the training split"):
            run(save_strategy="steps", save_steps=2)
        checkpoint, faults = newest_checkpoint(tmp_path / "run")
        assert checkpoint is not None and not faults
        assert all(bool(torch.isfinite(w).all()) for w in load_file(checkpoint / "model.safetensors").values())

    @pytest.mark.parametrize("architecture", ["forces", "pooled"])
    def test_rate_that_blows_up(self, run, tmp_path, architecture):
        small = {"model": "pairwise-energy", "num_vector_channels": 8} if architecture == "pooled" else {}
        with pytest.raises(InputError, match="training stopped at step .*not finite.*lower learning_rate"):
            run(learning_rate=1e30, save_strategy="steps", save_steps=1, max_grad_norm=0.0, **small)

    def test_gradient_that_overflows(self):
        """Finite, but its length is not: clipping makes it zero, so that only the log tells."""
        callback, state = FiniteGradients(), transformers.TrainerState(global_step=7)
        with pytest.raises(InputError, match="training stopped at step 7.*the gradient is not finite"):
            callback.on_log(None, state, transformers.TrainerControl(), logs={"grad_norm": float("inf")})

    @pytest.mark.parametrize(
        "step, message",
        [
            ("training_step", "lower per_device_train_batch_size and raise gradient_accumulation_steps"),
            ("prediction_step", "lower per_device_eval_batch_size"),
        ],
    )
    def test_batch_that_does_not_fit(self, run, monkeypatch, step, message):
        def full(*args, **kwargs):
            raise torch.OutOfMemoryError("out of memory")

        monkeypatch.setattr(transformers.Trainer, step, full)
        with pytest.raises(InputError, match=f"batch of 4 structures of up to 1. atoms does not fit.*{message}"):
            run()

    def test_other_errors_are_not_taken_for_memory(self, run, monkeypatch):
        def broken(*args, **kwargs):
            raise RuntimeError("shapes do not match")

        monkeypatch.setattr(transformers.Trainer, "training_step", broken)
        with pytest.raises(RuntimeError, match="shapes do not match"):
            run()

    @pytest.mark.parametrize(
        "fields, message",
        [
            ({"load_best_model_at_end": True, "save_strategy": "epoch"}, "needs a validation split"),
            ({"early_stopping_patience": 2}, "early_stopping_patience needs load_best_model_at_end"),
        ],
    )
    def test_choosing_without_a_validation_split(self, run, tmp_path, fields, message):
        with pytest.raises(InputError, match=message):
            run(validation_split=None, **fields)
        assert not (tmp_path / "run").exists()

    def test_data_without_validation_split_says_what_to_do(self, run, springs, tmp_path):
        write_dataset({"train": read_split(springs, "train").to_list()}, tmp_path / "train-only")
        with pytest.raises(InputError, match="has no split 'validation'; it has train.*--validation_split null"):
            run("--dataset", str(tmp_path / "train-only"))
        run("--dataset", str(tmp_path / "train-only"), "--validation_split", "null", num_train_epochs=1)

    @pytest.mark.parametrize("metric", ["near_defect_mae_mev_per_ang", "force_mae", "energy_mae_mev_per_atom"])
    def test_metric_that_no_evaluation_gives(self, run, springs, tmp_path, metric):
        rows = {split: read_split(springs, split).to_list() for split in ("train", "validation")}
        rows["validation"] = [row | {"defect_sites": []} for row in rows["validation"]]
        write_dataset(rows, tmp_path / "bare")
        best = {"load_best_model_at_end": True, "save_strategy": "epoch", "metric_for_best_model": metric}
        with pytest.raises(InputError, match=f"metric_for_best_model: {metric}"):
            run("--dataset", str(tmp_path / "bare"), **best)
        assert not (tmp_path / "run").exists()

    def test_splits_that_an_energy_model_cannot_read(self, run, springs, tmp_path):
        rows = {split: read_split(springs, split).to_list() for split in ("train", "validation")}
        rows["test"] = [dict(rows["validation"][0])]
        rows["test"][0]["atomic_numbers"] = [6] * len(rows["test"][0]["atomic_numbers"])
        write_dataset(rows, tmp_path / "carbon")
        fields = {"model": "published-energy", "max_atoms": 16, "energy_hidden_sizes": [8], "test_split": "test"}
        with pytest.raises(InputError, match="the test split has C, of which the training split has none"):
            run("--dataset", str(tmp_path / "carbon"), **fields)
        assert not (tmp_path / "run").exists()

    def test_weighted_loss_without_defect_sites(self, run, springs, tmp_path):
        bare = {split: read_split(springs, split).to_list() for split in ("train", "validation")}
        bare = {split: [row | {"defect_sites": []} for row in rows] for split, rows in bare.items()}
        write_dataset(bare, tmp_path / "bare")
        with pytest.raises(InputError, match="no structure of the training split has a defect site; use force_loss"):
            run("--dataset", str(tmp_path / "bare"), force_loss="weighted_l2")
        run("--dataset", str(tmp_path / "bare"), force_loss="mse", num_train_epochs=1)


class TestRunFolder:
    @pytest.mark.parametrize("ema_decay", [None, 0.9])
    def test_its_last_lines_say_which_weights_are_saved(self, recipe, springs, tmp_path, capsys, ema_decay):
        fields = {"max_steps": 8, "save_strategy": "epoch", "ema_decay": ema_decay, "learning_rate": 1e-2}
        averaged = "" if ema_decay is None else ", averaged over the steps before"
        train.main([recipe(**fields), "--dataset", springs, "--output_dir", str(tmp_path / "last")])
        *_, weights, folder = capsys.readouterr().out.splitlines()
        assert (weights, folder) == (f"weights of step 8, the last{averaged}", f"model saved to: {tmp_path / 'last'}")
        # The larger error counts as better, so the first of the checkpoints is the best.
        best = {"load_best_model_at_end": True, "greater_is_better": True}
        train.main([recipe(**fields, **best), "--dataset", springs, "--output_dir", str(tmp_path / "best")])
        *_, weights, folder = capsys.readouterr().out.splitlines()
        expected = r"weights of step 4 of 8, the best force_mae_mev_per_ang \(\d+\.?\d*\)" + averaged
        assert re.fullmatch(expected, weights) and folder == f"model saved to: {tmp_path / 'best'}"
        left, saved = (load_file(tmp_path / "best" / n / "model.safetensors") for n in (".", "checkpoint-4"))
        assert all(torch.equal(left[name], weight) for name, weight in saved.items())

    @pytest.mark.figures
    def test_it_tells_everything(self, recipe, springs, tmp_path):
        path = recipe(num_train_epochs=2, test_split="validation")
        train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / "run")])
        run = tmp_path / "run"
        (part,) = json.loads((run / "run.json").read_text())["parts"]
        assert part["versions"]["torch"] == torch.__version__ and part["structures"]["train"] == 16
        assert part["data"]["train"] == content_hash(read_split(springs, "train"))
        assert part["structures_per_step"] == 4 and part["processes"] == 1
        recorded = yaml.safe_load((run / "recipe.yaml").read_text())
        assert recorded["num_train_epochs"] == 2 and "resume_from_checkpoint" not in recorded
        with (run / "metrics.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        assert [int(line["step"]) for line in lines] == list(range(1, 9))
        assert all(float(line["loss"]) > 0 for line in lines)
        evaluated = [int(line["step"]) for line in lines if line["eval_force_mae_mev_per_ang"]]
        assert evaluated == [4, 8]
        assert (run / "training_curve.png").stat().st_size > 1000
        metrics = json.loads((run / "training_metrics.json").read_text())
        assert metrics["test_force_mae_mev_per_ang"] == pytest.approx(metrics["eval_force_mae_mev_per_ang"])

    def test_the_hash_is_of_what_is_learned(self, springs, tmp_path):
        rows = read_split(springs, "train").to_list()
        write_dataset({"train": rows}, tmp_path / "same")
        rows[3]["forces"][0][0] += 1e-3
        write_dataset({"train": rows}, tmp_path / "other")
        same, other = (content_hash(read_split(tmp_path / name, "train")) for name in ("same", "other"))
        assert content_hash(read_split(springs, "train")) == same != other


class TestFineTuning:
    @pytest.mark.parametrize(
        ("model", "refit", "change"),
        [
            ("pairwise-small", False, 1),
            ("pairwise-small", True, 2),
            ("pairwise-energy", False, 2),  # there the scale of the forces only weighs the loss
        ],
    )
    def test_statistics_are_kept_or_refitted(self, recipe, springs, tmp_path, model, refit, change):
        path = recipe(num_train_epochs=1, model=model, hidden_size=16, num_vector_channels=8)
        train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / "first")])
        louder = {split: read_split(springs, split).to_list() for split in ("train", "validation")}
        for rows in louder.values():
            for row in rows:
                row["forces"] = (2 * np.array(row["forces"])).tolist()
        write_dataset(louder, tmp_path / "louder")
        (tmp_path / "second.yaml").write_text(f"num_train_epochs: 1\nrefit_statistics: {str(refit).lower()}\n")
        more = ["--initial_model", str(tmp_path / "first"), "--dataset", str(tmp_path / "louder")]
        train.main([str(tmp_path / "second.yaml"), *more, "--output_dir", str(tmp_path / "second")])
        first, second = (np.array(load_model(tmp_path / run)[0].config.force_std) for run in ("first", "second"))
        assert np.allclose(second, change * first)

    def test_converted_energies_keep_their_order_of_atoms(self, recipe, springs, tmp_path, make_energy_model):
        make_energy_model(max_atoms=16, energy_hidden_sizes=(8,)).save_pretrained(tmp_path / "first")
        (tmp_path / "second.yaml").write_text("num_train_epochs: 1\n")
        more = ["--initial_model", str(tmp_path / "first"), "--dataset", springs]
        train.main([str(tmp_path / "second.yaml"), *more, "--output_dir", str(tmp_path / "second")])
        model, feature_extractor = load_model(tmp_path / "second")
        assert not feature_extractor.canonical_order and model.config.element_energies is None

    def test_refitting_a_new_model(self, recipe, springs, tmp_path):
        with pytest.raises(InputError, match="refit_statistics goes with initial_model"):
            train.main([recipe(refit_statistics=True), "--dataset", springs, "--output_dir", str(tmp_path / "run")])


@pytest.mark.slow  # on a CPU without instructions for it, bfloat16 takes ten times as long
def test_bf16_trains_as_float32_does(recipe, springs, tmp_path):
    """Coordinates, normalisation and loss stay in float32, so the error ends within a few per cent."""
    fields = {"model": "pairwise-small", "num_vector_channels": 8, "num_train_epochs": 30, "learning_rate": 1e-2}
    errors = {}
    for bf16 in (False, True):
        path = recipe(bf16=bf16, lr_scheduler_type="cosine", **fields)
        train.main([path, "--dataset", springs, "--output_dir", str(tmp_path / str(bf16))])
        metrics = json.loads((tmp_path / str(bf16) / "training_metrics.json").read_text())
        errors[bf16] = metrics["eval_force_mae_mev_per_ang"]
        zero = metrics["eval_zero_force_mae_mev_per_ang"]
    assert errors[False] < 0.5 * zero and abs(errors[True] - errors[False]) < 0.1 * zero
    model, _ = load_model(tmp_path / "True")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
