"""import_structures.py: whatever ASE reads, labels untouched, bad files refused."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import iread, write

from modeling_adapt import ADAPTEnergyConfig
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.import_structures import main
from modeling_adapt.data.build import building
from modeling_adapt.data.build.label_checks import doubtful_labels
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.reading import read_isolated, read_split
from modeling_adapt.data.options import ReadingOptions
from modeling_adapt.data.read.structure_files import distinct_names, find_files, structure_rows
from modeling_adapt.data.structures import structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.training.options import RunArguments
from modeling_adapt.training.preparation import prepare_config, unseen_elements


def labelled(seed: int, shift: float = 0.0) -> tuple[Atoms, np.ndarray]:
    """A rattled silicon cell with a calculator that holds forces and an energy."""
    atoms = bulk("Si", "diamond", a=5.43, cubic=True)
    rng = np.random.default_rng(seed)
    atoms.positions += rng.normal(scale=0.05, size=(8, 3)) + [shift, 0.0, 0.0]
    forces = rng.normal(size=(8, 3))
    atoms.calc = SinglePointCalculator(atoms, forces=forces, energy=-37.0 - seed)
    return atoms, forces


def run(capsys, *arguments) -> tuple[int, str]:
    """Exit status and standard error of the command."""
    status = run_command(lambda: main(list(map(str, arguments))))
    return status, capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["extxyz", "traj", "db", "json"])
def test_formats_and_constraints(tmp_path, suffix, capsys):
    """Frozen atoms keep their labels in every format: a constraint never zeroes a force."""
    atoms, forces = labelled(0)
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    write(tmp_path / f"frames.{suffix}", atoms)
    assert run(capsys, tmp_path / f"frames.{suffix}", tmp_path / "set")[0] == 0
    (row,) = read_split(tmp_path / "set", "train")
    np.testing.assert_allclose(row["forces"], forces, atol=1e-6)
    np.testing.assert_allclose(row["positions"], atoms.positions, atol=1e-6)
    assert row["energy"] == pytest.approx(-37.0)
    assert row["source"] == row["trajectory"] == f"frames.{suffix}#0"


def test_reference_keys_come_first_and_can_be_given(tmp_path, capsys):
    atoms, predicted = labelled(0)
    atoms.arrays["REF_forces"] = predicted + 1.0
    atoms.arrays["mine"] = predicted + 2.0
    atoms.info.update(REF_energy=-1.0, my_energy=-2.0, config_type="vacancy", defect_sites=np.ones((2, 3)))
    write(tmp_path / "a.extxyz", atoms)
    run(capsys, tmp_path / "a.extxyz", tmp_path / "found")
    run(capsys, tmp_path / "a.extxyz", tmp_path / "given", "--forces-key", "mine", "--energy-key", "my_energy")
    (found,), (given,) = (read_split(tmp_path / name, "train") for name in ("found", "given"))
    np.testing.assert_allclose(found["forces"], predicted + 1.0, atol=1e-6)
    np.testing.assert_allclose(given["forces"], predicted + 2.0, atol=1e-6)
    assert (found["energy"], given["energy"]) == (-1.0, -2.0)
    assert found["config_type"] == "vacancy" and found["defect_sites"] == [[1.0] * 3] * 2


def test_splits_by_trajectory_group_and_name(tmp_path, capsys):
    frames = [labelled(seed, shift=2.0 * (seed // 2))[0] for seed in range(20)]  # pairs 2 Å apart
    for index, atoms in enumerate(frames):
        atoms.info["run"] = f"run{index % 5}"
    write(tmp_path / "a.extxyz", frames)
    run(capsys, tmp_path / "a.extxyz", tmp_path / "found")
    sets = [read_split(tmp_path / "found", split)["trajectory"][:] for split in ("train", "validation", "test")]
    assert [len(names) for names in sets] == [16, 2, 2] and len(set(sum(sets, []))) == 10
    run(capsys, tmp_path / "a.extxyz", tmp_path / "grouped", "--group-key", "run", "--split", "0.6,0.2,0.2")
    assert len(set(read_split(tmp_path / "grouped", "test")["trajectory"])) == 1
    (tmp_path / "b.extxyz").write_bytes((tmp_path / "a.extxyz").read_bytes())
    run(capsys, f"train={tmp_path / 'a.extxyz'}", f"held_out={tmp_path / 'b.extxyz'}", tmp_path / "named")
    assert len(read_split(tmp_path / "named", "held_out")) == 20
    run(capsys, tmp_path / "a.extxyz", tmp_path / "whole", "--split", "test")
    assert len(read_split(tmp_path / "whole", "test")) == 20


def test_names_of_files(tmp_path):
    assert distinct_names([tmp_path / "a" / "OUTCAR"]) == ["OUTCAR"]
    assert distinct_names([tmp_path / "a" / "OUTCAR", tmp_path / "b" / "OUTCAR"]) == ["a/OUTCAR", "b/OUTCAR"]


def test_frames_are_read_one_by_one(tmp_path):
    """The first row is there before the second frame is read: a file never lies in memory as a whole."""
    write(tmp_path / "a.extxyz", [labelled(0)[0], labelled(0)[0]])
    whole = (tmp_path / "a.extxyz").read_text()
    (tmp_path / "a.extxyz").write_text(whole[:-40])
    (part,) = find_files([("", tmp_path / "a.extxyz")])
    rows = structure_rows(part, {}, ReadingOptions())
    assert next(rows)["source"] == "a.extxyz#0"
    with pytest.raises(InputError, match="cannot read frame 1"):
        next(rows)


def test_an_energy_survives_to_its_last_digit(tmp_path, capsys):
    energies = [-43.392815470000123, -1169.6600000000001, 0.1 + 0.2]
    frames = [labelled(seed, shift=2.0 * seed)[0] for seed in range(3)]
    for atoms, energy in zip(frames, energies, strict=True):
        atoms.info["REF_energy"] = energy
    write(tmp_path / "a.extxyz", frames)
    write(tmp_path / "a.db", [labelled(0)[0]])
    assert run(capsys, tmp_path / "a.extxyz", tmp_path / "set", "--split", "train")[0] == 0
    read = read_split(tmp_path / "set", "train")["energy"][:]
    # ASE writes 15 or so digits; what it reads arrives, whatever that is.
    assert read == [atoms.info["REF_energy"] for atoms in iread(tmp_path / "a.extxyz")]
    assert np.abs(np.array(read) - energies).max() < 1e-9


def test_atoms_that_appear_begin_a_trajectory_and_may_not_be_in_a_group(tmp_path, capsys):
    frames = [labelled(0)[0] for _ in range(4)]
    for atoms in frames:
        atoms.arrays["forces"] = atoms.calc.results["forces"]
        atoms.calc = None
        atoms.info["run"] = "a"
    frames[2:] = [atoms[1:] for atoms in frames[2:]]
    write(tmp_path / "a.extxyz", frames)
    assert run(capsys, tmp_path / "a.extxyz", tmp_path / "set", "--split", "train")[0] == 0
    assert read_split(tmp_path / "set", "train")["trajectory"] == ["a.extxyz#0"] * 2 + ["a.extxyz#2"] * 2
    status, error = run(capsys, tmp_path / "a.extxyz", tmp_path / "grouped", "--group-key", "run")
    assert status == 2 and "frame 2: 7 atoms, but trajectory run=a began with 8" in error and error.count("\n") == 1


def vacancies(count: int) -> list[Atoms]:
    """A relaxing vacancy in 64 sites of silicon, with forces."""
    host = bulk("Si", "diamond", a=5.43, cubic=True).repeat(2)
    frames = []
    for seed in range(count):
        atoms = host.copy()
        del atoms[10]
        atoms.rattle(0.02, seed=seed)
        atoms.arrays["forces"] = np.ones((63, 3))
        frames.append(atoms)
    return frames


def test_defect_sites_are_the_files_or_found_or_none(tmp_path, capsys):
    crystal = bulk("Si", "diamond", a=5.43, cubic=True).repeat(2)
    told, found = vacancies(2)
    told.info.update(defect_sites=np.array([[1.0, 2.0, 3.0]]), defect_kinds="v_Si")
    molecule = Atoms("SiO", [[0, 0, 0], [1.6, 0, 0]])
    molecule.arrays["forces"] = np.zeros((2, 3))
    write(tmp_path / "a.extxyz", [told, found, molecule])
    write(tmp_path / "host.vasp", crystal)
    write(tmp_path / "v.extxyz", found)
    run(capsys, tmp_path / "a.extxyz", tmp_path / "auto", "--split", "train")
    run(capsys, tmp_path / "v.extxyz", tmp_path / "given", "--split", "train", "--host", tmp_path / "host.vasp")
    run(capsys, tmp_path / "v.extxyz", tmp_path / "none", "--split", "train", "--host", "none")
    auto, given, none = (read_split(tmp_path / name, "train") for name in ("auto", "given", "none"))
    assert auto["defect_kinds"] == [["v_Si"], ["v_Si"], []]
    assert auto["defect_sites"][0] == [[1, 2, 3]] and auto["defect_sites"][2] == []
    np.testing.assert_allclose(auto["defect_sites"][1][0], crystal.positions[10], atol=0.05)
    np.testing.assert_allclose(given["defect_sites"][0][0], crystal.positions[10], atol=0.05)
    assert given["defect_kinds"] == [["v_Si"]] and none["defect_sites"] == [[]]
    status, error = run(capsys, tmp_path / "a.extxyz", tmp_path / "set", "--host", tmp_path / "host.vasp")
    assert status == 2 and "a.extxyz, frame 2: the cell of the host" in error and error.count("\n") == 1
    status, error = run(capsys, tmp_path / "a.extxyz", tmp_path / "set", "--host", tmp_path / "missing")
    assert status == 2 and "missing: no such file" in error


def test_what_is_broken_can_be_left_out(tmp_path, capsys):
    frames = [labelled(0)[0] for _ in range(4)]
    write(tmp_path / "cut.extxyz", frames)
    (tmp_path / "cut.extxyz").write_text((tmp_path / "cut.extxyz").read_text()[:-100])
    frames[1].calc.results["forces"] = np.full((8, 3), np.nan)
    write(tmp_path / "nan.extxyz", frames)
    (tmp_path / "empty.extxyz").touch()
    files = [tmp_path / f"{name}.extxyz" for name in ("cut", "nan", "empty")]
    assert (
        run_command(lambda: main([*map(str, files), str(tmp_path / "set"), "--skip-broken", "--split", "train"])) == 0
    )
    out = capsys.readouterr().out
    rows = read_split(tmp_path / "set", "train")
    assert rows["source"] == [f"cut.extxyz#{n}" for n in range(3)] + [f"nan.extxyz#{n}" for n in (0, 2, 3)]
    assert "left out because it cannot be read or has bad data: 3\n" in out
    for line in (
        "cut.extxyz: ASE cannot read frame 3",
        "nan.extxyz, frame 1: the force of atom 0",
        "empty.extxyz: the ",
    ):
        assert line in out
    status, error = run(capsys, files[2], tmp_path / "nothing", "--skip-broken")
    assert status == 2 and "no structures" in error and not (tmp_path / "nothing").exists()


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    files = [tmp_path / f"{name}.extxyz" for name in "abc"]
    for seed, file in enumerate(files):
        write(file, [labelled(seed)[0]] * 3)
    arguments = [*files, tmp_path / "set", "--split", "train"]
    written = []

    class FullDisk(building.RowWriter):
        def write_rows(self, rows):
            rows = list(rows)
            written.append(rows[0]["source"])
            if len(written) == 2:
                raise OSError(28, "No space left on device")
            return super().write_rows(rows)

    monkeypatch.setattr(building, "RowWriter", FullDisk)
    status, error = run(capsys, *arguments)
    assert status == 2 and "No space left on device" in error and error.count("\n") == 1
    assert not (tmp_path / "set").exists()
    assert run(capsys, *arguments)[0] == 0
    assert written == ["a.extxyz#0", "b.extxyz#0", "b.extxyz#0", "c.extxyz#0"]  # the first file is not read again
    assert read_split(tmp_path / "set", "train")["source"] == [
        f"{name}.extxyz#{n}" for name in "abc" for n in range(3)
    ]
    assert not list(tmp_path.glob(".*"))


def test_two_processes_give_the_same_data(tmp_path, capsys):
    files = [tmp_path / f"{name}.extxyz" for name in "abc"]
    for seed, file in enumerate(files):
        write(file, [labelled(seed)[0], *vacancies(3 - seed)])
    run(capsys, *files, tmp_path / "1", "--split", "train")
    run(capsys, *files, tmp_path / "2", "--split", "train", "--num-proc", "2")
    one, two = (read_split(tmp_path / name, "train") for name in "12")
    assert len(one) == 9 and one[:] == two[:]


def bad_files(folder) -> dict[str, str]:
    """File name -> what the error must say."""
    atoms, forces = labelled(0)
    bare = atoms.copy()
    write(folder / "bare.extxyz", [bare])
    write(folder / "half.extxyz", [atoms, bare])
    (folder / "empty.extxyz").touch()
    (folder / "what.unknown").write_text("nothing that ASE knows\n")
    broken = atoms.copy()
    broken.arrays["forces"] = np.where(np.arange(24).reshape(8, 3) == 13, np.nan, forces)
    write(folder / "nan.extxyz", [atoms, broken])
    displaced = atoms.copy()
    displaced.positions[6, 2] = np.nan
    displaced.arrays["forces"] = forces
    write(folder / "lost.extxyz", displaced)
    heavy = atoms.copy()
    heavy.symbols[3] = "U"
    heavy.arrays["forces"] = forces
    write(folder / "heavy.extxyz", heavy)
    flat = atoms.copy()
    flat.set_cell([[5, 0, 0], [5, 0, 0], [0, 0, 5]])
    flat.arrays["forces"] = forces
    write(folder / "flat.extxyz", flat)
    twice = atoms.copy()
    twice.positions[7] = twice.positions[2] + twice.cell[0]
    twice.arrays["forces"] = forces
    write(folder / "twice.extxyz", twice)
    (folder / "folder.extxyz").mkdir()
    text = (folder / "half.extxyz").read_text().splitlines()
    (folder / "short.extxyz").write_text("\n".join(text[:7]))
    return {
        "missing.extxyz": "no such file",
        "bare.extxyz": "frame 0: no forces",
        "half.extxyz": "frame 1: no forces",
        "empty.extxyz": "the file is empty",
        "what.unknown": "ASE does not know this kind of file",
        "nan.extxyz": "frame 1: the force of atom 4 (Si) is not a finite number",
        "lost.extxyz": "frame 0: the position of atom 6 (Si) is not a finite number",
        "heavy.extxyz": "element U",
        "flat.extxyz": "frame 0: the cell is 0 Å thick",
        "twice.extxyz": "frame 0: atoms 2 and 7 are at the same place",
        "folder.extxyz": "no vasprun.xml or OUTCAR in this folder",
        "short.extxyz": "ASE cannot read frame 0",
    }


def test_bad_files_give_one_line_and_write_nothing(tmp_path, capsys):
    for name, message in bad_files(tmp_path).items():
        status, error = run(capsys, tmp_path / name, tmp_path / "set")
        assert status == 2 and error.startswith("error: ") and error.count("\n") == 1, (name, error)
        assert message in error and name in error, error
        assert not (tmp_path / "set").exists()


def test_bad_arguments(tmp_path, capsys):
    good = tmp_path / "good.extxyz"
    write(good, labelled(0)[0])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").touch()
    for arguments, message in [
        ((good, tmp_path / "full"), "not empty"),
        ((good, tmp_path / "set", "--forces-key", "mine"), "no 'mine'"),
        ((good, tmp_path / "set", "--energy-key", "mine"), "no 'mine'"),
        ((good, tmp_path / "set", "--group-key", "run"), "no 'run' to group by"),
        ((good, tmp_path / "set", "--split", "0.8,0.2"), "three fractions"),
        ((good, tmp_path / "set", "--split", "nan,1,0"), "three fractions"),
        ((good, tmp_path / "set", "--split", "all"), "no name for a split"),  # datasets reads it as the union
        ((good, tmp_path / "set", "--seed", "-1"), "'-1' is not a whole number"),
        ((good, tmp_path / "set", "--force-key", "mine"), "unrecognized arguments"),
        ((good, good / "below"), "cannot be written"),
        ((good,), "required: OUTPUT_DATASET"),
        ((f"train={good}", good, tmp_path / "set"), "for every input"),
        ((f"tr-ain={good}", tmp_path / "set"), "no name for a split"),
        ((good, tmp_path / "set", "--num-proc", "0"), "'0' is not a whole number"),
    ]:
        status, error = run(capsys, *arguments)
        assert status == 2 and message in error and error.count("\n") == 1, error
        assert not (tmp_path / "set").exists()


def test_real_silicon(shared_data, tmp_path, capsys):
    files = [f"{split}={shared_data / f'si-dft-{split[:5]}.extxyz'}" for split in ("train", "validation")]
    assert run_command(lambda: main([*files, str(tmp_path / "set")])) == 0
    table = capsys.readouterr().out
    assert "816.6" in table and "enhanced-validation 50" in table  # the zero-force baseline
    train = read_split(tmp_path / "set", "train", "energy")
    assert len(train) == 305 and len(set(train["config_type"])) == 6
    assert len(read_split(tmp_path / "set", "validation", "forces")) == 50


def test_inputs_that_contradict_each_other_are_refused(tmp_path, capsys):
    atoms, _ = labelled(0)
    file = tmp_path / "a.extxyz"
    write(file, atoms)
    for arguments, message in (
        (["train="], "no file after the ="),
        ([f"train={file}", "--split", "0.5,0.3,0.2"], "--split divides files whose split is not named"),
        ([file, tmp_path / "." / "a.extxyz"], "is given twice"),
    ):
        options = arguments[1:] if str(arguments[-1]).count(",") else []
        inputs = arguments[:1] if options else arguments
        status, error = run(capsys, *inputs, tmp_path / "set", *options)
        assert status == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_a_corrected_host_file_makes_the_parts_anew(tmp_path, capsys):
    """The sites of parts that an interrupted import left behind are those of the old host."""
    good, _ = labelled(0)
    write(tmp_path / "good.extxyz", good)
    (tmp_path / "bad.extxyz").write_text("no structures")
    host = bulk("Si", "diamond", a=5.43, cubic=True)
    for symbol in ("Ge", "Si"):
        host.symbols[3] = symbol
        write(tmp_path / "host.extxyz", host)
        if symbol == "Si":
            write(tmp_path / "bad.extxyz", labelled(1)[0])
        inputs = (tmp_path / "good.extxyz", tmp_path / "bad.extxyz", tmp_path / "set")
        status, _ = run(capsys, *inputs, "--host", tmp_path / "host.extxyz", "--split", "train")
        assert status == (2 if symbol == "Ge" else 0)
    assert all(kinds == [] for kinds in read_split(tmp_path / "set", "train")["defect_kinds"])


# Labels that are not what they seem -------------------------------------------------------------------------------


def test_keys_of_labels_are_chosen_once_for_a_file(shared_cases, tmp_path, capsys):
    mixed = shared_cases / "mixed_ref.extxyz"
    status, error = run(capsys, mixed, tmp_path / "set")
    assert status == 2 and "frame 3: forces under 'forces', and before it under 'REF_forces'" in error
    assert run(capsys, mixed, tmp_path / "set", "--skip-broken", "--split", "train")[0] == 0
    assert read_split(tmp_path / "set", "train")["energy"] == [-99.0] * 3


@pytest.mark.parametrize(("name", "atom", "energy"), [("iso", "Si", -0.8), ("iso_noforce", "C", -1.3)])
def test_isolated_atoms_are_reference_energies(shared_cases, tmp_path, capsys, name, atom, energy):
    """They are in no split that is learned from, widen no trained region, and give the energies of their elements."""
    status = run_command(lambda: main([str(shared_cases / f"{name}.extxyz"), str(tmp_path / "set")]))
    out = capsys.readouterr().out
    assert status == 0 and f"isolated atoms, whose energies become reference energies: {atom} {energy:.4f} eV\n" in out
    rows = {name: read_split(tmp_path / "set", "train", name) for name in ("forces", "energy_and_forces")}
    assert all(set(map(len, table["atomic_numbers"])) == {8} for table in rows.values())
    isolated = read_isolated(tmp_path / "set", "train")
    assert isolated["energy"] == [energy]
    config = ADAPTEnergyConfig(architecture="pairwise")
    prepare_config(config, RunArguments(dataset=""), {"train": rows["energy_and_forces"], "isolated": isolated})
    mean = np.mean(rows["forces"]["energy"]) / 8
    assert config.element_energies == {"Si": energy if atom == "Si" else pytest.approx(mean)}
    assert config.element_energies["Si"] + config.energy_mean == pytest.approx(mean)
    assert config.training_domain["number_of_atoms"] == [8, 8]
    assert config.training_domain["volume_per_atom"] == pytest.approx([20.01] * 2, abs=0.01)


def test_one_atom_of_a_crystal_is_not_isolated(tmp_path, capsys):
    atoms = bulk("Cu")
    atoms.calc = EMT()
    atoms.get_forces()
    write(tmp_path / "a.extxyz", atoms)
    assert run(capsys, tmp_path / "a.extxyz", tmp_path / "set")[0] == 0
    assert read_split(tmp_path / "set", "train", "forces")["config_type"] == [""]


def test_labels_far_outside_are_said(shared_cases, tmp_path, capsys):
    status = run_command(lambda: main([str(shared_cases / "outlier.extxyz"), str(tmp_path / "set")]))
    out = capsys.readouterr().out
    assert status == 0 and "labels that look wrong, imported all the same: 2\n" in out
    assert "outlier.extxyz#3: its energy is +1.25e+05 eV an atom" in out
    assert "outlier.extxyz#4: a force of 1559 eV/Å" in out


def test_forces_that_go_with_nothing_are_said(tmp_path):
    """Forces of EMT are nearly those of springs; the same forces of other atoms are not."""
    frames = []
    for seed in range(12):
        atoms = bulk("Cu", cubic=True) * 2
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        forces = atoms.get_forces()
        frames.append((atoms, forces, np.random.default_rng(seed).permutation(forces)))
    for place, name in ((1, "right"), (2, "shuffled")):
        rows = [structure_row(one[0], one[place], source=f"a#{number}") for number, one in enumerate(frames)]
        write_dataset({"train": rows}, tmp_path / name)
    assert doubtful_labels(tmp_path / "right") == []
    (line,) = doubtful_labels(tmp_path / "shuffled")
    assert "springs between neighbours explain" in line and "of 12 structures" in line


def test_elements_that_a_first_model_has_not_seen(tmp_path):
    rows = [structure_row(bulk("SiC", "zincblende", a=4.36), np.zeros((2, 3)))]
    write_dataset({"train": rows}, tmp_path / "set")
    train = read_split(tmp_path / "set", "train")
    config = ADAPTEnergyConfig(architecture="pairwise")
    assert unseen_elements(config, train) == []
    config.training_domain = {"elements": ["Si"]}
    assert unseen_elements(config, train) == ["C"]


def test_a_file_is_of_one_split(tmp_path, monkeypatch, capsys):
    write(tmp_path / "a.extxyz", bulk("Si"))
    monkeypatch.chdir(tmp_path)
    status, said = run(capsys, "train=a.extxyz", "validation=./a.extxyz", "out")
    assert status and "a.extxyz is of two splits, and what is trained on cannot be tested on; name it once" in said
    assert not (tmp_path / "out").exists()


def test_an_element_that_is_none(tmp_path, capsys):
    (tmp_path / "a.xyz").write_text("1\n\nQq 0 0 0\n")
    status, said = run(capsys, tmp_path / "a.xyz", tmp_path / "out")
    assert status and "a.xyz: ASE cannot read frame 0: there is no element Qq" in said
