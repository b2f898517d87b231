"""
Faults under pressure: damaged files, kills at every rename, equal commands at once, odd names. Whatever happens is a
result that is right or one line that says why not, and the same command given again finishes. `docs/reliability.md`
tells the figures.
"""

import contextlib
import gzip
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import ase.io
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from hub_uploads import save
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file

from modeling_adapt.cli import (
    build_dataset,
    describe_dataset,
    evaluate,
    generate_defects,
    hub_upload,
    import_published,
    import_structures,
    neb,
    relax,
    select_structures,
    split_dataset,
    train,
)
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.crystal.contacts import coinciding_atoms
from modeling_adapt.crystal.symmetry import atoms_of
from modeling_adapt.data.load.reading import parquet_splits, parquet_tables, read_splits
from modeling_adapt.data.read.frames import read_frames
from modeling_adapt.data.read.published import read_force_file, read_tokens
from modeling_adapt.data.structures import structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.files import alone_in, finished_folder, readable_name, unfinished_folder, write_whole
from modeling_adapt.hub import stranger
from modeling_adapt.hub.records import read_record
from modeling_adapt.hub.run_folder import open_runs
from modeling_adapt.hub.staging import stage_repository
from modeling_adapt.hub.stranger import check_as_stranger
from modeling_adapt.loading import _refuse, load_model, require_example
from modeling_adapt.published_weights import read_statistics, save_verified
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.inputs import read_inputs
from modeling_adapt.torch_files import read_torch_file

PAIRWISE = {"architecture": "pairwise", "num_vector_channels": 8}
SILICON = bulk("Si", cubic=True)


def labelled(seed: int, atoms=SILICON):
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=seed)
    forces = np.random.default_rng(seed).normal(size=(len(atoms), 3))
    atoms.calc = SinglePointCalculator(atoms, energy=-5.0 * len(atoms) + seed, forces=forces)
    return atoms


@pytest.fixture
def folder(tmp_path, tmp_path_factory, springs, make_force_model, make_energy_model) -> Path:
    """One good file of each kind that is read; made once, and copied."""
    if not MADE:
        MADE.append(make_files(tmp_path_factory.mktemp("good"), springs, make_force_model(**PAIRWISE)))
        save(make_energy_model(**PAIRWISE), MADE[0] / "energy")
    return Path(shutil.copytree(MADE[0], tmp_path / "good"))


MADE: list[Path] = []


def make_files(good: Path, springs: str, model) -> Path:
    frames = [labelled(seed) for seed in range(3)]
    for name in ("a.extxyz", "POSCAR", "a.cif", "a.traj", "a.json"):
        ase.io.write(good / name, frames if name in ("a.extxyz", "a.traj") else frames[0])
    moved = frames[0].copy()
    moved.positions[0] += 0.5
    ase.io.write(good / "moved.extxyz", moved)
    shutil.copytree(springs, good / "data")
    save(model, good / "model")
    tokens = [torch.rand(4, 12, dtype=torch.float64) for _ in range(2)]
    for one in tokens:
        one[:, 3:] = torch.tensor([14.0, 3.0, 1.9, 111.0, 4.0, 8.15168, 133.6, 1.1, 12.06])
    torch.save({"X": tokens, "Y": [torch.rand(4, 3) for _ in range(2)]}, good / "a.pt")
    (good / "stats.json").write_text(json.dumps({"x_mean": [1.0] * 12, "x_std": [2.0] * 12}))
    (good / "run.json").write_text(json.dumps({"parts": [{"threads": 1, "structures": {"train": 3}}]}))
    (good / "recipe.yaml").write_text("dataset: org/x\nseed: 1\naugmentation: [inversion]\n")
    (good / "run.yaml").write_text(RUN)
    (good / "sources.yaml").write_text(SOURCES)
    return good


