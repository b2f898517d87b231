"""How uncertain energies are: against linear regression, by symmetry, and wherever it is written and shown."""

import copy
import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from crystals import turned
from hub_uploads import save

import modeling_adapt.cli.evaluate as evaluate_command
import modeling_adapt.cli.relax as relax_command
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.train import train
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.errors import InputError
from modeling_adapt.evaluation import rigidity
from modeling_adapt.evaluation.rigidity import Observed, fit_doubt, most_likely_covariance, observe, write_doubt
from modeling_adapt.feature_extraction_adapt import ADAPTFeatureExtractor
from modeling_adapt.hub.run_folder import open_runs
from modeling_adapt.hub.staging import example_structure, is_ours, stage_model
from modeling_adapt.loading import weights_hash
from modeling_adapt.modeling_adapt import forces_of
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.doubt import FILE, DifferenceDoubt, Doubt, load_doubt
from modeling_adapt.simulation.ranking import Candidate, Host, rank

POOLED = {"architecture": "pairwise", "pairwise_cutoff": 4.0, "num_vector_channels": 8, "force_weight": 10.0}
POOLED |= {"energy_mean": 0.01, "energy_std": 0.2, "element_energies": {"Si": -5.0, "C": -9.1}}

FROM_THE_HUB = """
import sys
from huggingface_hub import HfApi
from modeling_adapt.simulation.calculator import ADAPTCalculator

api = HfApi()
for name, left_out in (("org/x", None), ("org/y", "doubt.safetensors")):
    api.create_repo(name)
    api.upload_folder(repo_id=name, folder_path=sys.argv[1], ignore_patterns=left_out)
print(ADAPTCalculator.from_pretrained("org/x").doubt.usual)
print(ADAPTCalculator.from_pretrained("org/y").doubt)
"""


@pytest.fixture(autouse=True)
def four_are_enough(monkeypatch):
    """`springs` has no more to validate on."""
    monkeypatch.setattr(rigidity, "FEWEST_STRUCTURES", 4)


@pytest.fixture
def model(make_energy_model):
    return make_energy_model(**POOLED)


@pytest.fixture
def checkpoint(model, springs, tmp_path):
    """An energy model with its doubt, as a folder."""
    folder = save(model, tmp_path / "model")
    write_doubt(
        folder, read_split(springs, "train"), read_split(springs, "validation"), torch.device("cpu"), progress=False
    )
    return folder


def extractor(model) -> ADAPTFeatureExtractor:
    return ADAPTFeatureExtractor.for_model(model.config)


def any_doubt(size: int = 17) -> Doubt:
    root = np.random.default_rng(0).normal(size=(size, size))
    return Doubt(root @ root.T * 1e-3, 0.1, 2.0, {})


def doubtful(model, atoms) -> dict:
    calculator = ADAPTCalculator(model, outside_domain="ignore", doubt=any_doubt())
    calculator.get_property("energy", atoms)
    return calculator.results


class TestRegression:
    def test_errors_of_a_regression_are_found_again(self):
        rng = np.random.default_rng(0)
        learned = rng.normal(size=(200, 6)) * [1, 3, 10, 0.3, 0.1, 0.03]
        information = learned.T @ learned
        ridge, alpha = 1e-4, 0.3
        truth = alpha**2 * np.linalg.inv(information + ridge * np.trace(information) / 6 * np.eye(6))
        root = np.linalg.cholesky(truth)

        def errors(features):
            return np.einsum("si,ij,sj->s", features, root, rng.normal(size=features.shape))

        features, changes = rng.normal(size=(20_000, 6)), rng.normal(size=(20_000, 6))
        seen = Observed(features, errors(features), features, None, changes, 2 * errors(changes))
        covariance, of_differences, found = most_likely_covariance(information, seen)
        assert found == pytest.approx(ridge)
        assert of_differences == pytest.approx(2, rel=0.03)
        np.testing.assert_allclose(covariance, truth, rtol=0.05, atol=0.05 * np.abs(truth).max())
        doubt = Doubt(covariance, 1.0, of_differences, {})
        squares = (seen.errors / doubt.deviation(features)) ** 2
        assert squares.mean() == pytest.approx(1)
        expected = np.sqrt(np.einsum("si,ij,sj->s", features, truth, features))
        np.testing.assert_allclose(doubt.deviation(features), expected, rtol=0.05)

    def test_a_difference_is_never_more_certain_than_energies(self):
        features = np.eye(3)
        seen = Observed(features, np.ones(3), features, None, features, 0.1 * np.ones(3))
        assert most_likely_covariance(np.eye(3), seen)[1] == 1


