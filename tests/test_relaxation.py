"""Relaxation by forces alone, with analytic potentials in the place of the model; and the command around it."""

import csv
import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.optimize import FIRE, LBFGS

import modeling_adapt.cli.relax as command
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.crystal.minimum_image import delta_q, largest_displacement
from modeling_adapt.crystal.trained_region import fit_domain
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.structures import structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.files import alone_in
from modeling_adapt.simulation import inputs
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.inputs import read_inputs
from modeling_adapt.simulation.relaxation import relax, require_predictable


class ForcesOnly(Calculator):
    """Forces of EMT without their energy, as a force model gives them; `broken_after` calls they are not finite."""

    implemented_properties = ["forces"]
    domain = None

    def __init__(self, broken_after: int | None = None):
        super().__init__()
        self.calls, self.broken_after = 0, broken_after

    def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        self.results = {"forces": EMT().get_property("forces", self.atoms)}
        if self.broken_after is not None and self.calls > self.broken_after:
            self.results["forces"][2] = np.nan


def _vacancy() -> Atoms:
    atoms = bulk("Cu", cubic=True) * 2
    del atoms[0]
    atoms.rattle(0.05, seed=1)
    return atoms


def _domain(**changes):
    """Everything about the relaxed vacancy is inside, and moving up to 1 Å, unless `changes` say otherwise."""
    atoms = _vacancy()
    row = structure_row(atoms, np.full((len(atoms), 3), 5.0))
    values = fit_domain([row]).to_dict() | {"closest_distances": {"Cu-Cu": 2.3}, "largest_displacement": 1.0} | changes
    return type(fit_domain([row])).from_dict(values)


def test_relaxes_to_what_fire_finds_with_energies():
    expected = _vacancy()
    expected.calc = EMT()
    FIRE(expected, logfile=None).run(fmax=0.01)

    start = _vacancy()
    result = relax(start, ForcesOnly(), fmax=0.01, domain=_domain())
    assert result.status == "converged" and result.fmax < 0.01 and result.findings == ()
    np.testing.assert_allclose(result.atoms.positions, expected.positions, atol=1e-8)
    np.testing.assert_array_equal(start.positions, _vacancy().positions)
    assert start.calc is None
    assert result.energy_change is None
    with pytest.raises(PropertyNotImplementedError):
        result.atoms.get_potential_energy()
    displacement = result.atoms.positions - start.positions
    assert result.largest_displacement == pytest.approx(np.linalg.norm(displacement, axis=1).max())
    assert result.delta_q == pytest.approx(np.sqrt((start.get_masses()[:, None] * displacement**2).sum()))


class Spring(Calculator):
    """An atom on a surface of energy: E(x, y, z) = x⁴ - 2 x² + stiffness (y² + z²) / 2, a saddle at the origin."""

    implemented_properties = ("energy", "forces")

    def __init__(self, stiffness: float, conservative: bool = True):
        super().__init__()
        self.stiffness, self.conservative, self.energies = stiffness, conservative, []

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        x, *others = self.atoms.positions[0]
        self.energies.append(x**4 - 2 * x**2 + self.stiffness * np.square(others).sum() / 2)
        forces = [4 * x - 4 * x**3, *(-self.stiffness * other for other in others)]
        self.results = {"energy": self.energies[-1], "forces": np.array([forces])}


@pytest.mark.parametrize("stiffness", [2.0, 20.0, 100.0, 600.0])  # eV/Å²; silicon has 27, diamond 80
def test_it_goes_down_from_a_saddle(stiffness):
    """ASE's own L-BFGS goes to it."""
    start = Atoms("H", [[0.02, 0.3, -0.2]])
    ours = Spring(stiffness)
    result = relax(start, ours, fmax=0.001)
    assert result.status == "converged" and result.steps < 60
    np.testing.assert_allclose(np.abs(result.atoms.positions), [[1, 0, 0]], atol=1e-3)
    assert max(ours.energies) <= ours.energies[0] + 1e-9

    theirs = start.copy()  # should this find the minimum one day, `Descent` is no longer needed
    theirs.calc = Spring(stiffness)
    LBFGS(theirs, logfile=None).run(fmax=0.001, steps=100)
    assert abs(theirs.positions[0, 0]) < 1e-3