RUN = """
model: pairwise-small
hidden_size: 16
intermediate_size: 16
num_hidden_layers: 1
num_attention_heads: 2
num_vector_channels: 4
max_steps: 2
per_device_train_batch_size: 2
ema_decay: 0.9
eval_strategy: steps
eval_steps: 1
save_strategy: steps
save_steps: 1
save_total_limit: 1
load_best_model_at_end: true
"""
SOURCES = """
sources:
- {name: one, files: [a.extxyz], license: mit, level: x, host: none}
- {name: two, files: [POSCAR, a.traj], license: mit, level: y, host: none, split: train}
"""


def read_everything(path: Path) -> None:
    """What reads a file of that name."""
    if path.name in ("a.extxyz", "POSCAR", "a.cif", "a.traj", "a.json"):
        list(read_frames(path))
    elif path.suffix == ".parquet":
        read_splits(path.parents[1])
    elif path.parent.name == "model":
        load_model(path.parent)
    elif path.name == "a.pt":
        list(read_tokens(read_force_file(path)))
        read_torch_file(path)
    else:
        (read_statistics if path.name == "stats.json" else read_record)(path)


def damaged(content: bytes, dice: random.Random) -> bytes:
    """Cut off, a bit flipped, a stretch of noise, a stretch twice or missing, or a number made absurd."""
    place, other = sorted(dice.randrange(len(content) + 1) for _ in range(2))
    noise = dice.randbytes(dice.randrange(1, 200))
    flipped = bytearray(content)
    flipped[place % len(content)] ^= 1 << dice.randrange(8)
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", content))
    number = dice.choice(numbers) if numbers else re.search(b"^", content)
    absurd = dice.choice([b"1e999", b"nan", b"-1", b"999999999", b"x", b"", b"[[[["])
    return dice.choice(
        [
            content[:place],
            bytes(flipped),
            content[:place] + noise + content[place + len(noise) :],
            content[:place] + content[other:],
            content[:other] + content[place:],
            content[: number.start()] + absurd + content[number.end() :],
        ]
    )


KINDS = {  # and how many are tried of each, fast and slow
    **{"a.extxyz": (60, 400), "POSCAR": (30, 200), "a.cif": (15, 100), "a.traj": (20, 100), "a.json": (20, 100)},
    **{"a.pt": (30, 200), "stats.json": (30, 200), "run.json": (30, 200), "recipe.yaml": (30, 200)},
    **{"model/config.json": (12, 150), "model/model.safetensors": (8, 100), "model/preprocessor_config.json": (4, 50)},
    **{"data/data/train-00000-of-00001.parquet": (15, 200)},
}


def try_damages(folder: Path, name: str, count: int) -> Counter:
    path, dice, outcomes = folder / name, random.Random(name), Counter()
    content = path.read_bytes()
    for number in range(count):
        path.write_bytes(damaged(content, dice))
        os.utime(path, (number, number))  # `datasets` knows a file by its time
        started = time.process_time()
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                read_everything(path)
            outcomes["read"] += 1
        except InputError:
            outcomes["refused"] += 1
        assert time.process_time() - started < 10, f"{name}, damage {number}"
    return outcomes


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_read_or_refused(folder, name):
    outcomes = try_damages(folder, name, KINDS[name][0])
    assert outcomes["refused"] > 0 and outcomes.total() == KINDS[name][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_damaged_files_are_read_or_refused(folder, name):
    outcomes = try_damages(folder, name, KINDS[name][1])
    print(f"{name}: {outcomes['refused']} refused, {outcomes['read']} read, of {outcomes.total()}")


# Commands that write, from what they are given and where they write to.


def make_commands(folder: Path) -> dict[str, Callable[[Path], object]]:
    data, model, energy = str(folder / "data"), str(folder / "model"), str(folder / "energy")
    frames, crystal = str(folder / "a.extxyz"), str(folder / "POSCAR")

    def describe(output: Path) -> None:
        shutil.copytree(folder / "data", output, dirs_exist_ok=True)
        describe_dataset.main([str(output)])

    def convert(output: Path) -> None:
        save_verified(load_model(model)[0], output)

    return {
        "import": lambda output: import_structures.main([frames, str(output), "--host", "none"]),
        "import the published": lambda output: import_published.main(
            [str(folder / "a.pt"), str(output), "--host", "none", "--split", "train"]
        ),
        "build": lambda output: build_dataset.main([str(folder / "sources.yaml"), str(output), "--skip-broken"]),
        "generate": lambda output: generate_defects.main(
            [str(output), "--structures", "4", "--seed", "0", "--repeat", "1", "--frames", "2", "--steps", "2"]
            + ["--md-steps", "4", "--split", "train"]
        ),
        "split": lambda output: split_dataset.main([data, str(output), "--split", "0.5,0.5,0"]),
        "describe": describe,
        "convert": convert,
        "relax": lambda output: relax.main(
            [frames, crystal, "--index", "0", "--model", model]
            + ["--steps", "2", "--one-by-one", "--report", "--output", str(output)]
        ),
        "neb": lambda output: neb.main(
            [crystal, str(folder / "moved.extxyz"), "--model", energy, "--images", "1", "--steps", "1"]
            + ["--keep-ends", "--output", str(output)]
        ),
        "select": lambda output: select_structures.main([frames, "--number", "2", "--output", str(output)]),
        "evaluate": lambda output: evaluate.main(
            [model, data, "--split", "validation", "--checks", "0", "--output", str(output)]
        ),
        "train": lambda output: train.main(
            [str(folder / "run.yaml"), "--dataset", data, "--output_dir", str(output)]
            + ["--resume_from_checkpoint", "true"]
        ),
        "publish": lambda output: hub_upload.main([model, "org/x", "--save", str(output)]),
    }


CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "open")


