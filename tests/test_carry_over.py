"""A model that is carried over to a crystal of the same bonds, only longer and softer, is right about it at once."""

import numpy as np
import pytest
from ase.build import bulk

from modeling_adapt.cli import train
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.structures import structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.evaluation.evaluate import evaluate_energy, evaluate_forces
from modeling_adapt.loading import load_model
from modeling_adapt.simulation.calculator import ADAPTCalculator

STRETCH, STIFFNESS = 1.07, 0.6
SHIFT = {"In": -2.0, "P": -5.0}  # eV; energies of elements are another DFT's


@pytest.fixture(scope="module")
def other_host(tmp_path_factory) -> str:
    """Frames of a zincblende crystal, which the model in the box labels as if it were silicon on a smaller scale."""
    rng, rows, calculator = np.random.default_rng(0), [], ADAPTCalculator()
    for index in range(4):
        silicon = bulk("Si", cubic=True)
        silicon.rattle(0.08, rng=rng)
        silicon.calc = calculator
        atoms = silicon.copy()
        atoms.symbols = ["In", "P"] * 4
        atoms.set_cell(STRETCH * silicon.cell, scale_atoms=True)
        shift = sum(SHIFT[symbol] for symbol in atoms.symbols)
        energy = STIFFNESS * silicon.get_potential_energy() + shift
        forces = STIFFNESS / STRETCH * silicon.get_forces()
        rows.append(structure_row(atoms, forces, energy=energy, defect_sites=[[0, 0, 0]], trajectory=f"t{index}"))
    folder = tmp_path_factory.mktemp("data") / "other"
    write_dataset({"train": rows[:3], "validation": rows[3:]}, folder)
    return str(folder)


def run(other_host, folder, **fields):
    """A training that ends where it begins."""
    given = {
        "carry_over": "true",
        "learning_rate": 0,
        "weight_decay": 0,
        "num_train_epochs": 1,
        "ema_decay": 0,
    } | fields
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    recipe = "configuration/recipes/transfer.yaml"
    train.main([recipe, "--dataset", other_host, "--output_dir", str(folder), *options])
    return load_model(folder)


def test_lengths_energies_and_elements_are_found(other_host, tmp_path, capsys):
    model, feature_extractor = run(other_host, tmp_path / "run")
    said = capsys.readouterr()
    assert "lengths x 1.07, energies x 0.60, P begins as Si, In begins as Si" in said.out
    assert "was not trained on" not in said.err
    assert model.config.pairwise_cutoff == pytest.approx(6 * STRETCH)
    rows = read_split(other_host, "validation", "energy_and_forces")
    forces = evaluate_forces(model, feature_extractor, rows).metrics
    assert forces["force_mae_mev_per_ang"] < 1e-3 * forces["zero_force_mae_mev_per_ang"]
    energies = evaluate_energy(model, feature_extractor, rows).metrics
    assert energies["energy_mae_mev_per_atom"] < 0.1


@pytest.mark.slow
def test_the_written_recipe_is_read_again(other_host, tmp_path):
    run(other_host, tmp_path / "first")
    again = [str(tmp_path / "first" / "recipe.yaml"), "--output_dir", str(tmp_path / "second")]
    train.main(again)
    first, second = (load_model(tmp_path / name)[0] for name in ("first", "second"))
    assert all((one == other).all() for one, other in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pairwise_cutoff": 5.5}, "carry_over stretches the cutoff to 6.42 Å; leave pairwise_cutoff out"),
        ({"refit_statistics": "false"}, "carry_over goes with refit_statistics"),
    ],
)
def test_what_contradicts_it(other_host, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        run(other_host, tmp_path / "run", **fields)


def test_a_model_that_does_not_know_lengths(other_host, tmp_path, make_energy_model):
    make_energy_model(architecture="cartesian").save_pretrained(tmp_path / "first")
    with pytest.raises(InputError, match="carry_over: the initial model must be an energy model of the architecture"):
        run(other_host, tmp_path / "run", initial_model=str(tmp_path / "first"))
