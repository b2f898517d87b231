"""torch-sim accepts ADAPT as a model, and relaxes with it to where ASE's FIRE does."""

import contextlib
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.constraints import FixAtoms

import modeling_adapt.cli.relax as command
from modeling_adapt.crystal.minimum_image import largest_displacement
from modeling_adapt.crystal.trained_region import fit_domain
from modeling_adapt.data.structures import structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.relaxation import can_batch, relax, relax_each

ts = pytest.importorskip("torch_sim", minversion="0.6", reason="torch-sim is an optional extra")

from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from modeling_adapt.simulation.batched import ADAPTTorchSimModel, relax_batched  # noqa: E402


def _structures():
    structures = [bulk("Si", cubic=True), bulk("Si"), bulk("SiC", "zincblende", 4.6, cubic=True)]
    for number, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=number)
    return structures


@pytest.mark.parametrize("architecture", ["pairwise", "cartesian"])
@pytest.mark.parametrize("kind", ["forces", "energy"])
def test_it_passes_the_validation_of_torch_sim(make_force_model, make_energy_model, kind, architecture):
    """All of it, but that coordinates as they are, which the published network reads, know no lattice."""
    make = make_force_model if kind == "forces" else make_energy_model
    model = make(architecture=architecture, num_vector_channels=8)
    no_lattice = pytest.raises(ValueError, match="changed after translating an atom by a lattice vector")
    with no_lattice if architecture == "cartesian" else contextlib.nullcontext():
        validate_model_outputs(ADAPTTorchSimModel(model), torch.device("cpu"), torch.float32)


def test_a_slab_is_periodic_along_two_axes(make_force_model):
    model = make_force_model(architecture="pairwise", num_vector_channels=8)
    slab = _structures()[0]
    slab.pbc = (True, True, False)
    slab.calc = ADAPTCalculator(model)
    output = ADAPTTorchSimModel(model)(ts.io.atoms_to_state([slab], torch.device("cpu"), torch.float32))
    np.testing.assert_allclose(output["forces"], slab.get_forces(), atol=1e-5)


def test_it_says_what_the_calculator_says(make_energy_model):
    model = make_energy_model(architecture="pairwise", num_vector_channels=8)
    structures = _structures()
    output = ADAPTTorchSimModel(model)(ts.io.atoms_to_state(structures, torch.device("cpu"), torch.float32))
    for number, atoms in enumerate(structures):
        atoms.calc = ADAPTCalculator(model)
        assert output["energy"][number].item() == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    forces = np.concatenate([atoms.get_forces() for atoms in structures])
    np.testing.assert_allclose(output["forces"], forces, atol=1e-5)


def test_the_published_energy_network_is_refused(make_energy_model):
    with pytest.raises(InputError, match="gives no forces"):
        ADAPTTorchSimModel(make_energy_model())


def test_half_precision_is_of_the_weights_not_of_the_positions(make_force_model):
    model = make_force_model(architecture="pairwise").to(torch.bfloat16)
    assert ADAPTTorchSimModel(model).dtype == torch.float32
    assert ADAPTTorchSimModel(model.double()).dtype == torch.float64


def test_a_batch_is_not_padded_to_one_large_structure(make_force_model, monkeypatch):
    """A step pads all structures to the largest, so those of other sizes go in batches of their own."""
    model = make_force_model(architecture="pairwise", num_vector_channels=8)
    large, small = bulk("Si", cubic=True) * 3, {f"s{number}": _shaken(0) for number in range(40)}
    places: list[int] = []
    forward = ADAPTTorchSimModel.forward

    def counted(self, state, **options):
        counts = torch.bincount(state.system_idx)
        places.append(int(len(counts) * counts.max()))
        return forward(self, state, **options)

    monkeypatch.setattr(ADAPTTorchSimModel, "forward", counted)
    assert len(dict(relax_batched({"large": large, **small}, model, steps=2, fmax=1e-9))) == 41
    assert max(places) <= 1.25 * (len(large) + 40 * len(_shaken(0)))