def become(folder: str, name: str, output: str, kill_at: str, below: str) -> None:
    """
    This process runs a command and is killed before it changes anything below a folder for the `kill_at`-th time, or
    never where that is negative.
    """
    changes = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal changes
        if event not in CHANGES or below not in str(arguments[:2]):
            return
        if event == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
            return
        changes += 1
        if changes > int(kill_at):
            os.kill(os.getpid(), 9)

    if name == "publish":  # loading what goes out in a process of its own takes seconds
        stranger.check_as_stranger = lambda folder, subfolders: {"forces": 0.0}
    if int(kill_at) >= 0:
        sys.addaudithook(watch)
    sys.exit(run_command(partial(make_commands(Path(folder))[name], Path(output))))


BECOME = "import sys; sys.path.insert(0, 'tests'); import test_faults; test_faults.become(*sys.argv[1:])"
KILLED = 139  # the status where a process sends none


def status_of(process: subprocess.Popen) -> int:
    output = process.communicate(timeout=600)[1]
    assert process.returncode in (0, 1, 2, KILLED), output
    return process.returncode


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def contents(output: Path) -> set[str]:
    return {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}


def start(forks, folder: Path, name: str, output: Path, kill_at: int = -1) -> subprocess.Popen:
    return forks.start(BECOME, folder, name, output, str(kill_at), output.parent)


def try_kills(forks, folder: Path, name: str, places: range) -> int:
    """How many kills were tried; ends where a command has no more changes to make."""
    whole = folder.parent / "whole" / "out"
    assert status_of(start(forks, folder, name, whole)) in (0, 1), name  # 1: not all relaxations converged
    for place in places:
        home = folder.parent / f"kill{place}"
        home.mkdir()
        status = status_of(start(forks, folder, name, home / "out", place))
        if status != KILLED:
            assert status in (0, 1)
            return place
        again = status_of(start(forks, folder, name, home / "out"))
        # Where it had finished but for its tidying, it says that there is something already.
        assert again in (0, 1) or (again == 2 and name not in GO_ON), (name, place, again)
        assert contents(home / "out") == contents(whole), (name, place)
        assert not hidden(home), (name, place, hidden(home))
        if name == "train":
            assert equal_weights(home / "out", whole), place
        shutil.rmtree(home)
    return len(places)


def equal_weights(one: Path, other: Path) -> bool:
    one, other = (load_file(run / "model.safetensors") for run in (one, other))
    return all(torch.equal(one[name], other[name]) for name in one)


