"""The generator: labels and trajectories, and the command that writes a data set by seed."""

import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import Calculator, all_changes
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms.tersoff_brenner import Erhart_PRB_71_035211_SiC, TersoffBrenner

from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.generate_defects import main
from modeling_adapt.data.defects import generation
from modeling_adapt.data.defects.distortion import distort
from modeling_adapt.data.defects.kinds import (
    DEFECT_KINDS,
    SILICON_LATTICE_CONSTANT,
    STRUCTURE_KINDS,
    silicon_supercell,
)
from modeling_adapt.data.defects.labelling import (
    LabelledFrame,
    dynamics_trajectory,
    erhart_albe,
    relaxation_trajectory,
    spread,
)
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.structures import STRUCTURE_FEATURES, atoms_from_row


class Springs(Calculator):
    """Every coordinate bound to the nearest quarter of the lattice constant: fast, and without memory."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, stiffness: float = 5.0):
        super().__init__()
        self.stiffness = stiffness

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        step = SILICON_LATTICE_CONSTANT / 4
        displacement = atoms.positions - step * np.rint(atoms.positions / step)
        self.results = {
            "energy": 0.5 * self.stiffness * (displacement**2).sum(),
            "forces": -self.stiffness * displacement,
        }


class NoTwoCarbons(Springs):
    """Raises for some structures."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        if (atoms.symbols == "C").sum() > 1:
            raise RuntimeError("no parameters\nfor two carbons")
        super().calculate(atoms, properties, system_changes)


class Exhausted(Springs):
    """Answers three times."""

    answers = 3

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.answers -= 1
        if self.answers < 0:
            self.results["forces"] = np.full_like(self.results["forces"], np.nan)


def absurd() -> Springs:
    return Springs(stiffness=1e4)


def distorted(kind, seed=0, repeat=2):
    rng = np.random.default_rng(seed)
    return distort(STRUCTURE_KINDS[kind](silicon_supercell(repeat=repeat), rng), rng).atoms


def generate(folder, options, split="train"):
    """All rows that the command writes, as one table."""
    main([str(folder), *options.split(), "--split", split])
    return read_split(folder, split)


def test_lattice_constant_is_the_equilibrium():
    """The pressure of the Erhart-Albe potential changes sign within 0.001 Å of the constant."""
    pressures = []
    for change in (-0.001, 0.001):
        atoms = silicon_supercell(SILICON_LATTICE_CONSTANT + change, repeat=1)
        atoms.calc = erhart_albe()
        pressures.append(-atoms.get_stress()[:3].mean())
    assert pressures[0] > 0 > pressures[1]


@pytest.mark.parametrize("kind", ["vacancy", "tri_interstitial", "carbon_pair_interstitial", "surface"])
def test_potential_is_that_of_matscipy_to_the_bit(kind):
    atoms = distorted(kind)
    results = []
    for calculator in (erhart_albe(), Manybody(**TersoffBrenner(Erhart_PRB_71_035211_SiC))):
        atoms.calc = calculator
        results.append((atoms.get_forces().copy(), atoms.get_potential_energy(), atoms.get_stress().copy()))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_relaxation_lowers_energy_and_spreads_frames():
    start = distorted("vacancy")
    frames, dropped, failure = relaxation_trajectory(start, erhart_albe(), frames=8, max_steps=40)
    assert dropped == 0 and failure is None and 5 <= len(frames) <= 8
    np.testing.assert_array_equal(frames[0].atoms.positions, start.positions.astype(np.float32))
    assert frames[-1].energy < frames[0].energy - 0.5
    largest = [np.abs(frame.forces).max() for frame in frames]
    assert largest[-1] < 0.1 * largest[0]
    changes = [np.abs(b.forces - a.forces).mean() for a, b in zip(frames, frames[1:], strict=False)]
    assert min(changes) > 0.02 * max(changes)
    frame = frames[3]
    atoms = frame.atoms.copy()
    atoms.calc = erhart_albe()
    np.testing.assert_allclose(atoms.get_forces(), frame.forces, atol=1e-10)  # each label belongs to its structure
    assert atoms.get_potential_energy() == pytest.approx(frame.energy)