def test_half_the_steps_of_fire_where_forces_have_an_energy():
    by_gradient, by_fire = (relax(_vacancy(), one, fmax=0.002) for one in (EMT(), ForcesOnly()))
    assert by_gradient.status == by_fire.status == "converged"
    assert by_gradient.steps < by_fire.steps / 2
    assert largest_displacement(by_gradient.atoms, by_fire.atoms) < 0.005


def test_forces_beside_an_energy_are_not_taken_for_its_gradient():
    """A force model with an energy model has both."""
    beside = Spring(20.0, conservative=False)
    expected = Atoms("H", [[0.02, 0.3, -0.2]], calculator=Spring(20.0))
    steps = relax(expected.copy(), beside, fmax=0.001).steps
    fire = FIRE(expected, logfile=None)
    fire.run(fmax=0.001)
    assert steps == fire.nsteps


def test_where_nothing_moves_nothing_breaks():
    """A step too small for the digits of the positions tells nothing."""
    atoms = Atoms("H", [[1.0, 0.0, 0.0]], calculator=Spring(20.0))
    result = relax(atoms, Spring(20.0), fmax=0.0, steps=5)
    assert result.steps == 5 and np.isfinite(result.atoms.positions).all()


def test_energy_change_where_there_are_energies():
    start = _vacancy()
    result = relax(start, EMT(), fmax=0.02)
    start.calc = EMT()
    assert result.energy_change == pytest.approx(result.atoms.get_potential_energy() - start.get_potential_energy())
    assert result.energy_change < 0


def test_too_few_steps_are_not_converged():
    result = relax(_vacancy(), ForcesOnly(), fmax=0.001, steps=3)
    assert (result.status, result.steps) == ("not converged", 3)
    assert relax(_vacancy(), ForcesOnly(), steps=0).steps == 0


@pytest.mark.parametrize("make", [ForcesOnly, EMT])
def test_fixed_atoms_stay_and_do_not_count(make):
    atoms = _vacancy()
    atoms.set_constraint(FixAtoms(range(10)))
    result = relax(atoms, make(), fmax=0.02)
    assert result.status == "converged"
    np.testing.assert_array_equal(result.atoms.positions[:10], atoms.positions[:10])
    assert np.linalg.norm(result.atoms.get_forces(apply_constraint=False), axis=1).max() > 0.02


def test_too_close_atoms_stop_a_relaxation_at_once():
    result = relax(_vacancy(), ForcesOnly(), domain=_domain(closest_distances={"Cu-Cu": 3.0}))
    assert (result.status, result.steps) == ("left the trained region", 0)
    assert result.findings[0].startswith("step 0: atoms ")


def test_moving_too_far_is_never_converged_though_the_forces_are_small():
    result = relax(_vacancy(), ForcesOnly(), fmax=0.01, domain=_domain(largest_displacement=0.02))
    assert result.fmax < 0.01
    assert result.status == "left the trained region"
    (finding,) = result.findings
    assert "an atom moved" in finding


def test_forces_that_are_not_finite_stop_a_relaxation():
    result = relax(_vacancy(), ForcesOnly(broken_after=4), fmax=0.001)
    assert (result.status, result.steps) == ("left the trained region", 4)
    assert result.findings == ("step 4: the force on Cu (atom 2) is not finite",)


