"""The total charge as an input: of models that read it, of data, and of those who ask a model for one."""

import re

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from transformers import pipeline

import modeling_adapt.cli.evaluate as evaluate_command
import modeling_adapt.cli.import_structures as import_command
import modeling_adapt.cli.relax as relax_command
from modeling_adapt import ADAPTFeatureExtractor
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.crystal.trained_region import TrainingDomain, fit_domain
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.batching import StructureCollator, StructureDataset
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.load.survey import content_hash
from modeling_adapt.data.structures import atoms_from_row, structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.neb import predict_together
from modeling_adapt.simulation.ranking import Candidate, Host, rank
from modeling_adapt.simulation.relaxation import can_batch, relax
from modeling_adapt.simulation.tree import defect_of

PAIRWISE = {"architecture": "pairwise", "num_vector_channels": 8, "pairwise_cutoff": 4.0}


def charged(charge: float | None = None) -> Atoms:
    atoms = bulk("Si", cubic=True)[1:]
    atoms.rattle(0.1, seed=0)
    atoms.info |= {} if charge is None else {"charge": charge}
    return atoms


def forces_of(model, structures) -> np.ndarray:
    with torch.no_grad():
        return model(**ADAPTFeatureExtractor.for_model(model.config)(structures)).forces.numpy()


@pytest.mark.parametrize("architecture", ["pairwise", "fourier"])
def test_charges_tell_structures_apart(make_force_model, architecture):
    reads = make_force_model(**PAIRWISE | {"architecture": architecture, "reads_charge": True})
    without = make_force_model(**PAIRWISE | {"architecture": architecture})
    weights = {
        name: weight for name, weight in reads.state_dict().items() if not name.endswith("embeddings.charge.weight")
    }
    without.load_state_dict(weights)
    forces = forces_of(reads, [charged(charge) for charge in (None, 0, 1, -1, 2)])
    assert np.array_equal(forces[0], forces[1]) and np.abs(forces[0] - forces_of(without, charged())[0]).max() < 1e-6
    for one, other in ((0, 2), (2, 3), (2, 4)):
        assert np.abs(forces[one] - forces[other]).max() > 1e-5


def test_a_model_that_knows_no_charges_says_so(make_force_model, make_energy_model):
    model = make_force_model(**PAIRWISE)
    words = "structure 0: a charge of \\+2, but this model was trained without charges"
    atoms = charged(2)
    atoms.calc = ADAPTCalculator(model)
    with pytest.raises(InputError, match=words):
        atoms.get_forces()
    with pytest.raises(ValueError, match=words):
        pipeline("atom-forces", model=model, feature_extractor=ADAPTFeatureExtractor(cutoff=4.0))(atoms)
    for one in (model, make_energy_model()):
        inputs = ADAPTFeatureExtractor.for_model(one.config)(atoms)
        with pytest.raises(ValueError, match="trained without charges"):
            one(**inputs, charge=torch.ones(1))
    as_neutral = charged(2)
    as_neutral.calc = ADAPTCalculator(model, charge=0.0)
    np.testing.assert_allclose(as_neutral.get_forces(), forces_of(model, charged())[0], atol=1e-6)
    with pytest.raises(InputError, match="some of the models read charges"):
        ADAPTCalculator([model, make_force_model(**PAIRWISE, reads_charge=True)])
    with pytest.raises(ValueError, match="structure 0: a charge must be a number of elementary charges, not 'much'"):
        ADAPTFeatureExtractor(reads_charge=True)(charged("much"))


def test_the_calculator_follows_the_charge(make_force_model):
    model = make_force_model(**PAIRWISE, reads_charge=True)
    atoms, other = charged(1), charged()
    atoms.calc, other.calc = ADAPTCalculator(model), ADAPTCalculator(model, charge=1)
    first = atoms.get_forces()
    np.testing.assert_allclose(other.get_forces(), first, atol=1e-6)
    atoms.info["charge"] = -1
    assert np.abs(atoms.get_forces() - first).max() > 1e-5
    result = pipeline("atom-forces", model=model, feature_extractor=ADAPTFeatureExtractor.for_model(model.config))(
        atoms
    )
    np.testing.assert_allclose(result["forces"], atoms.get_forces(), atol=1e-6)


