"""Evaluation of force and energy models on data sets: figures against a plain loop, files, table and errors."""

import hashlib
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ase import Atoms
from ase.build import bulk

import modeling_adapt.cli.evaluate as command
from modeling_adapt import ADAPTConfig, ADAPTEnergyConfig, ADAPTFeatureExtractor, ADAPTForEnergy, ADAPTForForces
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.crystal.trained_region import fit_domain
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.structures import atoms_from_row, structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.evaluation.calibration import Calibration, calibrate, calibration_plot
from modeling_adapt.evaluation.evaluate import evaluate_energy, evaluate_forces
from modeling_adapt.evaluation.physical_checks import CHECKS
from modeling_adapt.evaluation.plots import parity_plot, training_curve
from modeling_adapt.reference_energies import fit_baseline, fit_mean_baseline


def _structure(rng: np.random.Generator, kind: str, energy: float | None = None) -> dict:
    atoms = bulk("Si", cubic=True) * (1, 1, int(rng.integers(1, 3)))
    sites = []
    if kind == "carbon":
        atoms.symbols[1] = "C"
        sites = [atoms.positions[1]]
    atoms.rattle(0.1, rng=rng)
    forces = rng.normal(size=(len(atoms), 3))
    return structure_row(atoms, forces, energy, defect_sites=sites, config_type=kind, source=f"made#{kind}")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data set and two tiny models that know it, as folders."""
    root = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(0)
    kinds = ["bulk", "carbon", "carbon", "bulk", "carbon"]
    rows = {
        "train": [_structure(rng, kind, -100.0 + i) for i, kind in enumerate(kinds)],
        "test": [_structure(rng, kind, -100.0 - i) for i, kind in enumerate(kinds)],
        "validation": [_structure(rng, "bulk")],
    }
    write_dataset(rows, root / "dataset")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    models = {
        "forces": ADAPTForForces(ADAPTConfig(embedding_sizes=(16,), **sizes)),
        "energy": ADAPTForEnergy(
            ADAPTEnergyConfig(max_atoms=16, energy_hidden_sizes=(8,), energy_mean=-100.0, energy_std=2.0)
        ),
        "small": ADAPTForEnergy(ADAPTEnergyConfig(max_atoms=3, energy_hidden_sizes=(8,))),
    }
    models["silicon"] = ADAPTForForces(ADAPTConfig(embedding_sizes=(16,), **sizes))
    models["silicon"].config.training_domain = fit_domain([rows["validation"][0]]).to_dict()
    for name, model in models.items():
        model.save_pretrained(root / name)
        ADAPTFeatureExtractor().save_pretrained(root / name)
    return root


def _load(head, folder):
    return head.from_pretrained(folder).eval(), ADAPTFeatureExtractor()


def test_force_figures_equal_a_loop_over_single_structures(folders):
    model, feature_extractor = _load(ADAPTForForces, folders / "forces")
    rows = read_split(folders / "dataset", "test")
    errors, labels = [], []
    with torch.no_grad():
        for row in rows:
            forces = model(**feature_extractor(atoms_from_row(row))).forces[0].double().numpy()
            labels.append(np.array(row["forces"]))
            errors.append(np.abs(forces - labels[-1]))
    mae, zero = 1000 * np.concatenate(errors).mean(), 1000 * np.abs(np.concatenate(labels)).mean()

    for batch_size in (1, 2, 16):
        evaluation = evaluate_forces(model, feature_extractor, rows, batch_size, progress=False)
        metrics = evaluation.metrics
        assert metrics["force_mae_mev_per_ang"] == pytest.approx(mae, rel=1e-5)
        assert metrics["zero_force_mae_mev_per_ang"] == pytest.approx(zero, rel=1e-6)
        assert metrics["by_config_type"]["bulk"]["num_structures"] == 2
        assert "near_defect_mae_mev_per_ang" in metrics["by_config_type"]["carbon"]
        assert "near_defect_mae_mev_per_ang" not in metrics["by_config_type"]["bulk"]
        assert 1000 * np.abs(evaluation.predicted - evaluation.reference).mean() == pytest.approx(mae, rel=1e-5)
        carbon = np.concatenate([np.array(row["atomic_numbers"]) == 6 for row in rows])
        error = 1000 * np.concatenate(errors)[carbon]
        assert metrics["by_element"]["C"]["force_mae_mev_per_ang"] == pytest.approx(error.mean(), rel=1e-5)
        assert metrics["by_element"]["C"]["force_max_error_mev_per_ang"] == pytest.approx(error.max(), rel=1e-5)
        # The defect is the carbon atom, whose site is where it was before the cell was rattled.
        shells = metrics["by_defect_distance"]
        atoms = sum(len(row["positions"]) for row in rows if row["config_type"] == "carbon")
        assert (
            sum(group["num_atoms"] for group in shells.values())
            == atoms
            == np.isfinite(evaluation.nearest_defect).sum()
        )
        close = np.abs(evaluation.predicted - evaluation.reference).reshape(-1, 3)[evaluation.nearest_defect < 3]
        assert shells["0-3 Å"]["force_mae_mev_per_ang"] == pytest.approx(1000 * close.mean(), rel=1e-5)


def test_energy_figures_equal_a_loop_over_single_structures(folders):
    model, feature_extractor = _load(ADAPTForEnergy, folders / "energy")
    rows = read_split(folders / "dataset", "test")
    train = read_split(folders / "dataset", "train")
    with torch.no_grad():
        errors = [
            (model(**feature_extractor(atoms_from_row(row))).energy.item() - row["energy"]) / len(row["positions"])
            for row in rows
        ]
    evaluation = evaluate_energy(
        *(model, feature_extractor, rows, 2, False),
        baseline=fit_baseline(train),
        mean_baseline=fit_mean_baseline(train),
    )
    sizes, truth = np.array([len(row["positions"]) for row in rows]), np.array(rows["energy"])
    mean = np.mean([row["energy"] / len(row["positions"]) for row in train])
    assert evaluation.metrics["mean_baseline_mae_mev_per_atom"] == pytest.approx(
        1000 * np.abs(mean - truth / sizes).mean()
    )
    whole = 1000 * np.abs(np.array(errors) * sizes).mean()
    assert evaluation.metrics["energy_mae_mev_per_structure"] == pytest.approx(whole, rel=1e-4)
    assert evaluation.metrics["energy_mae_mev_per_atom"] == pytest.approx(1000 * np.abs(errors).mean(), rel=1e-4)

    def counts(rows):
        return np.array([[row["atomic_numbers"].count(number) for number in (6, 14)] for row in rows])

    solution = np.linalg.lstsq(counts(train), np.array(train["energy"]), rcond=None)[0]
    trivial = np.abs(counts(rows) @ solution - np.array(rows["energy"])) / counts(rows).sum(1)
    assert evaluation.metrics["composition_baseline_mae_mev_per_atom"] == pytest.approx(1000 * trivial.mean())


def test_a_prediction_that_is_not_finite_names_the_row(folders):
    model, feature_extractor = _load(ADAPTForForces, folders / "forces")
    rows = read_split(folders / "dataset", "test")

    def poison(module, inputs, output):
        carbon = (inputs_seen[-1] == 6).any(dim=1)
        return torch.where(carbon[:, None, None], torch.nan, output)

    inputs_seen = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: inputs_seen.append(kwargs["atomic_numbers"]), with_kwargs=True
    )
    model.force_head.register_forward_hook(poison)
    with pytest.raises(InputError, match=r"row 1 \(made#carbon\)"):
        evaluate_forces(model, feature_extractor, rows, 2, progress=False)


# The command -----------------------------------------------------------------------------------------------------


def _run(*argv) -> int:
    return run_command(lambda: command.main([str(argument) for argument in argv]))


def test_command_on_forces(folders, tmp_path, capsys):
    output = tmp_path / "new" / "results"
    assert _run(folders / "forces", folders / "dataset", "--output", output, "--batch-size", 2, "--checks", 1) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    required = {"force_mae_mev_per_ang", "force_rmse_mev_per_ang", "zero_force_mae_mev_per_ang", "by_config_type"}
    assert required <= metrics.keys()
    assert set(metrics["by_config_type"]) == {"bulk", "carbon"}
    assert metrics["split"] == "test"
    assert (output / "parity.png").read_bytes().startswith(b"\x89PNG")
    assert {"error_by_distance.png", "error_by_force.png"} <= {path.name for path in output.iterdir()}
    assert {path.name for path in output.parent.iterdir()} == {"results"}
    assert set(metrics["by_element"]) == {"C", "Si"} and "0-3 Å" in metrics["by_defect_distance"]
    checks = metrics["physical_checks"]
    # There is no energy model, no host, no cube and no atom far from a defect.
    others = {f"{one}_mev_per_ang" for one in ("energy_gradient_mae", "perfect_crystal_force", "octahedral_error")}
    assert set(checks) == {name for name in CHECKS if not name.startswith("bulk_atom")} - others
    assert checks["net_force_per_atom_mev_per_ang"] > 0
    assert all(np.isfinite(value) and value >= 0 for value in checks.values())
    table = capsys.readouterr().out
    for word in ("bulk", "carbon", "all", "MAE", "zero-force", f"{metrics['force_mae_mev_per_ang']:.1f}"):
        assert word in table
    for word in ("slope", "max error", "element", "distance to the defect", "0-3 Å", "Newton's third law"):
        assert word in table


@pytest.fixture
def no_figures(monkeypatch):
    """They take a second or two."""
    monkeypatch.setattr("modeling_adapt.evaluation.report._draw_forces", lambda *_: None)


def test_it_records_which_weights_it_is_of(folders, tmp_path, no_figures):
    """By their hash, so that a folder that is renamed is known again, and one that has other weights is not."""
    content = (folders / "forces" / "model.safetensors").read_bytes()
    shutil.copytree(folders / "forces", tmp_path / "shards")
    (tmp_path / "shards" / "model.safetensors").unlink()
    _load(ADAPTForForces, folders / "forces")[0].save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    shards = sorted((tmp_path / "shards").glob("model-*.safetensors"))
    for number, (folder, expected) in enumerate(
        ((folders / "forces", content), (tmp_path / "shards", b"".join(path.read_bytes() for path in shards)))
    ):
        assert _run(folder, folders / "dataset", "--output", tmp_path / str(number), "--checks", 0) == 0
        metrics = json.loads((tmp_path / str(number) / "metrics.json").read_text())
        assert metrics["weights_sha256"] == hashlib.sha256(expected).hexdigest()
        assert metrics["model_path"] == str(folder) and "physical_checks" not in metrics
    assert len(shards) > 1


def test_command_on_energies(folders, tmp_path, capsys):
    assert _run(folders / "energy", folders / "dataset", "--output", tmp_path / "out") == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for name in ("energy_mae", "composition_baseline_mae", "mean_baseline_mae"):
        assert metrics[f"{name}_mev_per_atom"] > 0
    table = capsys.readouterr().out
    assert "composition-only" in table and "mean-energy" in table and "MAE per structure" in table


def test_command_holds_forces_against_the_gradient_of_an_energy(folders, tmp_path, make_energy_model, no_figures):
    model = make_energy_model(architecture="pairwise", num_vector_channels=8)
    model.save_pretrained(tmp_path / "pooled")
    ADAPTFeatureExtractor().save_pretrained(tmp_path / "pooled")
    options = ("--checks", 1, "--energy-model", tmp_path / "pooled", "--output", tmp_path / "out")
    assert _run(folders / "forces", folders / "dataset", *options) == 0
    checks = json.loads((tmp_path / "out" / "metrics.json").read_text())["physical_checks"]
    rows, forces = read_split(folders / "dataset", "test"), _load(ADAPTForForces, folders / "forces")[0].double()
    inputs = ADAPTFeatureExtractor()(atoms_from_row(rows[0]), dtype="float64")
    with torch.no_grad():
        difference = forces(**inputs).forces[0] - model.double()(**inputs, compute_forces=True).forces[0]
    assert checks["energy_gradient_mae_mev_per_ang"] == pytest.approx(1000 * difference.abs().mean().item(), rel=1e-6)


def test_command_says_that_training_structures_prove_nothing(folders, capsys):
    assert _run(folders / "forces", folders / "dataset", "--split", "train", "--checks", 0) == 0
    assert "trained on" in capsys.readouterr().out


def test_bad_input_is_one_line_and_writes_nothing(folders, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    good, output = (folders / "forces", folders / "dataset"), ("--output", tmp_path / "out")

    def fails_with(*argv) -> str:
        assert _run(*argv) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and not (tmp_path / "out").exists()
        return error

    assert "not empty" in fails_with(*good, "--output", tmp_path / "full")
    assert "no checkpoint" in fails_with(folders / "dataset", folders / "dataset", *output)
    assert "no such folder" in fails_with(folders / "forces", tmp_path / "nowhere", *output)
    assert "no parquet" in fails_with(folders / "forces", folders / "forces", *output)
    assert "no split 'later'" in fails_with(*good, "--split", "later", *output)
    assert "no structure has an energy" in fails_with(
        folders / "energy", folders / "dataset", "--split", "validation", *output
    )
    assert "no device" in fails_with(*good, "--device", "nonsense", *output)
    for number, no_rows in enumerate((lambda writer, table: writer.write(table[:0]), lambda writer, table: None)):
        empty = shutil.copytree(folders / "dataset", tmp_path / f"empty{number}")
        file = next(empty.rglob("test-*.parquet"))
        table = pq.read_table(file)
        with pq.ParquetWriter(file, table.schema) as writer:
            no_rows(writer, table)
        assert str(empty) in fails_with(folders / "forces", empty, *output)
    others = fails_with(folders / "silicon", folders / "dataset", *output)
    assert "row 1 (made#carbon): atom 1 is C, but" in others and "trained on Si only" in others
    assert "row 1 (made#carbon)" in fails_with(*good, "--ensemble", folders / "silicon", *output)
    assert "--energy-model" in fails_with(*good, "--energy-model", folders / "energy", *output)
    assert "--checks 0" in fails_with(*good, "--energy-model", folders / "energy", "--checks", "0", *output)
    assert "gives no forces" in fails_with(
        folders / "energy", folders / "dataset", "--energy-model", folders / "energy", *output
    )
    small = fails_with(folders / "small", folders / "dataset", *output)
    assert "at most 3" in small and "rows 0 to 4" in small
    assert "'0' is not a whole number" in fails_with(*good, "--batch-size", "0", *output)
    assert "cannot be written" in fails_with(*good, "--output", tmp_path / "full" / "file" / "below")


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    assert "python evaluate.py" in capsys.readouterr().out


# Figures ---------------------------------------------------------------------------------------------------------


def test_training_curve_of_forces_energies_and_of_a_run_without_evaluation(tmp_path):
    train = [{"step": step, "loss": 1 / step} for step in range(1, 5)]
    for metric, baseline in (
        ("force_mae_mev_per_ang", "zero_force_mae_mev_per_ang"),
        ("energy_mae_mev_per_atom", "composition_baseline_mae_mev_per_atom"),
    ):
        history = [*train, {"step": 2, f"eval_{metric}": 60.0, f"eval_{baseline}": 100.0}]
        training_curve(history, tmp_path / f"{metric}.png")
        assert (tmp_path / f"{metric}.png").stat().st_size > 10_000
    training_curve(train, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").is_file()


def test_figures_do_not_touch_pyplot(tmp_path):
    import matplotlib

    backend = matplotlib.rcParams._get_backend_or_none()
    parity_plot(np.ones(3), np.ones(3), tmp_path / "p.png")
    assert matplotlib.rcParams._get_backend_or_none() == backend


def test_a_structure_that_fourier_geometry_cannot_read_names_its_rows(tmp_path):
    write_dataset({"test": [structure_row(Atoms("Si2", [[0, 0, 0], [2, 2, 2]]), np.ones((2, 3)))]}, tmp_path / "d")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = ADAPTForForces(ADAPTConfig(embedding_sizes=(16,), architecture="fourier", **sizes)).eval()
    with pytest.raises(InputError, match="rows 0 to 0.*periodic"):
        evaluate_forces(model, ADAPTFeatureExtractor(), read_split(tmp_path / "d", "test"), progress=False)


class TestCalibration:
    def test_mean_and_spread_of_an_ensemble(self, folders, tmp_path):
        torch.manual_seed(7)
        model, feature_extractor = _load(ADAPTForForces, folders / "forces")
        other = ADAPTForForces(model.config).eval()
        rows = read_split(folders / "dataset", "test")
        single = [evaluate_forces(one, feature_extractor, rows, progress=False) for one in (model, other)]
        calibration = calibrate([model, other], feature_extractor, rows, progress=False)
        mean = (single[0].predicted + single[1].predicted) / 2
        np.testing.assert_allclose(calibration.evaluation.predicted, mean, atol=1e-6)
        half = np.linalg.norm((single[0].predicted - single[1].predicted).reshape(-1, 3), axis=1) / 2
        np.testing.assert_allclose(calibration.spread, half, atol=1e-5)
        error = np.linalg.norm((mean - single[0].reference).reshape(-1, 3), axis=1)
        np.testing.assert_allclose(calibration.error, error, atol=1e-5)
        calibration_plot(calibration, tmp_path / "calibration.png")
        assert (tmp_path / "calibration.png").stat().st_size > 1000

    def test_a_spread_that_is_the_error_is_found_to_be_so(self):
        error = np.random.default_rng(0).exponential(size=500)
        metrics = Calibration(None, error, error).metrics()
        assert metrics["spread_error_spearman"] == pytest.approx(1)
        assert metrics["spread_rms_mev_per_ang"] == metrics["error_rms_mev_per_ang"]

    def test_command(self, folders, tmp_path, capsys):
        model, data = str(folders / "forces"), str(folders / "dataset")
        output = tmp_path / "out"
        assert run_command(
            lambda: command.main([model, data, "--num-images", "6", "--checks", "0", "--output", str(output)])
        ) in (
            0,
            None,
        )
        assert "spread of the forces on an atom" in capsys.readouterr().out
        assert {path.name for path in output.iterdir()} == {
            *("metrics.json", "parity.png", "calibration.png", "error_by_distance.png", "error_by_force.png"),
        }
        assert json.loads((output / "metrics.json").read_text())["num_images"] == 6
        assert "by_element" in json.loads((output / "metrics.json").read_text())
        assert run_command(lambda: command.main([model, data, "--num-images", "49"])) == 2
        assert run_command(lambda: command.main([model, data, "--ensemble", str(folders / "energy")])) == 2
        assert "but ADAPTForForces is needed here" in capsys.readouterr().err