class TestInformation:
    def test_energies_are_linear_in_the_features(self, model, structures):
        inputs = extractor(model)(structures)
        with torch.no_grad():
            output = model(**inputs, compute_features=True)
        *_, last = model.energy_head.layers
        weights = torch.cat([last.weight[0], last.bias]).detach().double()
        of_atoms = output.features.double() @ weights * model.energy_normalizer.scale(torch.float64)
        is_atom = inputs["attention_mask"].bool()
        references = model.references(torch.float64)[inputs["atomic_numbers"]]
        expected = ((of_atoms + 0.01 + references) * is_atom).sum(dim=1)
        assert torch.allclose(expected, output.energy, atol=1e-4)

    def test_derivatives_of_features_are_those_of_energies(self, model, structures, monkeypatch):
        monkeypatch.setattr(rigidity, "STEP", 1e-4)
        model = model.double()
        inputs = dict(extractor(model)(structures, dtype="float64"))
        direction = rigidity.random_direction(inputs, torch.Generator().manual_seed(0))
        assert direction[0, 7:].abs().max() == 0  # padding
        change = rigidity.directional_derivative(model, inputs, direction)
        *_, last = model.energy_head.layers
        weights = torch.cat([last.weight[0], last.bias]).detach() * model.energy_normalizer.scale(torch.float64)
        by_forces = -(forces_of(model, **inputs).forces * direction).sum(dim=(1, 2))
        assert by_forces.abs().min() > 1e-3
        assert torch.allclose(change @ weights, by_forces, rtol=1e-5)

    @pytest.mark.parametrize("mixed", [False, True], ids=["alike", "weight 3, the first without its energy"])
    def test_it_is_the_second_derivative_of_the_loss(self, make_energy_model, springs, monkeypatch, mixed):
        """The loss is a parabola in the weights of the last layer, whose second derivative autograd knows."""
        model = make_energy_model(**POOLED | {"force_loss": "mse"})
        monkeypatch.setattr(rigidity, "DIRECTIONS", 300)
        rows = read_split(springs, "train").select([0, 1])
        if mixed:
            changed = {"energy": [None, rows[1]["energy"]], "source_weight": [3.0, 3.0]}
            rows = rows.map(
                lambda row, index: {name: values[index] for name, values in changed.items()}, with_indices=True
            )
        information, _ = rigidity._information(model, extractor(model), rows, 2, False)
        *_, last = model.energy_head.layers
        expected = torch.zeros(16, 16).double()
        for batch, inputs in rigidity.batches(model, extractor(model), rows, 1, False):
            labels = {
                name: batch[name] for name in batch if name in ("labels", "reference_forces", "structure_weights")
            }
            loss = model(**inputs, **labels).loss
            (gradient,) = torch.autograd.grad(loss, last.weight, create_graph=True)
            expected += torch.stack(
                [torch.autograd.grad(one, last.weight, retain_graph=True)[0][0] for one in gradient[0]]
            )
        found = torch.from_numpy(information[:16, :16])
        assert (2 * found - expected).norm() < 0.15 * expected.norm()