@pytest.fixture
def rows(tmp_path):
    zero = np.zeros((7, 3))
    made = [structure_row(charged(), zero, charge=charge, trajectory=f"t{charge}") for charge in (None, 2.0, -1.0)]
    write_dataset({"train": made}, tmp_path / "set")
    return read_split(tmp_path / "set", "train")


def test_data_carry_it(rows):
    assert rows["charge"][:] == [None, 2.0, -1.0]
    assert [atoms_from_row(row).info.get("charge") for row in rows] == [None, 2.0, -1.0]
    items = StructureDataset(rows).__getitems__([0, 1, 2])
    for given in (items, list(rows)):
        assert StructureCollator(ADAPTFeatureExtractor(reads_charge=True))(given)["charge"].tolist() == [
            0.0,
            2.0,
            -1.0,
        ]
        assert "charge" not in StructureCollator(ADAPTFeatureExtractor())(given)
    neutral = rows.map(lambda row: row | {"charge": 0.0}, features=rows.features)
    unknown = rows.map(lambda row: row | {"charge": None}, features=rows.features)
    assert content_hash(neutral) == content_hash(unknown) != content_hash(rows)
    with pytest.raises(InputError, match="the charge is not a finite number"):
        structure_row(charged(), np.zeros((7, 3)), charge=np.nan)


def test_the_trained_region_names_charges(rows):
    domain = TrainingDomain.from_dict(fit_domain(rows, reads_charge=True).to_dict())
    assert domain.charges == (-1.0, 0.0, 2.0)
    assert domain.findings(charged(2)) == {} == domain.findings(charged())
    assert domain.findings(charged(1)) == {"charge": "a charge of +1; training had -1, +0, +2"}
    blind = TrainingDomain.from_dict(fit_domain(rows).to_dict())
    assert blind.charges is None and blind.findings(charged(1)) == {}


def test_it_is_imported(tmp_path):
    frames = [charged(), charged(-2)]
    for atoms in frames:
        atoms.arrays["REF_forces"] = np.zeros((7, 3))
    ase.io.write(tmp_path / "in.extxyz", frames)
    import_command.main([str(tmp_path / "in.extxyz"), str(tmp_path / "set"), "--split", "train", "--host", "none"])
    assert read_split(tmp_path / "set", "train")["charge"][:] == [None, -2.0]
    frames[1].info["charge"] = "much"
    ase.io.write(tmp_path / "bad.extxyz", frames)
    with pytest.raises(InputError, match="bad.extxyz, frame 1: a charge must be a number"):
        import_command.main([str(tmp_path / "bad.extxyz"), str(tmp_path / "other"), "--host", "none"])


def test_relaxations_of_charged_structures(make_force_model, tmp_path, capsys):
    """By a model that reads charges those of the files, or the one that is named."""
    model = make_force_model(**PAIRWISE, reads_charge=True)
    model.save_pretrained(tmp_path / "model")
    ase.io.write(tmp_path / "in.extxyz", charged(1))

    def relaxed(name: str, *options: str) -> np.ndarray:
        arguments = [
            str(tmp_path / "in.extxyz"),
            "--model",
            str(tmp_path / "model"),
            "--steps",
            "0",
            "--device",
            "cpu",
        ]
        run_command(lambda: relax_command.main([*arguments, "--output", str(tmp_path / name), *options]))
        return ase.io.read(tmp_path / name / "in.relaxed.extxyz").get_forces()

    np.testing.assert_allclose(relaxed("told"), forces_of(model, charged(1))[0], atol=1e-5)
    np.testing.assert_allclose(relaxed("named", "--charge", "-2"), forces_of(model, charged(-2))[0], atol=1e-5)
    assert ase.io.read(tmp_path / "told" / "in.traj.extxyz").info["charge"] == 1
    # A command that was interrupted goes on with the same charges, or not at all.
    again = [str(tmp_path / "in.extxyz"), "--model", str(tmp_path / "model"), "--steps", "0", "--device", "cpu"]
    with pytest.raises(InputError, match="holds results of another command"):
        relax_command.main([*again, "--output", str(tmp_path / "named"), "--charge", "2"])