def test_dynamics_reaches_its_temperature():
    """Half of the thermal energy of a nearly harmonic crystal, 3/2 kT per atom, is potential energy."""
    crystal = silicon_supercell(repeat=2)
    crystal.calc = erhart_albe()
    ground, temperature = crystal.get_potential_energy(), 600.0

    def run(seed):
        rng = np.random.default_rng(seed)
        return dynamics_trajectory(crystal, erhart_albe(), rng, temperature=temperature, frames=40, steps=120)

    frames, dropped, failure = run(0)
    assert dropped == 0 and failure is None and len(frames) > 20
    thermal = np.mean([frame.energy for frame in frames[len(frames) // 3 :]]) - ground
    assert thermal == pytest.approx(1.5 * units.kB * temperature * len(crystal), rel=0.3)
    drift = (frames[-1].atoms.positions - crystal.positions).mean(axis=0)
    assert np.abs(drift).max() < 1e-6  # sites of vacancies stay where they are
    again, other = run(0).frames, run(1).frames
    np.testing.assert_array_equal(again[-1].atoms.positions, frames[-1].atoms.positions)
    assert np.abs(other[-1].atoms.positions - frames[-1].atoms.positions).max() > 0.1


def test_spread_takes_ends_and_big_changes():
    forces = [np.full((1, 3), value) for value in (9.0, 4.0, 1.0, *np.linspace(0.9, 0.0, 40))]
    path = [LabelledFrame(None, force, 0.0) for force in forces]
    chosen = spread(path, 8)
    assert 7 <= len(chosen) <= 8 and chosen[:2] == [0, 1] and chosen[-1] == len(path) - 1
    assert 3 <= sum(index > 12 for index in chosen) <= 5  # the long quiet end has its share, and not more
    assert spread(path[:3], 8) == [0, 1, 2]
    assert spread([path[0]] * 20, 8)[0] == 0  # nothing changes


def test_absurd_frames_are_dropped_and_counted(monkeypatch):
    start = silicon_supercell(repeat=1)
    start.positions += 0.2 * np.sin(np.arange(24)).reshape(8, 3)
    with monkeypatch.context() as low:
        low.setattr("modeling_adapt.data.defects.labelling.ABSURD_FORCE", 0.5)
        frames, dropped, _ = relaxation_trajectory(start, Springs(), max_steps=30)
    assert dropped >= 1 and all(np.linalg.norm(frame.forces, axis=1).max() <= 0.5 for frame in frames)
    total = relaxation_trajectory(start, Springs(), max_steps=30, frames=1000)
    assert total.dropped == 0 and len(total.frames) >= dropped + len(frames)


def test_trajectory_ends_where_forces_are_no_numbers():
    frames, dropped, failure = relaxation_trajectory(distorted("vacancy"), Exhausted(), max_steps=30)
    assert (len(frames), dropped) == (3, 0) and "not finite" in failure


def test_labels_are_the_gradient_of_the_energy_at_the_stored_positions(tmp_path):
    """Central differences over a data set that the command wrote, within 1e-4 eV/Å; every kind occurs."""
    kinds = ",".join(STRUCTURE_KINDS)
    rows = generate(
        tmp_path / "set",
        f"--structures 51 --repeat 2 --frames 3 --steps 8 --md-share 0.3 --md-steps 10 --kinds {kinds}",
    )
    assert set(rows["config_type"]) == set(STRUCTURE_KINDS)
    rng = np.random.default_rng(0)
    step = 1e-5  # small: at the ends of the cutoff function the second derivative jumps
    for row in map(rows.__getitem__, rng.permutation(len(rows))[:20].tolist()):
        atoms, forces = atoms_from_row(row), np.array(row["forces"])
        atoms.calc = erhart_albe()
        assert atoms.get_potential_energy() == pytest.approx(row["energy"], abs=1e-9)
        for atom in (np.abs(forces).max(axis=1).argmax(), rng.integers(len(atoms))):
            axis = rng.integers(3)
            energies = []
            for shift in (step, -2 * step):
                atoms.positions[atom, axis] += shift
                energies.append(atoms.get_potential_energy())
            atoms.positions[atom, axis] += step
            slope = (energies[0] - energies[1]) / (2 * step)
            assert forces[atom, axis] == pytest.approx(-slope, abs=1e-4)


def test_any_number_of_processes_gives_the_same_data(tmp_path):
    options = "--structures 25 --repeat 1 --frames 2 --steps 2 --md-share 0.3 --md-steps 3 --seed 3"
    main([str(tmp_path / "one"), *options.split()])
    main([str(tmp_path / "two"), *options.split(), "--num-proc", "2"])
    for split in ("train", "validation", "test"):
        one, two = (read_split(tmp_path / name, split) for name in ("one", "two"))
        assert len(one) == len(two) > 0
        for name in STRUCTURE_FEATURES:
            assert one.data[name].to_pylist() == two.data[name].to_pylist(), name


def test_rows_are_labelled_and_reproducible(tmp_path):
    options = f"--frames 3 --steps 4 --repeat 2 --md-share 0 --calculator {__name__}:Springs"
    rows = generate(tmp_path / "set", f"--structures 40 --seed 7 {options}")
    more = generate(tmp_path / "more", f"--structures 50 --seed 7 {options}")
    other = generate(tmp_path / "other", f"--structures 3 --seed 8 {options}")
    assert len(rows) == 40 and len(more) == 50 and len(set(rows["source"])) == 40
    assert rows["positions"][:40] == more["positions"][:40]
    assert rows["positions"][0] != other["positions"][0]
    assert rows["config_type"][::3] == [*DEFECT_KINDS, "vacancy"]
    assert rows["trajectory"][2:4] == ["seed-7-00000-vacancy", "seed-7-00001-interstitial_tetrahedral"]
    assert all(len(row["defect_sites"]) == len(row["defect_kinds"]) > 0 for row in rows)
    carbon = rows[list(DEFECT_KINDS).index("carbon_substitutional") * 3]
    place = np.array(carbon["positions"])[np.array(carbon["atomic_numbers"]) == 6]
    np.testing.assert_allclose(carbon["defect_sites"], place, atol=1e-6)
    assert carbon["defect_kinds"] == ["C_Si"]


def test_interrupted_run_goes_on(tmp_path, monkeypatch):
    options = f"--structures 50 --frames 2 --steps 2 --repeat 2 --calculator {__name__}:Springs"
    whole = generate(tmp_path / "whole", options)
    blocks = []
    generate_block = generation.generate_block

    def interrupted(plan, block, notes):
        blocks.append(block[0])
        if len(blocks) == 2:
            raise KeyboardInterrupt
        yield from generate_block(plan, block, notes)

    monkeypatch.setattr(generation, "generate_block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "set", options)
    assert not (tmp_path / "set").exists()
    assert generate(tmp_path / "set", options).to_list() == whole.to_list()
    assert blocks[:3] == [0, 10, 10]  # the first is not made again


def test_structures_that_the_calculator_refuses_are_skipped_and_listed(tmp_path, capsys):
    factory = f"{__name__}:NoTwoCarbons"
    kinds = "vacancy,carbon_pair_substitutional"
    rows = generate(
        tmp_path / "set", f"--structures 9 --frames 3 --steps 3 --md-share 0 --kinds {kinds} --calculator {factory}"
    )
    assert set(rows["config_type"]) == {"vacancy"} and len(rows) == 9
    assert sorted(set(rows["trajectory"])) == [f"seed-0-0000{number}-vacancy" for number in (0, 2, 4)]
    output = capsys.readouterr().out
    assert "trajectories that an error of the calculator ended: 2" in output
    line = "seed-0-00001-carbon_pair_substitutional: RuntimeError: no parameters"
    assert f"  {line}\n" in output and line in (tmp_path / "set" / "README.md").read_text()


def test_command(tmp_path, capsys):
    factory = f"{__name__}:Springs"
    arguments = [str(tmp_path / "set"), "--structures", "91", "--frames", "3", "--steps", "3", "--calculator", factory]
    assert run_command(lambda: main(arguments)) == 0
    output = capsys.readouterr().out
    assert "frames dropped for forces above 30 eV/Å: 0\ndata set written to:" in output
    assert "pair_random 6" in output
    splits = {split: read_split(tmp_path / "set", split) for split in ("train", "validation", "test")}
    assert sum(map(len, splits.values())) == 91
    names = [set(rows["trajectory"]) for rows in splits.values()]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--structures", "0"], "--structures: '0' is not a whole number of at least 1"),
        (["--frames", "0"], "--frames: '0' is not a whole number of at least 1"),
        (["--strain", "-1"], "--strain: '-1' is not a number of at least 0"),
        (["--md-share", "1.5"], "--md-share: '1.5' is not a share between 0 and 1"),
        (["--kinds", "vacancy,dislocation"], "there is no kind 'dislocation'; there are vacancy"),
        (["--lattice-constant", "nan"], "'nan' is not a positive number"),
        (["--lattice-constant", "3"], "vacancy: atoms are too close even without distortion"),
        (["--split", "0.5,0.1"], "three fractions"),  # before the relaxations, not after
        (["--calculator", "nonsense"], "module:factory"),
        (["--calculator", "no.such.module:make"], "ModuleNotFoundError"),
        (["--calculator", "ase.calculators.emt:Nothing"], "AttributeError"),
        (["--calculator", "ase:Atoms"], "no ASE calculator"),
        (["--calculator", f"{__name__}:absurd", "--steps", "0"], "absurd forces"),
        (["--calculator", "ase.calculators.emt:EMT"], "calculator fails, first on seed-0-00000-vacancy: NotImpl"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, capsys, options, message):
    structures = [] if "--structures" in options else ["--structures", "3"]
    assert run_command(lambda: main([str(tmp_path / "set"), *structures, *options])) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_rattled_and_strained_starts_of_small_cells(tmp_path):
    rows = generate(
        tmp_path / "data",
        "--structures 4 --repeat 2 --kinds vacancy,bulk --rattle 0.2 --strain 0.02 --steps 0 --md-share 0",
    )
    assert [len(numbers) for numbers in rows["atomic_numbers"]] == [63, 64, 63, 64]
    assert len(set(rows["trajectory"])) == 4
    assert rows["defect_sites"][1] == [] and len(rows["defect_sites"][0]) == 1
    edges = np.linalg.norm(rows["cell"], axis=2) / (2 * SILICON_LATTICE_CONSTANT)
    assert 0.001 < np.abs(edges - 1).max() <= 0.021