def test_trajectory_grows_frame_by_frame_and_survives_an_interruption(tmp_path):
    path = tmp_path / "vacancy.traj.extxyz"
    seen = []

    def interrupt(step: int, fmax: float) -> None:
        seen.append(len(ase.io.read(path, ":")))
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relax(_vacancy(), ForcesOnly(), fmax=0.001, trajectory=path, on_step=interrupt)
    assert seen == [1, 2, 3, 4]
    frames = ase.io.read(path, ":")
    np.testing.assert_allclose(frames[0].positions, _vacancy().positions, atol=1e-7)
    assert np.abs(frames[3].get_forces()).max() > 0


def test_a_full_disk_names_the_file(tmp_path, forks):
    """No file may be longer than a few frames, as where a disk is full."""
    script = f"""
import resource, sys; sys.path.insert(0, "tests")
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
from modeling_adapt.cli.command_line import run_command
from test_relaxation import EMT, _vacancy, relax
sys.exit(run_command(lambda: relax(_vacancy(), EMT(), trajectory={str(tmp_path / "x.traj.extxyz")!r}) and None))
"""
    finished = forks.start(script)
    error = finished.communicate(timeout=300)[1]
    assert finished.returncode == 2 and error.count("\n") == 1, error
    assert "x.traj.extxyz cannot be written: File too large" in error


def test_labels_of_the_input_do_not_end_up_in_the_trajectory(tmp_path):
    atoms = _vacancy()
    atoms.arrays["REF_forces"] = np.ones((len(atoms), 3))
    atoms.info["REF_energy"] = 3.0
    relax(atoms, ForcesOnly(), steps=1, trajectory=tmp_path / "t.extxyz")
    frame = ase.io.read(tmp_path / "t.extxyz")
    assert "REF_forces" not in frame.arrays and "REF_energy" not in frame.info


def test_displacements_use_the_minimum_image():
    start = Atoms("SiC", positions=[[0.1, 1, 1], [3, 3, 3]], cell=[5, 5, 5], pbc=True)
    end = start.copy()
    end.positions[0] = [4.9, 1, 1]
    assert largest_displacement(start, end) == pytest.approx(0.2)
    assert delta_q(start, end) == pytest.approx(0.2 * np.sqrt(28.085))
    with pytest.raises(InputError, match="same atoms"):
        delta_q(start, end[::-1])


# The command -----------------------------------------------------------------------------------------------------


def test_names_inside_files_may_not_meet_those_of_files(tmp_path):
    ase.io.write(tmp_path / "a.extxyz", [_vacancy(), _vacancy()])
    ase.io.write(tmp_path / "a-0.extxyz", bulk("Cu", cubic=True))
    with pytest.raises(InputError, match=r"2 inputs would write to the same files a-0\.\*"):
        read_inputs([tmp_path / "a.extxyz", tmp_path / "a-0.extxyz"], index=":")


@pytest.fixture
def as_model(monkeypatch):
    """Puts a calculator in the place of every checkpoint; torch-sim would ask for the model in it."""
    monkeypatch.setattr("modeling_adapt.simulation.relaxation.can_batch", lambda *_: False)

    def replace(calculator) -> None:
        monkeypatch.setattr(ADAPTCalculator, "from_pretrained", lambda *_, **__: calculator)

    replace(ForcesOnly())
    return replace


def _run(*argv) -> int:
    return run_command(lambda: command.main([str(argument) for argument in argv]))