@pytest.fixture
def energy_model(make_energy_model):
    return make_energy_model(**PAIRWISE, reads_charge=True)


def test_everyone_reads_the_charge_of_the_calculator(energy_model, make_energy_model):
    """One image at a time or all of a band at once, one of several models, and what a relaxation freezes."""
    calculator = ADAPTCalculator(energy_model, charge=2, outside_domain="ignore")
    atoms = charged()
    expected = calculator.get_property("energy", atoms)
    told = ADAPTCalculator(energy_model, outside_domain="ignore")
    assert abs(told.get_property("energy", atoms) - expected) > 1e-6
    assert told.get_property("energy", charged(2)) == pytest.approx(expected, abs=1e-6)
    (together,), _ = predict_together(calculator, [atoms])
    assert together == pytest.approx(expected, abs=1e-6)
    assert calculator.member_energies(atoms)[0] == pytest.approx(expected, abs=1e-6)
    result = relax(charged(2), told, steps=1)
    assert result.atoms.info["charge"] == 2
    energy = result.atoms.get_potential_energy()
    assert told.get_property("energy", result.atoms) == pytest.approx(energy, abs=1e-6)
    blind = ADAPTCalculator(make_energy_model(**PAIRWISE), outside_domain="ignore")
    assert not can_batch(charged(2), blind)
    with pytest.raises(InputError, match="trained without charges"):
        predict_together(blind, [charged(2)])


def test_a_saved_extractor_reads_it(energy_model, tmp_path):
    energy_model.save_pretrained(tmp_path)
    ADAPTFeatureExtractor.for_model(energy_model.config).save_pretrained(tmp_path)
    energies = [pipeline("atom-forces", model=str(tmp_path))(charged(charge))["energy"] for charge in (0, 2)]
    calculator = ADAPTCalculator(energy_model, outside_domain="ignore")
    expected = [calculator.get_property("energy", charged(charge)) for charge in (0, 2)]
    np.testing.assert_allclose(energies, expected, atol=1e-5)
    assert abs(energies[1] - energies[0]) > 1e-6


def test_only_one_charge_is_compared_by_energy():
    candidates = [Candidate(f"q{charge}", charged(charge), -float(charge)) for charge in (0, 1, 1)]
    ranked = rank(candidates)
    assert [(one.name, one.rank, one.energy_above_lowest) for one in ranked] == [
        ("q0", 1, 0.0),
        ("q1", 1, 0.0),
        ("q1", 1, 0.0),
    ]
    host = Host(bulk("Si", cubic=True), -8.0, {})
    with pytest.raises(InputError, match=r"a charge of \+1; formation energies are of neutral defects"):
        host.require_fits(charged(1))
    assert [defect_of("x", "Si7", charge) for charge in (0, 1, -2)] == ["Si7_0", "Si7_+1", "Si7_-2"]


def test_an_evaluation_takes_charges_that_the_model_can_tell_apart(rows, make_force_model, tmp_path, capsys):
    """Those of `rows` are 0, +2 and -1."""
    for name, reads in (("blind", False), ("reads", True)):
        make_force_model(**PAIRWISE, reads_charge=reads).save_pretrained(tmp_path / name)
    command = [str(tmp_path / "blind"), str(tmp_path / "set"), "--split", "train", "--checks", "0"]
    with pytest.raises(
        InputError, match=r"charges -1 \(1\), \+0 \(1\), \+2 \(1\), which this model cannot tell apart"
    ):
        evaluate_command.main(command)
    for options, count in ((["--charge", "0"], 1), (["--charge", "any"], 3)):
        evaluate_command.main([*command, *options])
        assert re.search(rf"^all +{count} ", capsys.readouterr().out, re.MULTILINE)
    evaluate_command.main([str(tmp_path / "reads"), *command[1:]])
    assert re.search("^all +3 ", capsys.readouterr().out, re.MULTILINE)