class TestSymmetry:
    def test_turned_and_reordered_structures(self, model, structures):
        atoms = structures[1]
        first = doubtful(model, atoms)
        assert first["energy_uncertainty"] > 0 and first["atom_doubt"].shape == (8,)
        rng = np.random.default_rng(0)
        order = rng.permutation(8)
        other = atoms[order]
        turned(other, rng)
        second = doubtful(model, other)
        assert second["energy_uncertainty"] == pytest.approx(first["energy_uncertainty"], rel=1e-4)
        np.testing.assert_allclose(second["atom_doubt"], first["atom_doubt"][order], rtol=1e-3)

    def test_repeated_cells(self, model, structures):
        once, twice = doubtful(model, structures[0]), doubtful(model, structures[0] * (2, 1, 1))
        assert twice["energy_uncertainty"] == pytest.approx(2 * once["energy_uncertainty"], rel=1e-4)
        np.testing.assert_allclose(twice["atom_doubt"], np.tile(once["atom_doubt"], 2), rtol=1e-3)

    def test_compiled_models_doubt_alike_without_a_second_pass(self, model, structures, monkeypatch):
        expected = doubtful(model, structures[0])
        kernels = torch.nn.Module.compile  # which take a minute to make
        monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **k: kernels(self, backend="eager", **k))
        monkeypatch.setattr(ADAPTCalculator, "features", lambda *_: pytest.fail("a pass for the doubt alone"))
        calculator = ADAPTCalculator(copy.deepcopy(model), outside_domain="ignore", compiled=True, doubt=any_doubt())
        calculator.get_property("energy", structures[0])
        for name in ("energy_uncertainty", "atom_doubt"):
            np.testing.assert_allclose(calculator.results[name], expected[name], rtol=1e-4)

    def test_what_defect_and_host_share_is_certain(self, model, structures):
        calculator = ADAPTCalculator(model, outside_domain="ignore", doubt=any_doubt())
        defect = structures[0]
        site = defect.copy()
        site.append("Si")
        own = Host.by(calculator, site, -40.0, {})
        assert own.formation_uncertainty(site) == pytest.approx(0, abs=1e-4)
        features = calculator.features(defect).sum(axis=0), calculator.features(site).sum(axis=0)
        expected = 2 * calculator.doubt.deviation(features[0] - 7 / 8 * features[1])
        assert own.formation_uncertainty(defect) == pytest.approx(expected)
        reservoir = Host.by(calculator, site, -40.0, {"Si": -4.0})
        expected = 2 * calculator.doubt.deviation(features[0] - features[1])
        assert reservoir.formation_uncertainty(defect) == pytest.approx(expected)
        assert Host(site, -40.0, {}).formation_uncertainty(defect) is None

    def test_what_two_candidates_share_is_certain(self, model, structures):
        calculator = ADAPTCalculator(model, outside_domain="ignore", doubt=any_doubt())
        lowest, other = (structures[0].copy() for _ in range(2))
        other.rattle(0.02, seed=9)
        candidates = [Candidate("a", lowest, -3.0), Candidate("b", other, -2.5)]
        ranked = rank(candidates, doubt=DifferenceDoubt.by(calculator))
        first, second = (calculator.features(one).sum(axis=0) for one in (lowest, other))
        assert ranked[0].energy_above_lowest_uncertainty == 0
        found = ranked[1].energy_above_lowest_uncertainty
        assert found == pytest.approx(2 * calculator.doubt.deviation(second - first))
        assert found < calculator.doubt.deviation(first) + calculator.doubt.deviation(second)

    def test_of_several_models_it_is_their_spread(self, make_energy_model, structures):
        models = [make_energy_model(seed, **POOLED) for seed in range(3)]
        doubt = DifferenceDoubt.by(ADAPTCalculator(models, outside_domain="ignore"))
        alone = [ADAPTCalculator(one, outside_domain="ignore") for one in models]
        first, second = structures[0], structures[0].copy()
        second.rattle(0.1, seed=3)
        differences = [one.get_potential_energy(second) - one.get_potential_energy(first) for one in alone]
        found = doubt.deviation(doubt.read(second) - doubt.read(first))
        assert found == pytest.approx(np.std(differences, ddof=1), rel=1e-3)
        assert DifferenceDoubt.by(alone[0]) is None


