"""Candidates that relaxed: which are the same, which is lowest, and what they cost to form."""

import csv
import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from scipy.spatial.transform import Rotation

import modeling_adapt.cli.relax as command
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.crystal.minimum_image import delta_q
from modeling_adapt.crystal.structure_match import Surroundings, match_atoms
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.ranking import Candidate, Host, rank
from modeling_adapt.simulation.relaxation import relax


def _copper(missing: int | None = 0, noise: float = 0.0, seed: int = 0) -> Atoms:
    atoms = bulk("Cu", cubic=True) * 3
    if missing is not None:
        del atoms[missing]
    atoms.positions += noise * np.random.default_rng(seed).normal(size=atoms.positions.shape)
    return atoms


def _interstitial(seed: int = 0) -> Atoms:
    atoms = _copper(None)
    atoms.append("Cu")
    atoms.positions[-1] = [1.8, 1.8, 1.8]
    atoms.positions += 0.03 * np.random.default_rng(seed).normal(size=atoms.positions.shape)
    return atoms


def environment_distance(first: Atoms, second: Atoms) -> float:
    return Surroundings.of(first).difference(Surroundings.of(second))


class TestStructureMatch:
    def test_shift_turn_order_and_site_do_not_matter(self):
        rng = np.random.default_rng(1)
        first = _copper(0, noise=0.1)
        turned = first[rng.permutation(len(first))]
        turned.positions += [1.0, 2.0, 3.0]
        turned.wrap()
        rotation = Rotation.random(rng=rng).as_matrix() @ np.diag([1, 1, -1])
        turned.set_cell(turned.cell.array @ rotation)
        turned.positions = turned.positions @ rotation
        assert environment_distance(first, turned) < 1e-8
        assert environment_distance(_copper(0), _copper(17)) < 1e-8

    def test_a_moved_atom_is_seen(self):
        moved = _copper()
        moved.positions[40, 0] += 0.3
        assert 0.2 < environment_distance(_copper(), moved) < 0.31

    def test_defects_out_of_sight_of_each_other_have_a_separation(self):
        def vacancies(second: list[float]) -> Atoms:
            atoms = bulk("Cu", cubic=True) * 5
            other = int(np.linalg.norm(atoms.positions - second, axis=1).argmin())
            del atoms[[0, other]]
            return atoms

        near, far, equal = (vacancies(place) for place in ([5.415, 5.415, 0], [7.22, 7.22, 7.22], [5.415, 0, 5.415]))
        assert environment_distance(near, far) < 1e-8  # nothing within 5 Å tells
        near, far, equal = map(Surroundings.of, (near, far, equal))
        assert near.same_separations(equal, 0.1) and not near.same_separations(far, 0.5)

    def test_elements_matter(self):
        first, second, third = _copper(), _copper(), _copper()
        first.symbols[3], second.symbols[60], third.symbols[[3, 4]] = "Au", "Au", "Au"
        assert np.isinf(environment_distance(first, third)) and np.isinf(environment_distance(first, _copper()))
        assert environment_distance(first, second) > 0.5  # gold beside the vacancy, and far from it

    def test_small_cells_meet_their_images(self):
        cell = bulk("Cu", cubic=True)
        assert environment_distance(cell, cell[[2, 0, 3, 1]]) < 1e-8

    def test_atoms_are_matched_whatever_their_order(self):
        rng = np.random.default_rng(2)
        first = _copper(5)
        first.symbols[7] = "Au"
        second = first.copy()
        second.positions += 0.05 * rng.normal(size=second.positions.shape)
        second.wrap()
        shuffled = second[rng.permutation(len(second))]
        assert abs(delta_q(first, match_atoms(first, shuffled)) - delta_q(first, second)) < 1e-9
        with pytest.raises(InputError, match="other atoms"):
            match_atoms(first, _copper(5))


class TestFormationEnergy:
    def test_vacancy_of_an_element(self):
        host, vacancy = _copper(None), _copper()
        energies = [EMT().get_potential_energy(atoms) for atoms in (host, vacancy)]
        expected = energies[1] - (len(host) - 1) / len(host) * energies[0]
        assert Host(host, energies[0], {}).formation_energy(vacancy, energies[1]) == pytest.approx(expected, abs=1e-12)
        assert 1.0 < expected < 1.6  # eV; EMT has 1.3 without relaxation

    def test_reservoirs(self):
        substituted = _copper(0)
        substituted.symbols[4] = "Au"
        host = Host(_copper(None), -10.0, {"Au": -3.0, "Cu": -1.0})
        # two copper atoms less, one gold atom more
        assert host.formation_energy(substituted, -12.0) == pytest.approx(-12.0 + 10.0 + 2 * -1.0 - -3.0)
        with pytest.raises(InputError, match="no chemical potential of Au; add Au=ENERGY"):
            Host(_copper(None), -10.0, {}).formation_energy(substituted, -12.0)

    def test_another_crystal_in_the_same_cell(self):
        small = Atoms("Cu64", np.zeros((64, 3)), cell=_copper().cell, pbc=True)
        with pytest.raises(InputError, match="differs by 43 atoms from the host: it is Cu107, and the host Cu64"):
            Host(small, -10.0, {}).require_fits(_copper())
        Host(_copper(None), -10.0, {}).require_fits(_copper()[8:])

    def test_another_cell(self):
        with pytest.raises(InputError, match="cell is not that of the host"):
            Host(bulk("Cu", cubic=True) * 2, -10.0, {}).formation_energy(_copper(), -1.0)


def _relaxed(name: str, atoms: Atoms) -> Candidate:
    result = relax(atoms, EMT(), fmax=0.02)
    return Candidate(name, result.atoms, result.atoms.get_potential_energy())