def test_command_writes_structures_and_a_summary(tmp_path, as_model, capsys):
    ase.io.write(tmp_path / "vacancy.extxyz", _vacancy())
    ase.io.write(tmp_path / "bulk.cif", bulk("Cu", cubic=True))
    output = tmp_path / "out"
    status = _run(tmp_path / "vacancy.extxyz", tmp_path / "bulk.cif", "--model", "m", "--output", output)
    assert status == 0
    relaxed = ase.io.read(output / "vacancy.relaxed.extxyz")
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() < 0.05
    assert relaxed.info["status"] == "converged"
    assert len(ase.io.read(output / "vacancy.traj.extxyz", ":")) > 1
    rows = list(csv.DictReader((output / "summary.csv").read_text().splitlines()))
    assert [(row["name"], row["atoms"], row["status"]) for row in rows] == [
        ("vacancy", "31", "converged"),
        ("bulk", "4", "converged"),
    ]
    assert int(rows[0]["steps"]) == len(ase.io.read(output / "vacancy.traj.extxyz", ":")) - 1
    assert float(rows[0]["delta_q_amu_half_ang"]) > 0 and rows[0]["energy_change_ev"] == ""
    printed = capsys.readouterr()
    assert "vacancy" in printed.out and "converged" in printed.out
    assert "does not say what it was trained on" in printed.err


@pytest.mark.parametrize("name", ["POSCAR", "CONTCAR", "my_POSCAR.vasp", "CENTCAR"])
def test_names_of_which_ase_guesses_a_format(tmp_path, as_model, name):
    """Results of `relax.py POSCAR` were read back as a POSCAR; they have names now that anybody's ASE opens."""
    ase.io.write(tmp_path / name, _vacancy(), format="vasp")
    options = ("--model", "m", "--report", "--format", "cif", "--output", tmp_path / "out")
    assert _run(tmp_path / name, *options) == 0
    (relaxed,) = (tmp_path / "out").glob("*.relaxed.extxyz")
    assert len(ase.io.read(relaxed)) == 31
    assert len(ase.io.read(str(relaxed).replace("relaxed", "traj"), ":")) > 1


def test_names_in_which_ase_sees_another_format():
    for name in ("POSCAR", "a-CONTCAR-b", "OUTCAR", "XDATCAR", "CENTCAR", "CONFIG"):
        assert ase.io.formats.filetype(f"{inputs._openable(name)}.relaxed.extxyz", read=False) == "extxyz"
    assert inputs._openable("vacancy_O+2") == "vacancy_O+2"


def test_command_exits_with_1_unless_all_converge(tmp_path, as_model, capsys):
    ase.io.write(tmp_path / "vacancy.extxyz", _vacancy())
    arguments = (tmp_path / "vacancy.extxyz", "--model", "m", "--output")
    assert _run(*arguments, tmp_path / "a", "--fmax", "0.001", "--steps", "2") == 1

    outside = ForcesOnly()
    outside.domain = _domain(largest_displacement=0.01)
    as_model(outside)
    assert _run(*arguments, tmp_path / "b") == 1
    out = capsys.readouterr().out
    assert "left the trained region" in out and "vacancy: step " in out


def test_command_that_cannot_write_says_one_line(tmp_path, as_model, monkeypatch, capsys):
    """Above it stood a table of nothing."""

    def full(*arguments):
        raise OSError(28, "No space left on device", "summary.csv")

    monkeypatch.setattr("modeling_adapt.simulation.results.write_result", full)
    ase.io.write(tmp_path / "vacancy.extxyz", _vacancy())
    assert _run(tmp_path / "vacancy.extxyz", "--model", "m", "--output", tmp_path / "out") == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "No space left on device" in printed.err.splitlines()[-1]


def test_command_keeps_what_is_done_when_interrupted(tmp_path, as_model, monkeypatch, capsys):
    for name in ("first", "second"):
        ase.io.write(tmp_path / f"{name}.extxyz", _vacancy())
    done = []

    def interrupted_relax(*arguments, **options):
        if done:
            raise KeyboardInterrupt
        done.append(relax(*arguments, **options))
        return done[0]

    monkeypatch.setattr("modeling_adapt.simulation.relaxation.relax", interrupted_relax)
    output = tmp_path / "out"
    assert _run(tmp_path / "first.extxyz", tmp_path / "second.extxyz", "--model", "m", "--output", output) == 130
    assert [row["name"] for row in csv.DictReader((output / "summary.csv").read_text().splitlines())] == ["first"]
    assert (output / "first.relaxed.extxyz").is_file()
    assert "first" in capsys.readouterr().out