class TestFile:
    def test_it_comes_back(self, checkpoint, model, springs):
        loaded = load_doubt(checkpoint)
        made, _ = fit_doubt(
            model, extractor(model), read_split(springs, "train"), read_split(springs, "validation"), progress=False
        )
        np.testing.assert_allclose(loaded.covariance, made.covariance, rtol=1e-6)
        assert loaded.usual == pytest.approx(made.usual) and loaded.of_differences == pytest.approx(
            made.of_differences
        )
        assert loaded.of_forces == pytest.approx(made.of_forces)
        seen = observe(model, extractor(model), read_split(springs, "validation"), progress=False)
        forces = loaded.of_forces * loaded.of_atoms(seen.atoms)
        assert np.mean((seen.force_errors / forces) ** 2) == pytest.approx(1, rel=1e-4)
        assert np.mean((seen.errors / loaded.deviation(seen.features)) ** 2) == pytest.approx(1, rel=1e-4)

    def test_of_other_weights(self, checkpoint, make_energy_model, capsys):
        make_energy_model(seed=1, **POOLED).save_pretrained(checkpoint)
        capsys.readouterr()
        assert load_doubt(checkpoint) is None
        error = capsys.readouterr().err
        assert "is of other weights, so energies have no uncertainty" in error and error.count("\n") == 1

    def test_damaged(self, checkpoint, capsys):
        (checkpoint / FILE).write_bytes(b"x" * 100)
        assert load_doubt(checkpoint) is None
        assert "cannot be read, so energies have no uncertainty" in capsys.readouterr().err

    def test_none(self, model, structures, tmp_path, capsys):
        calculator = ADAPTCalculator.from_pretrained(save(model, tmp_path / "model"))
        calculator.get_property("energy", structures[0])
        assert not {"energy_uncertainty", "atom_doubt"} & calculator.results.keys()
        assert "uncertainty" not in capsys.readouterr().err

    def test_from_the_hub(self, checkpoint, hub, tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", FROM_THE_HUB, str(checkpoint)],
            env=hub.env(tmp_path / "hf"),
            capture_output=True,
            text=True,
            timeout=300,
            cwd=Path(__file__).parents[1],
        )
        assert done.returncode == 0, done.stderr
        first, second = done.stdout.split()[-2:]
        assert float(first) == pytest.approx(load_doubt(checkpoint).usual)
        assert second == "None"

    def test_too_few_structures(self, model, springs, monkeypatch):
        monkeypatch.setattr(rigidity, "FEWEST_STRUCTURES", 10)
        rows = read_split(springs, "validation")
        with pytest.raises(InputError, match="4 structures calibrate no uncertainty; it takes 10"):
            fit_doubt(model, extractor(model), rows, rows, progress=False)

    def test_it_is_published_for_the_weights_as_they_are_published(self, checkpoint, tmp_path):
        (run,) = open_runs([checkpoint])
        stage_model(run, example_structure(None), tmp_path / "staged")
        assert is_ours(FILE) and is_ours(f"energy/{FILE}")
        published = load_doubt(tmp_path / "staged")
        np.testing.assert_array_equal(published.covariance, load_doubt(checkpoint).covariance)