GO_ON = ("relax", "neb", "train")  # in a folder that is there
COMMANDS = ("import", "import the published", "build", "generate", "split", "describe", "convert")
COMMANDS += ("relax", "neb", "select", "evaluate", "train", "publish")


@pytest.mark.parametrize("name", ("import", "relax"))
def test_a_kill_leaves_nothing_that_stops_the_same_command(forks, folder, name):
    try_kills(forks, folder, name, range(2, 12, 6))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_anywhere_leaves_nothing_that_stops_the_same_command(forks, folder, name):
    print(f"{name}: {try_kills(forks, folder, name, range(200))} kills")


def try_pairs(forks, folder: Path, name: str, pairs: int) -> None:
    whole = folder.parent / "whole" / "out"
    assert status_of(start(forks, folder, name, whole)) in (0, 1)
    for pair in range(pairs):
        output = folder.parent / f"pair{pair}" / "out"
        both = [start(forks, folder, name, output) for _ in range(2)]
        statuses = sorted(map(status_of, both))
        assert statuses[0] in (0, 1) and statuses[1] in (0, 1, 2), (name, statuses)
        assert contents(output) == contents(whole) and not hidden(output.parent)
        if name == "relax":
            assert (output / "summary.csv").read_text().count("\n") == 3
        if name == "train":
            assert equal_weights(output, whole)


@pytest.mark.parametrize("name", ("split", "relax"))
def test_of_two_equal_commands_one_does_the_work(forks, folder, name):
    try_pairs(forks, folder, name, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "describe"])  # which begins with a copy here
def test_of_many_pairs_of_equal_commands_one_does_the_work(forks, folder, name):
    try_pairs(forks, folder, name, 5)
    print(f"{name}: 5 pairs")


class TestBitRot:
    def test_noise_in_a_file_of_rows_is_found(self, folder):
        """In the pages of numbers, where nothing else would notice it."""
        path = folder / "data" / "data" / "train-00000-of-00001.parquet"
        content, dice = path.read_bytes(), random.Random(0)
        group = pq.read_metadata(path).row_group(0)
        last = group.column(group.num_columns - 1)
        for number in range(20):
            place = dice.randrange(4, last.data_page_offset + 20)
            path.write_bytes(content[:place] + dice.randbytes(20) + content[place + 20 :])
            os.utime(path, (number, number))
            for read in (read_splits, lambda folder: list(parquet_tables(parquet_splits(folder)["train"]))):
                with pytest.raises(InputError):
                    read(folder / "data")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda atoms: atoms.calc.results["forces"].__setitem__((3, 1), 3e19),
                "the force of atom 3 .* 3.0e.19 eV/Å",
            ),
            (lambda atoms: atoms.calc.results.update(energy=1e12), "an energy of 1.0e.12 eV"),
            (
                lambda atoms: atoms.set_positions(atoms.positions + 1e7, None) or atoms.set_pbc(False),
                "the position of atom",
            ),
        ],
    )
    def test_what_no_structure_has_is_refused_unless_allowed(self, change, message, monkeypatch):
        atoms = labelled(0)
        change(atoms)
        make = partial(structure_row, atoms, atoms.calc.results["forces"], atoms.calc.results["energy"], source="a#7")
        with pytest.raises(InputError, match=f"a, frame 7: .*{message}.* ADAPT_ALLOW_EXTREMES=1"):
            make()
        monkeypatch.setenv("ADAPT_ALLOW_EXTREMES", "1")
        make()

    def test_flipped_bytes_in_weights_are_found_by_the_example(self, folder):
        model, extractor = load_model(folder / "model")
        path, dice = folder / "model" / "example.json", random.Random(0)
        structure = {"atomic_numbers": [14] * 8, "cell": SILICON.cell.tolist(), "positions": labelled(0).positions}
        forces = model(**extractor(structure)).forces[0].tolist()
        path.write_text(json.dumps(structure | {"positions": structure["positions"].tolist(), "forces": forces}))
        require_example(model, extractor, path)
        weights = [
            values for name, values in model.state_dict().items() if name.endswith("weight") and values.ndim > 1
        ]
        found = 0
        for _ in range(20):
            values = dice.choice(weights).view(-1)
            place = dice.randrange(len(values))
            kept = values[place].item()
            values[place : place + 1].view(torch.int32).bitwise_xor_(1 << 30)  # the largest bit of the exponent
            try:
                require_example(model, extractor, path)
            except InputError as error:
                assert "does not compute what its example.json says" in str(error)
                found += 1
            values[place] = kept
        assert found >= 15  # what a structure of one element does not read is not seen