def test_command_reads_frames_and_rows(tmp_path, as_model):
    frames = [_vacancy() for _ in range(3)]
    ase.io.write(tmp_path / "frames.extxyz", frames)
    common = ("--model", "m", "--steps", "1", "--output")
    _run(tmp_path / "frames.extxyz", "--index", "::2", *common, tmp_path / "a")
    assert {path.name for path in (tmp_path / "a").glob("*.relaxed.extxyz")} == {
        "frames-0.relaxed.extxyz",
        "frames-1.relaxed.extxyz",
    }
    row = structure_row(frames[0], np.zeros((31, 3)))
    write_dataset({"train": [row, row]}, tmp_path / "copper")
    _run(tmp_path / "copper", "--split", "train", "--index", "0", *common, tmp_path / "b")
    assert len(ase.io.read(tmp_path / "b" / "copper.relaxed.extxyz")) == 31


def test_command_keeps_inputs_of_the_same_name_apart(tmp_path, as_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        ase.io.write(tmp_path / folder / "POSCAR", _vacancy(), format="vasp")
    _run("a/POSCAR", "b/POSCAR", "--model", "m", "--steps", "1", "--output", "out")
    assert (tmp_path / "out" / "a.traj.extxyz").is_file()
    assert (tmp_path / "out" / "b.traj.extxyz").is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "is empty"),
        ("no structure at all\n", "ASE cannot read frame 0"),
        ("1\nProperties=species:S:1:pos:R:3\nSi nan 0 0\n", "the position of atom 0 is not finite"),
        ("2\nProperties=species:S:1:pos:R:3\nSi 1 1 1\nSi 1 1 1\n", "atoms 0 and 1 are at the same place"),
        ('1\nLattice="5 0 0 5 0 0 0 0 5" Properties=species:S:1:pos:R:3\nSi 0 0 0\n', "the cell is 0 Å thick"),
        ('1\nLattice="nan 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3\nSi 0 0 0\n', "the cell is not finite"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, as_model, capsys, content, message):
    path = tmp_path / "input.xyz"
    if content is not None:
        path.write_text(content)
    assert _run(path, "--model", "m", "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_bad_input(tmp_path, as_model, capsys, monkeypatch):
    good = tmp_path / "vacancy.extxyz"
    ase.io.write(good, _vacancy())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "folder").mkdir()
    write_dataset({"train": [structure_row(_vacancy(), np.zeros((31, 3)))]}, tmp_path / "copper")
    out = ("--output", tmp_path / "out")

    def fails_with(*argv) -> str:
        assert _run(*argv) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and not (tmp_path / "out").exists()
        return error

    assert "not empty" in fails_with(good, "--model", "m", "--output", tmp_path / "full")
    assert "no structure at index 7" in fails_with(good, "--index", "7", "--model", "m", *out)
    assert "no structure at index 5:" in fails_with(good, "--index", "5:", "--model", "m", *out)
    dataset = (tmp_path / "copper", "--split", "train", "--model", "m")
    assert "none at index 7" in fails_with(*dataset, "--index", "7", *out)
    for option, value in (
        ("--index", "::0"),
        ("--index", "first"),
        ("--fmax", "-1"),
        ("--fmax", "nan"),
        ("--steps", "x"),
    ):
        assert value in fails_with(*dataset, option, value, *out)
    assert "cannot be written" in fails_with(good, "--model", "m", "--output", good / "below")
    as_model(ForcesOnly(broken_after=0))
    assert "vacancy: the model predicts values that are not finite" in fails_with(good, "--model", "m", *out)
    assert "no parquet files" in fails_with(tmp_path / "folder", "--model", "m", *out)
    assert "same files" in fails_with(good, good, "--model", "m", *out)
    assert "no device" in fails_with(good, "--device", "nonsense", "--model", "m", *out)
    monkeypatch.undo()
    assert "no checkpoint" in fails_with(good, "--model", tmp_path / "folder", *out)
    (tmp_path / "folder" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "no ADAPT checkpoint" in fails_with(good, "--model", tmp_path / "folder", *out)


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    assert "python relax.py" in capsys.readouterr().out


def test_spread_of_images_is_in_the_results(make_force_model, tmp_path):
    make_force_model(architecture="fourier").save_pretrained(tmp_path / "model")
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    ase.io.write(tmp_path / "silicon.extxyz", atoms)
    options = ("--num-images", "4", "--steps", "2", "--report")
    assert (
        _run(tmp_path / "silicon.extxyz", "--model", tmp_path / "model", "--output", tmp_path / "out", *options) == 1
    )
    (line,) = csv.DictReader((tmp_path / "out" / "summary.csv").read_text().splitlines())
    spread = ase.io.read(tmp_path / "out" / "silicon.relaxed.extxyz").arrays["forces_std"]
    assert spread.max() == pytest.approx(float(line["forces_std_ev_per_ang"]), abs=1e-7) and spread.max() > 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not converged" in page and "spread" in page


class TestGoingOn:
    """An interrupted command goes on where it was; nothing is lost, nothing done twice."""

    @pytest.fixture
    def command_line(self, tmp_path) -> list:
        (tmp_path / "in").mkdir()
        for number in range(4):
            atoms = _vacancy()
            atoms.rattle(0.01, seed=number)
            ase.io.write(tmp_path / "in" / f"s{number}.extxyz", atoms)
        return [tmp_path / "in", "--model", "m", "--output", tmp_path / "out"]

    def test_the_same_command_goes_on(self, command_line, tmp_path, as_model, monkeypatch, capsys):
        relaxed = []

        def counted(atoms, *arguments, **options):
            if len(relaxed) == 2:
                relaxed.append(None)
                raise KeyboardInterrupt
            relaxed.append(atoms)
            return relax(atoms, *arguments, **options)

        monkeypatch.setattr("modeling_adapt.simulation.relaxation.relax", counted)
        assert _run(*command_line) == 130
        with open(tmp_path / "out" / "summary.csv", "a") as file:
            file.write("s2,31,conver")  # what a kill in the middle of a line leaves
        assert _run(*command_line) == 0
        assert "2 of 4 structures were relaxed before" in capsys.readouterr().out
        assert len(relaxed) == 5
        rows = list(csv.DictReader((tmp_path / "out" / "summary.csv").read_text().splitlines()))
        assert [row["name"] for row in rows] == ["s0", "s1", "s2", "s3"]
        assert {row["status"] for row in rows} == {"converged"}
        assert _run(*command_line) == 0  # and once more, with nothing left to do
        assert len(relaxed) == 5

    def test_those_of_earlier_versions_go_on(self, command_line, tmp_path, as_model, capsys):
        """Whose records do not say what was not there yet, nor their summaries."""
        assert _run(*command_line) == 0
        record, summary = tmp_path / "out" / "relax.json", tmp_path / "out" / "summary.csv"
        told = json.loads(record.read_text())
        without = ("finish", "cell", "energy_subfolder", "energy_revision")
        record.write_text(json.dumps({name: value for name, value in told.items() if name not in without}))
        rows = list(csv.DictReader(summary.read_text().splitlines()))
        columns = [name for name in rows[0] if name not in ("atom_doubt", "energy_uncertainty_ev")]
        lines = [columns, *([row[name] for name in columns] for row in rows[:2])]
        summary.write_text("".join(",".join(line) + "\n" for line in lines))
        capsys.readouterr()
        assert _run(*command_line) == 0
        assert "2 of 4 structures were relaxed before" in capsys.readouterr().out
        assert len(list(csv.DictReader(summary.read_text().splitlines()))) == 4
        assert _run(*command_line, "--finish", "0.01") == 2
        assert "(finish 0.05, not 0.01); give --finish 0.05, or name a new folder" in capsys.readouterr().err

    @pytest.mark.parametrize("option", [["--fmax", "0.01"], ["--steps", "3"], ["--num-images", "2"]])
    def test_another_command_does_not(self, command_line, tmp_path, as_model, capsys, option):
        assert _run(*command_line) == 0
        before = (tmp_path / "out" / "summary.csv").read_bytes()
        assert _run(*command_line, *option) == 2
        assert "holds results of another command" in capsys.readouterr().err
        assert (tmp_path / "out" / "summary.csv").read_bytes() == before

    def test_other_constraints_do_not(self, command_line, tmp_path, as_model, capsys):
        assert _run(*command_line) == 0
        capsys.readouterr()
        atoms = ase.io.read(tmp_path / "in" / "s0.extxyz")
        atoms.set_constraint(FixAtoms([0]))
        ase.io.write(tmp_path / "in" / "s0.extxyz", atoms)
        assert _run(*command_line) == 2 and "other structures" in capsys.readouterr().err

    def test_other_structures_do_not(self, command_line, tmp_path, as_model, capsys):
        assert _run(*command_line) == 0
        atoms = _vacancy()
        atoms.rattle(0.02, seed=9)
        ase.io.write(tmp_path / "in" / "s1.extxyz", atoms)
        assert _run(*command_line) == 2
        assert "another command (other structures)" in capsys.readouterr().err

    def test_globs(self, command_line, tmp_path, as_model, capsys):
        assert _run(tmp_path / "in" / "s[01].extxyz", "--model", "m", "--output", tmp_path / "out") == 0
        assert len(list((tmp_path / "out").glob("*.relaxed.extxyz"))) == 2
        assert _run(tmp_path / "in" / "*.cif", "--model", "m", "--output", tmp_path / "none") == 2
        assert "matches no file" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_a_second_command_in_the_same_folder_is_refused(tmp_path, as_model, capsys):
    ase.io.write(tmp_path / "vacancy.extxyz", _vacancy())
    arguments = (tmp_path / "vacancy.extxyz", "--model", "m", "--output", tmp_path / "out")
    with alone_in(tmp_path / "out"):
        assert _run(*arguments) == 2
    error = capsys.readouterr().err
    assert "another command writes to" in error and error.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())
    assert _run(*arguments) == 0