class TestShown:
    def test_calculator(self, checkpoint, make_force_model, structures):
        alone = ADAPTCalculator.from_pretrained(checkpoint)
        alone.get_property("forces", structures[0])
        doubt = load_doubt(checkpoint)
        features = alone.features(structures[0])
        assert alone.results["energy_uncertainty"] == pytest.approx(doubt.deviation(features.sum(axis=0)), rel=1e-4)
        np.testing.assert_allclose(alone.results["atom_doubt"], doubt.of_atoms(features), rtol=1e-4)
        expected = doubt.of_forces * alone.results["atom_doubt"]
        np.testing.assert_allclose(alone.results["forces_uncertainty"], expected)
        folder = save(make_force_model(**POOLED), checkpoint.parent / "forces")
        beside = ADAPTCalculator.from_pretrained(folder, checkpoint)
        beside.get_property("energy", structures[0])
        assert beside.results["energy_uncertainty"] == pytest.approx(alone.results["energy_uncertainty"], rel=1e-4)
        assert "forces_uncertainty" not in beside.results
        images = ADAPTCalculator.from_pretrained(checkpoint, num_images=3)
        images.get_property("energy", structures[0])
        assert images.results["energy_uncertainty"] == pytest.approx(alone.results["energy_uncertainty"], rel=1e-3)
        several = ADAPTCalculator.from_pretrained([checkpoint, checkpoint])
        several.get_property("energy", structures[0])
        assert "energy_uncertainty" not in several.results

    def test_relaxations(self, checkpoint, structures, tmp_path, capsys):
        host = structures[2]
        defect = host[1:]
        for name, atoms in (("host", host), ("defect", defect)):
            ase.io.write(tmp_path / f"{name}.extxyz", atoms)
        command = [str(tmp_path / "defect.extxyz"), "--model", str(checkpoint), "--fmax", "1000", "--report"]
        command += ["--finish", "1000"]
        output = tmp_path / "relaxed"
        relax_command.main([*command, "--host", str(tmp_path / "host.extxyz"), "--output", str(output)])
        (line,) = csv.DictReader((output / "summary.csv").open())
        calculator = ADAPTCalculator.from_pretrained(checkpoint)
        calculator.get_property("energy", defect)
        assert float(line["energy_uncertainty_ev"]) == pytest.approx(
            calculator.results["energy_uncertainty"], rel=1e-3
        )
        assert float(line["atom_doubt"]) == pytest.approx(calculator.results["atom_doubt"].max(), rel=1e-3)
        relaxed = ase.io.read(output / "defect.relaxed.extxyz")
        np.testing.assert_allclose(relaxed.arrays["atom_doubt"], calculator.results["atom_doubt"], rtol=1e-3)
        (ranked,) = csv.DictReader((output / "ranking.csv").open())
        printed = capsys.readouterr().out
        assert f"± {float(ranked['formation_energy_uncertainty_ev']):.2f}" in printed and "± E (eV)" in printed
        page = (output / "report.html").read_text()
        assert f"± {float(ranked['formation_energy_uncertainty_ev']):.2f}</td>" in page

    def test_an_unusual_atom_is_named_in_the_summary(self, checkpoint, structures, tmp_path, capsys):
        structures[0].positions[0] = structures[0].positions[1] + [0.9, 0, 0]
        ase.io.write(tmp_path / "wrong.extxyz", structures[0])
        command = [str(tmp_path / "wrong.extxyz"), "--model", str(checkpoint), "--steps", "0"]
        relax_command.main([*command, "--output", str(tmp_path / "relaxed")])
        assert "wrong: an atom is less like those of the training than 99 of 100" in capsys.readouterr().out

    def test_evaluation(self, model, springs, tmp_path, capsys):
        folder = save(model, tmp_path / "model")
        command = [str(folder), springs, "--split", "validation", "--checks", "0", "--device", "cpu"]
        evaluate_command.main(command)
        assert "uncertainty" not in capsys.readouterr().out
        assert run_command(lambda: evaluate_command.main([*command, "--widen", "2"])) == 2
        assert "--widen goes with --calibrate" in capsys.readouterr().err
        evaluate_command.main([*command, "--calibrate", "--widen", "2.5", "--output", str(tmp_path / "results")])
        assert "rank correlation" in capsys.readouterr().out
        found = json.loads((tmp_path / "results" / "metrics.json").read_text())["doubt"]
        assert found["energy_error_rms_mev"] > 0 and -1 <= found["atom_doubt_force_error_spearman"] <= 1
        doubt = load_doubt(folder)
        assert found["difference_errors_in_uncertainties"] > 0 and doubt.widened == 2.5
        narrow, features = replace(doubt, widened=1.0), np.eye(len(doubt.covariance))
        np.testing.assert_allclose(
            doubt.difference_deviation(features), 2.5 * narrow.difference_deviation(features), rtol=1e-12
        )
        np.testing.assert_array_equal(doubt.deviation(features), narrow.deviation(features))

    def test_training(self, recipe, springs, tmp_path, capsys):
        path = recipe(model="pairwise-energy", num_vector_channels=8, num_train_epochs=1)
        train([path, "--dataset", springs, "--output_dir", str(tmp_path / "run")])
        assert "uncertainty of the energies" in capsys.readouterr().out
        assert load_doubt(tmp_path / "run") is not None
        assert weights_hash(tmp_path / "run") is not None