def test_a_structure_far_from_the_origin_has_the_same_forces(folder, tmp_path):
    model, _ = load_model(folder / "model")
    near, far = labelled(0), labelled(0)
    far.positions += 1000 * far.cell.sum(axis=0) - 700 * far.cell[0]
    ase.io.write(tmp_path / "far.extxyz", far)
    (far,) = read_frames(tmp_path / "far.extxyz")
    rows = [atoms_of(structure_row(atoms, np.zeros((8, 3)))) for atoms in (near, far)]
    forces = []
    for atoms in (near, far, *rows):
        atoms.calc = ADAPTCalculator(model, outside_domain="ignore")
        forces.append(atoms.get_forces())
    assert max(np.abs(one - forces[0]).max() for one in forces) < 2e-5


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_what_is_written_is_as_readable_as_the_umask_says(folder, tmp_path, umask):
    model, _ = load_model(folder / "model")
    before = os.umask(umask)
    try:
        with finished_folder(tmp_path / "new"):
            model.save_pretrained(unfinished_folder(tmp_path / "new"))
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o777 & ~umask
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    assert modes["model.safetensors"] == 0o666 & ~umask, modes


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    for error in (OSError(28, "No space left on device"), SafetensorError("I/O error: full (os error 28)")):
        with pytest.raises(InputError, match="no space is left for .*/new: make room"):
            with finished_folder(tmp_path / "new"):
                raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a[1]", "a*b", "a?b", "par[e]nt/x", "n" * 200, os.fsdecode(b"d\xe9")])
def test_names_that_mean_something_else_to_libraries(folder, tmp_path, capsys, name):
    given = [str(folder / "a.extxyz"), str(tmp_path / name)]
    assert run_command(lambda: import_structures.main(given)) == 2
    error = capsys.readouterr().err
    assert "of a data set" in error and error.count("\n") == 1
    if len(name) < 200:
        shutil.copytree(folder / "data", tmp_path / name)
        with pytest.raises(InputError, match="of a data set"):
            read_splits(tmp_path / name)
    assert "/".join(path.name for path in hidden(tmp_path)) == ""


@pytest.mark.parametrize(
    "name",
    [b"caf\xe9", b"n" * 240, "Å".encode() * 110, b"[a]*{b}", b"=cmd()", b"a b'c"],
    ids=lambda name: ascii(name)[:20],
)
def test_names_of_structures(folder, tmp_path, name):
    path = tmp_path / os.fsdecode(name + b".extxyz")
    shutil.copy(folder / "a.extxyz", path)
    out = tmp_path / "out"
    (structure,) = read_inputs([path], "0")
    assert structure.encode() and len(f"{structure}.relaxed.extxyz".encode()) < 250
    write_whole(tmp_path / f"{structure}.relaxed.extxyz", "x")
    assert (
        run_command(lambda: import_structures.main([str(path), str(out), "--host", "none", "--split", "train"])) == 0
    )
    assert read_splits(out)["train"]["source"][0] == f"{readable_name(path.name)}#0"


HOME = """
import sys
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.cli.import_structures import main
sys.exit(run_command(lambda: main(sys.argv[1:])))
"""


def test_a_home_that_cannot_be_written_keeps_nobody_from_importing(folder, tmp_path):
    (tmp_path / "home").write_text("a file, so that even root cannot write below it")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "MPL"))}
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", HOME, folder / "a.extxyz", tmp_path / "out", "--host", "none"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "README.md").is_file()