def test_a_charge_is_not_relaxed_as_if_it_were_not_there(tmp_path, as_model, capsys):
    charged = _vacancy()
    charged.info["charge"] = -1
    ase.io.write(tmp_path / "charged.extxyz", charged)
    assert _run(tmp_path / "charged.extxyz", "--model", "m", "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "a charge of -1" in error and "charged.extxyz" in error and error.count("\n") == 1


def test_what_is_asked_first_is_of_this_structure(make_energy_model):
    """Results of another structure do not stay, and a fixed cell needs no stress."""
    calculator = ADAPTCalculator(
        make_energy_model(architecture="pairwise", num_vector_channels=8), outside_domain="ignore"
    )
    first, second = bulk("Si", cubic=True), bulk("Si")
    require_predictable(first, calculator)
    require_predictable(second, calculator)
    assert len(calculator.results["forces"]) == len(calculator.results["energies"]) == 2
    assert "stress" not in calculator.results


class TestFinish:
    def test_it_goes_on_below_fmax(self):
        result = relax(_vacancy(), ForcesOnly(), fmax=0.2, finish=0.01)
        assert result.status == "converged" and result.fmax < 0.01
        coarse = relax(_vacancy(), ForcesOnly(), fmax=0.2)
        assert coarse.status == "converged" and 0.01 < coarse.fmax < 0.2 and coarse.steps < result.steps

    def test_as_many_steps_again_and_the_end_counts(self):
        first = relax(_vacancy(), ForcesOnly(), fmax=0.2).steps
        result = relax(_vacancy(), ForcesOnly(), fmax=0.2, steps=first + 1, finish=1e-9)
        assert result.steps == first + first + 1
        assert result.status == ("converged" if result.fmax < 0.2 else "not converged")

    def test_a_plateau_is_left(self):
        """On top of a hill forces are small too: what stands there has not converged, though it looks so at first."""

        class Hill(Calculator):
            implemented_properties = ["energy", "forces"]

            def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
                super().calculate(atoms, properties, system_changes)
                x = self.atoms.positions[:, 0]
                forces = np.zeros((len(x), 3))
                forces[:, 0] = 2 * np.sin(x)
                self.results = {"energy": float(2 * np.cos(x).sum()), "forces": forces}

        start = Atoms("H", positions=[[0.02, 0, 0]])
        assert relax(start, Hill()).steps == 0
        result = relax(start, Hill(), finish=0.005)
        assert result.status == "converged" and result.energy_change == pytest.approx(-4, abs=1e-3)

    def test_of_the_command(self, tmp_path, as_model, capsys):
        ase.io.write(tmp_path / "vacancy.extxyz", _vacancy())
        with_energy, rough = EMT(), EMT()
        with_energy.domain = rough.domain = None
        rough.low_precision = True
        arguments = (tmp_path / "vacancy.extxyz", "--model", "m", "--output")
        cases = ((ForcesOnly(), (), 0.05), (with_energy, (), 0.002), (with_energy, ("--finish", "0.02"), 0.02))
        for number, (calculator, options, below) in enumerate((*cases, (rough, (), 0.01))):
            as_model(calculator)
            output = tmp_path / str(number)
            assert _run(*arguments, output, *options) == 0
            frames = ase.io.read(output / "vacancy.traj.extxyz", ":")
            largest = [np.linalg.norm(frame.get_forces(), axis=1).max() for frame in frames]
            assert largest[-1] < below <= min(largest[:-1])  # it ends there, and not before
        assert _run(*arguments, tmp_path / "none", "--finish", "0.1") == 2
        assert "--finish 0.1 is above --fmax 0.05" in capsys.readouterr().err
        assert not (tmp_path / "none").exists()


class TestCell:
    """EMT has a stress: copper in a cell that is too large gets that of its potential."""

    def test_a_host(self, tmp_path, as_model, capsys):
        calculator = EMT()
        calculator.domain = None
        as_model(calculator)
        ase.io.write(tmp_path / "host.extxyz", bulk("Cu", a=3.62))
        assert _run(tmp_path / "host.extxyz", "--cell", "--model", "m", "--output", tmp_path / "out") == 0
        relaxed = ase.io.read(tmp_path / "out" / "host.relaxed.extxyz")
        assert relaxed.get_volume() == pytest.approx(3.59**3 / 4, rel=0.003)  # EMT's lattice constant
        assert "cell edges from 2.560 2.560 2.560 to 2.53" in capsys.readouterr().out
        few = ("--cell", "--steps", "1", "--model", "m", "--output", tmp_path / "few")
        assert _run(tmp_path / "host.extxyz", *few) == 1
        assert "host: the cell has not converged after 1 steps" in capsys.readouterr().out

    def test_what_has_none(self, tmp_path, as_model, capsys):
        ase.io.write(tmp_path / "host.extxyz", bulk("Cu", cubic=True))
        command_line = (tmp_path / "host.extxyz", "--cell", "--model", "m", "--output", tmp_path / "out")
        assert _run(*command_line) == 2
        assert "host: the model has no stress" in capsys.readouterr().err
        calculator = EMT()
        calculator.domain = None
        as_model(calculator)
        ase.io.write(tmp_path / "host.extxyz", Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]]))
        assert _run(*command_line) == 2
        assert "periodic in all three directions" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