def test_candidates_are_grouped_and_ranked():
    host = _copper(None)
    starts = {"b": _copper(30, 0.05), "a": _copper(0, 0.05, 1), "i": _interstitial()}
    two_vacancies = _copper(0)
    del two_vacancies[60]
    starts["near"] = _copper(0)
    del starts["near"][0]  # its neighbour
    starts["far"] = two_vacancies
    ranked = rank(
        [_relaxed(name, atoms) for name, atoms in starts.items()], Host(host, EMT().get_potential_energy(host), {})
    )
    by_name = {one.name: one for one in ranked}
    assert by_name["a"].rank == by_name["b"].rank == 1
    assert by_name["a"].same_as == by_name["b"].same_as != by_name["near"].same_as
    assert (by_name["near"].rank, by_name["far"].rank) == (1, 2)  # vacancies attract each other
    assert by_name["far"].energy_above_lowest > 0.02 and by_name["near"].energy_above_lowest == 0
    assert by_name["near"].delta_q_to_lowest == 0 and by_name["far"].delta_q_to_lowest > 5
    vacancy, interstitial = by_name["a"].formation_energy, by_name["i"].formation_energy
    assert 1.0 < vacancy < 1.6 < interstitial
    assert by_name["near"].formation_energy < 2 * vacancy


def test_without_energies_they_are_grouped_only():
    ranked = rank([Candidate("one", _copper(0), None), Candidate("two", _copper(9), None)])
    assert [one.rank for one in ranked] == [None, None] and {one.same_as for one in ranked} == {"one"}


class TestCommand:
    @pytest.fixture
    def run(self, monkeypatch):
        calculator = EMT()
        calculator.domain = None
        monkeypatch.setattr("modeling_adapt.simulation.relaxation.can_batch", lambda *_: False)
        monkeypatch.setattr(ADAPTCalculator, "from_pretrained", lambda *_, **__: calculator)
        return lambda *argv: run_command(lambda: command.main([str(argument) for argument in argv]))

    @pytest.fixture
    def starts(self, tmp_path):
        ase.io.write(tmp_path / "host.extxyz", _copper(None))
        ase.io.write(tmp_path / "one.extxyz", _copper(0, 0.05))
        ase.io.write(tmp_path / "two.extxyz", _copper(20, 0.05, 1))
        return [tmp_path / "one.extxyz", tmp_path / "two.extxyz", "--model", "m", "--output", tmp_path / "out"]

    def test_ranking_and_formats(self, run, starts, tmp_path, capsys):
        assert run(*starts, "--host", tmp_path / "host.extxyz", "--format", "cif") == 0
        lines = list(csv.DictReader((tmp_path / "out" / "ranking.csv").read_text().splitlines()))
        assert [line["rank"] for line in lines] == ["1", "1"] and lines[0]["same_as"] == lines[1]["same_as"]
        assert 1.0 < float(lines[0]["formation_energy_ev"]) < 1.6
        assert "E_f (eV)" in capsys.readouterr().out
        record = json.loads((tmp_path / "out" / "relax.json").read_text())
        assert record["host"] == str(tmp_path / "host.extxyz") and record["chemical_potentials"] == []
        relaxed, cif = (ase.io.read(tmp_path / "out" / f"one.relaxed.{ending}") for ending in ("extxyz", "cif"))
        assert np.allclose(relaxed.get_scaled_positions(), cif.get_scaled_positions(), atol=1e-5)
        summary = list(csv.DictReader((tmp_path / "out" / "summary.csv").read_text().splitlines()))
        assert float(summary[0]["energy_ev"]) == pytest.approx(relaxed.get_potential_energy())

    def test_going_on_adds_a_format_and_does_without_a_lost_file(self, run, starts, tmp_path, capsys):
        assert run(*starts) == 0
        assert run(*starts, "--format", "cif") == 0
        assert len(list((tmp_path / "out").glob("*.cif"))) == 2
        (tmp_path / "out" / "two.relaxed.extxyz").unlink()
        capsys.readouterr()
        assert run(*starts) == 0
        assert "two.relaxed.extxyz is missing, so two is not ranked" in capsys.readouterr().err
        assert (tmp_path / "out" / "ranking.csv").read_text().count("\n") == 2

    def test_what_did_not_converge_has_no_rank(self, run, starts, tmp_path):
        assert run(*starts, "--steps", 1) == 1
        assert (tmp_path / "out" / "ranking.csv").read_text().count("\n") == 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--chemical-potentials", "Cu=-3.5"], "give the perfect crystal with --host"),
            (["--host", "one.extxyz", "--chemical-potentials", "Cu"], "'Cu' is no chemical potential such as"),
            (["--format", "nonsense"], "'nonsense' is no format that ASE writes"),
            (["--host", "small.extxyz"], "one: its cell is not that of the host"),
            (["--host", "frames.extxyz"], "holds 2 structures; the host is one"),
            (["--host", "host.extxyz", "--chemical-potentials", "Cu=-3", "Cu=-4"], "one chemical potential, not two"),
            (["--host", "host.extxyz", "--chemical-potentials", "X=-3"], "'X=-3' is no chemical potential"),
            (["--format", "mustem"], "one: one.mustem cannot be written as mustem"),
        ],
    )
    def test_bad_input_is_one_line_and_writes_nothing(self, run, starts, tmp_path, capsys, options, message):
        ase.io.write(tmp_path / "small.extxyz", bulk("Cu", cubic=True))
        ase.io.write(tmp_path / "frames.extxyz", [_copper(None), _copper(None)])
        options = [tmp_path / option if option.endswith("extxyz") else option for option in options]
        assert run(*starts, *options) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