@pytest.mark.slow
def test_what_transformers_needs_may_come_by_pythonpath(folder, tmp_path, monkeypatch):
    """As the modules of a cluster bring it: the interpreter alone has nothing."""
    staged = tmp_path / "staged"
    stage_repository(open_runs([folder / "model"]), staged, "org/x")
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    assert max(check_as_stranger(staged).values()) < 1e-5


ANNOUNCED = {
    "a.extxyz": "1000000000\nProperties=species:S:1:pos:R:3\nSi 0 0 0\n",
    "b.xyz": "1\n\nSi 0 0 0\n1000000000\n\nSi 0 0 0\n",
    "POSCAR": "20261128\n1.0\n5 0 0\n0 5 0\n0 0 5\nSi\n1000000000\nDirect\n0 0 0\n",
    "c.extxyz.gz": None,
}


@pytest.mark.parametrize("name", ANNOUNCED)
def test_files_that_announce_more_than_there_is(tmp_path, name):
    text = ANNOUNCED[name] or ANNOUNCED["a.extxyz"]
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    started = time.process_time()
    with pytest.raises(InputError, match="a structure of 1,000,000,000 atoms; at most 1,000,000 are read"):
        list(read_frames(tmp_path / name))
    assert time.process_time() - started < 5


def test_tensors_that_repeat_without_end(tmp_path):
    one = torch.ones(1, 10, 12).expand(10**8, 10, 12)
    for content in ({"X": one, "Y": one[..., :3]}, [one], one):
        torch.save(content, tmp_path / "a.pt")
        for read in (read_torch_file, read_force_file):
            with pytest.raises(InputError, match="which is more than the file holds"):
                read(tmp_path / "a.pt")


def test_many_atoms_at_one_place():
    atoms = bulk("Si", cubic=True) * (20, 20, 20)
    atoms.positions[100:40_000] = 1.0
    started = time.process_time()
    assert coinciding_atoms(atoms) == (100, 101)
    assert time.process_time() - started < 5


def test_a_second_command_is_told_who_is_first(tmp_path):
    with alone_in(tmp_path / "a"):
        with pytest.raises(InputError, match=rf"another command writes to .*/a now \(process {os.getpid()}\)"):
            with alone_in(tmp_path / "a"):
                raise AssertionError
    (tmp_path / ".new.unfinished").mkdir()
    (tmp_path / ".new.unfinished" / "left").touch()
    with alone_in(tmp_path / ".new.unfinished"):
        with pytest.raises(InputError, match="another command writes to .*/new now"):
            with finished_folder(tmp_path / "new"):
                raise AssertionError
    with finished_folder(tmp_path / "new") as unfinished:
        assert not list(unfinished.iterdir())
    assert not hidden(tmp_path)


def test_a_folder_that_another_run_has_written_since_is_not_taken(folder, tmp_path, monkeypatch):
    """Between the question whether it is free and the lock."""
    output = tmp_path / "run"
    command = [str(folder / "run.yaml"), "--dataset", str(folder / "data"), "--output_dir", str(output)]

    def written(*arguments) -> None:
        output.mkdir()
        (output / "run.json").touch()

    monkeypatch.setattr("modeling_adapt.data.load.reading.pinned_revision", written)
    with pytest.raises(InputError, match="run exists and is not empty"):
        train.main(command)
    assert [path.name for path in output.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("status", "message"),
    [(403, "your token"), (429, "too many"), (500, "error 500"), (404, "does not appear to have")],
)
def test_weights_that_the_hub_does_not_give(monkeypatch, status, message):
    def refuse(*arguments, **options):
        response = SimpleNamespace(status_code=status, headers={}, reason_phrase="x", request=None, url="")
        if status == 404:
            raise RemoteEntryNotFoundError("no model.safetensors", response=response)
        raise HfHubHTTPError("x", response=response)

    monkeypatch.setattr("modeling_adapt.loading.hf_hub_download", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    missing = OSError("org/x does not appear to have a file named pytorch_model.bin or model.safetensors.")
    with pytest.raises(InputError, match=message):
        _refuse(missing, "org/x", None)
