"""The last layer, solved anew: what was planted is found, forces are kept, and what cannot be is said first."""

import pytest
import torch
from hub_uploads import save

import modeling_adapt.cli.train as train_command
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.structures import atoms_from_row, structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.feature_extraction_adapt import ADAPTFeatureExtractor
from modeling_adapt.loading import load_model
from modeling_adapt.modeling_adapt import forces_of
from modeling_adapt.training import read_out
from modeling_adapt.training.read_out import WORSE_FORCES, last_layer, refit_read_out

POOLED = {"architecture": "pairwise", "pairwise_cutoff": 4.0, "num_vector_channels": 8, "force_weight": 10.0}
POOLED |= {"energy_mean": 0.01, "energy_std": 0.2, "element_energies": {"Si": -5.0}}


@pytest.fixture
def model(make_energy_model):
    return make_energy_model(**POOLED)


@pytest.fixture
def own_labels(model, springs, tmp_path):
    """`springs` with the energies and forces of the model itself; those of some structures are not known."""
    extract, splits = ADAPTFeatureExtractor.for_model(model.config), {}
    for split in ("train", "validation"):
        splits[split] = []
        for number, row in enumerate(read_split(springs, split)):
            atoms = atoms_from_row(row)
            said = forces_of(model, **extract([atoms]))
            energy = None if number == 3 else float(said.energy)
            splits[split].append(structure_row(atoms, said.forces[0].numpy(), energy=energy, trajectory=str(number)))
    write_dataset(splits, tmp_path / "own")
    return str(tmp_path / "own")


def refit(model, dataset: str):
    extract = ADAPTFeatureExtractor.for_model(model.config)
    return refit_read_out(model, extract, read_split(dataset, "train"), read_split(dataset, "validation"), 4)


def test_finds_what_was_planted(model, own_labels):
    last = last_layer(model)
    right = [weight.detach().clone() for weight in (last.weight, last.bias)]
    with torch.no_grad():
        last.weight += 0.05 * torch.randn(last.weight.shape, generator=torch.Generator().manual_seed(0))
        last.bias += 0.1
    model.train()
    found = refit(model, own_labels)
    assert found.after[0] < 0.02 * found.before[0]
    assert found.after[1] < 0.1 * found.before[1]
    assert model.training
    assert torch.allclose(last.bias, right[1], atol=0.02)


def test_a_layer_that_is_right_stays(model, own_labels):
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    found = refit(model, own_labels)
    assert found.after[0] <= found.before[0] < 1e-6
    for name, weight in model.named_parameters():
        assert torch.allclose(weight, before[name], atol=1e-4), name


def test_forces_get_no_worse(model, springs):
    """Energies may ask for anything; what costs forces more than allowed is not taken."""
    found = refit(model, springs)
    assert found.after[0] < found.before[0]
    assert found.after[1] <= WORSE_FORCES * found.before[1]


class TestTraining:
    OPTIONS = ("--max_steps", "2", "--per_device_train_batch_size", "4", "--report_to", "none")

    def train(self, springs, output, *options: str, recipe: str = "pairwise-energy") -> None:
        small = ("--num_hidden_layers", "1", "--num_vector_channels", "8", "--hidden_size", "16")
        train_command.main(
            ["--model", recipe, *small, "--dataset", springs, "--output_dir", str(output), *self.OPTIONS, *options]
        )

    def test_what_is_saved_is_solved(self, springs, tmp_path, capsys):
        self.train(springs, tmp_path / "run", "--refit_read_out", "true")
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("last layer solved anew"))
        model, _ = load_model(tmp_path / "run")
        energies, forces = refit(model, springs).before
        assert f"-> {1000 * energies:.2f} meV/atom" in line
        assert f"-> {1000 * forces:.1f} meV/Å" in line
        assert (tmp_path / "run" / "recipe.yaml").read_text().count("refit_read_out: true") == 1

    def test_a_force_model_is_refused_before_it_is_trained(self, springs, tmp_path):
        with pytest.raises(InputError, match="refit_read_out: it is for energy models that have a gradient"):
            self.train(springs, tmp_path / "run", "--refit_read_out", "true", recipe="pairwise-small")
        assert not (tmp_path / "run").exists()

    def test_without_a_validation(self, springs, tmp_path):
        with pytest.raises(InputError, match="and there is none; leave it out with --refit_read_out false"):
            self.train(springs, tmp_path / "run", "--refit_read_out", "true", "--validation_split", "null")

    def test_what_was_trained_is_saved_before(self, springs, tmp_path, monkeypatch):
        def broken(*_: object) -> None:
            raise RuntimeError("the machine is switched off")

        monkeypatch.setattr(read_out, "refit_read_out", broken)
        with pytest.raises(RuntimeError, match="switched off"):
            self.train(springs, tmp_path / "run", "--refit_read_out", "true")
        load_model(tmp_path / "run")


def test_saved_model_is_the_one_that_was_solved(model, own_labels, tmp_path):
    with torch.no_grad():
        last_layer(model).bias += 0.1
    refit(model, own_labels)
    saved, _ = load_model(save(model, tmp_path / "model"))
    assert torch.equal(last_layer(saved).weight, last_layer(model).weight)