class TestBatchedRelaxation:
    @pytest.fixture
    def model(self, make_force_model):
        """Springs to where the atoms started would be too easy; random weights give smooth forces, if no minimum."""
        return make_force_model(architecture="pairwise", num_vector_channels=8)

    def test_every_structure_takes_the_steps_that_it_takes_alone(self, model, monkeypatch):
        structures = {f"s{number}": _shaken(number) for number in range(6)}
        alone = {}
        for name, atoms in structures.items():
            ((_, alone[name]),) = relax_batched({name: atoms}, model, fmax=1e-3, steps=12)
        for room in (20, 1000):
            monkeypatch.setattr("modeling_adapt.simulation.batched.ATOMS_ON_CPU", room)
            together = dict(relax_batched(structures, model, fmax=1e-3, steps=12))
            assert together.keys() == alone.keys()
            for name, result in together.items():
                assert (result.status, result.steps) == (alone[name].status, alone[name].steps)
                np.testing.assert_allclose(result.atoms.positions, alone[name].atoms.positions, atol=1e-4)

    def test_same_minimum_as_one_by_one(self, make_energy_model, tmp_path):
        """A pooled energy with a minimum: the repulsive start of its weights is relaxed until its forces vanish."""
        # Without a mean per atom, of which float32 would keep a digit less than is compared.
        model = make_energy_model(architecture="pairwise", num_vector_channels=8, energy_mean=0.0, seed=3)
        structures = {f"s{number}": _shaken(number, scale=0.02) for number in range(3)}
        ends = dict(
            relax_batched(structures, model, fmax=1e-4, steps=300, trajectory=lambda name: tmp_path / f"{name}.extxyz")
        )
        for name, atoms in structures.items():
            one = relax(atoms, ADAPTCalculator(model), fmax=1e-4, steps=300)
            assert ends[name].status == one.status == "converged"
            assert largest_displacement(one.atoms, ends[name].atoms) < 0.01
            assert ends[name].energy_change == pytest.approx(one.energy_change, abs=3e-6)
            frames = ase.io.read(tmp_path / f"{name}.extxyz", ":")
            assert len(frames) == ends[name].steps + 1

    def test_finishing_is_as_alone(self, make_energy_model):
        """To the step, also where the energy curves downwards (the first does) and what is rounded away soon tells."""
        model = make_energy_model(architecture="pairwise", num_vector_channels=8, energy_mean=0.0, seed=3).double()
        structures = {f"s{number}": _shaken(number, scale=0.02) for number in range(3)}
        limits = {"fmax": 2e-2, "steps": 200, "finish": 3e-3}
        for name, result in relax_batched(structures, model, **limits):
            one = relax(structures[name], ADAPTCalculator(model), **limits)
            assert (result.status, result.steps) == (one.status, one.steps)
            assert result.fmax < 3e-3

    def test_what_is_relaxed_already_takes_no_step(self, model):
        atoms = bulk("Si", cubic=True)
        ((name, result),) = relax_batched({"perfect": atoms}, model, fmax=10.0)
        assert (name, result.status, result.steps) == ("perfect", "converged", 0)

    def test_leaving_the_trained_region_ends_it(self, model):
        domain = fit_domain([structure_row(bulk("Si", cubic=True), np.zeros((8, 3)))])
        close = bulk("Si", cubic=True)
        close.positions[1] = close.positions[0] + [0.8, 0, 0]
        far = {"close": close, "carbon": _shaken(2)}
        results = dict(relax_batched(far, model, fmax=1e-9, steps=3, domain=domain))
        assert results["close"].status == "left the trained region" and results["close"].steps == 0


def _shaken(number: int, scale: float = 0.05):
    atoms = _structures()[number % 3]
    atoms.rattle(scale, seed=number)
    return atoms


def test_command_relaxes_many_at_once_or_one_by_one(make_force_model, tmp_path, capsys):
    make_force_model(architecture="pairwise", num_vector_channels=8).save_pretrained(tmp_path / "model")
    (tmp_path / "in").mkdir()
    for number in range(4):
        ase.io.write(tmp_path / "in" / f"s{number}.extxyz", _shaken(number))
    common = [str(tmp_path / "in"), "--model", str(tmp_path / "model"), "--steps", "5", "--fmax", "1e-9"]
    for name, more in (("many", []), ("one", ["--one-by-one"])):
        assert command.main([*common, "--output", str(tmp_path / name), *more]) == 1  # none converges
    for number in range(4):
        many, one = (ase.io.read(tmp_path / name / f"s{number}.relaxed.extxyz") for name in ("many", "one"))
        np.testing.assert_allclose(many.positions, one.positions, atol=1e-4)
        assert len(ase.io.read(tmp_path / "many" / f"s{number}.traj.extxyz", ":")) == 6
    assert capsys.readouterr().out.count("not converged") == 2 * 8  # in the log, as each ends, and in the table


def test_one_structure_does_not_wait_for_torch_sim(make_energy_model, monkeypatch):
    calculator = ADAPTCalculator(make_energy_model(architecture="pairwise", num_vector_channels=8))
    batched = []
    monkeypatch.setattr(
        "modeling_adapt.simulation.batched.relax_batched", lambda given, *_: batched.append(set(given)) or iter(())
    )
    assert [name for name, _ in relax_each({"a": _shaken(0)}, calculator, steps=1)] == ["a"] and not batched
    assert not list(relax_each({"a": _shaken(0), "b": _shaken(1)}, calculator)) and batched == [{"a", "b"}]


def test_command_does_not_batch_what_torch_sim_cannot(tmp_path):
    free, slab, fixed = _shaken(0), _shaken(1), _shaken(2)
    slab.pbc = (True, True, False)
    fixed.set_constraint(FixAtoms([0]))
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    alone = {"models": ["m"], "num_images": 1, "energy_model": None, "domain": None, "compiled": False, "device": cpu}
    assert can_batch(free, SimpleNamespace(**alone))
    assert not can_batch(slab, SimpleNamespace(**alone))
    assert not can_batch(fixed, SimpleNamespace(**alone))
    aligned = SimpleNamespace(alignment=object())  # structures are mapped one by one
    several = [{"models": ["m", "n"]}, {"num_images": 2}, {"energy_model": "e"}, {"domain": aligned}]
    for other in (*several, {"compiled": True}):
        assert not can_batch(free, SimpleNamespace(**alone | other))
    assert can_batch(free, SimpleNamespace(**alone | {"compiled": True, "device": gpu}))
    large = bulk("Si", cubic=True) * 3
    assert can_batch(large, SimpleNamespace(**alone | {"device": gpu}))
    assert not can_batch(large, SimpleNamespace(**alone))  # two of them are slower than one after the other
