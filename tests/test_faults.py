"""
Faults under pressure: damaged files, kills at every rename, equal commands at once, odd names. Whatever happens is a
result that is right or one line that says why not, and the same command given again finishes. `docs/reliability.md`
tells the figures.
"""

import contextlib
import io
import json
import os
import random
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from hub_uploads import save

from modeling_adapt.cli import describe_dataset, evaluate, import_structures, relax, split_dataset
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.data.load.reading import read_splits
from modeling_adapt.data.read.frames import read_frames
from modeling_adapt.data.read.published import read_force_file, read_tokens
from modeling_adapt.errors import InputError
from modeling_adapt.hub.records import read_record
from modeling_adapt.loading import load_model
from modeling_adapt.published_weights import read_statistics, save_verified
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
def folder(tmp_path, springs, make_force_model) -> Path:
    """One good file of each kind that is read."""
    good = tmp_path / "good"
    good.mkdir()
    frames = [labelled(seed) for seed in range(3)]
    for name in ("a.extxyz", "POSCAR", "a.cif", "a.traj", "a.json"):
        ase.io.write(good / name, frames if name in ("a.extxyz", "a.traj") else frames[0])
    shutil.copytree(springs, good / "data")
    save(make_force_model(**PAIRWISE), good / "model")
    tokens = [torch.rand(4, 12, dtype=torch.float64) for _ in range(2)]
    for one in tokens:
        one[:, 3:] = torch.tensor([14.0, 3.0, 1.9, 111.0, 4.0, 8.15168, 133.6, 1.1, 12.06])
    torch.save({"X": tokens, "Y": [torch.rand(4, 3) for _ in range(2)]}, good / "a.pt")
    (good / "stats.json").write_text(json.dumps({"x_mean": [1.0] * 12, "x_std": [2.0] * 12}))
    (good / "run.json").write_text(json.dumps({"parts": [{"threads": 1, "structures": {"train": 3}}]}))
    (good / "recipe.yaml").write_text("dataset: org/x\nseed: 1\naugmentation: [inversion]\n")
    return good


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
    data, model = str(folder / "data"), str(folder / "model")

    def describe(output: Path) -> None:
        if not output.exists():
            shutil.copytree(folder / "data", output)
        describe_dataset.main([str(output)])

    def convert(output: Path) -> None:
        save_verified(load_model(model)[0], output)

    return {
        "import": lambda output: import_structures.main([str(folder / "a.extxyz"), str(output), "--host", "none"]),
        "split": lambda output: split_dataset.main([data, str(output), "--split", "0.5,0.5,0"]),
        "describe": describe,
        "convert": convert,
        "relax": lambda output: relax.main(
            [*(str(folder / name) for name in ("a.extxyz", "POSCAR")), "--index", "0", "--model", model]
            + ["--steps", "2", "--one-by-one", "--report", "--output", str(output)]
        ),
        "evaluate": lambda output: evaluate.main(
            [model, data, "--split", "validation", "--checks", "0", "--output", str(output)]
        ),
    }


CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "open")


def in_child(call: Callable[[], object], kill_at: int = -1, below: Path | None = None, ready: int = -1) -> int:
    """
    The exit status of a command in a process of its own, which is killed before it changes anything below a folder
    for the `kill_at`-th time; -9 if so.
    """
    pid = os.fork()
    if pid:
        return pid
    with contextlib.suppress(BaseException):
        changes = 0

        def watch(event: str, arguments: tuple) -> None:
            nonlocal changes
            if event not in CHANGES or str(below) not in str(arguments[:2]):
                return
            if event == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
                return
            changes += 1
            if changes > kill_at:
                os.kill(os.getpid(), 9)

        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            with contextlib.redirect_stderr(nowhere if below else open(f"/proc/self/fd/{2}", "w")):
                if below is not None and kill_at >= 0:
                    sys.addaudithook(watch)
                os._exit(run_command(call))
    os._exit(99)


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def contents(output: Path) -> set[str]:
    return {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}


def try_kills(folder: Path, name: str, places: range) -> int:
    """How many kills were tried; ends where a command has no more changes to make."""
    command = make_commands(folder)[name]
    whole = folder.parent / "whole" / "out"
    assert status_of(in_child(lambda: command(whole))) in (0, 1), name  # 1: not all relaxations converged
    for place in places:
        home = folder.parent / f"kill{place}"
        home.mkdir()
        status = status_of(in_child(lambda: command(home / "out"), place, home))  # noqa: B023
        if status != -9:
            assert status in (0, 1)
            return place
        again = status_of(in_child(lambda: command(home / "out")))  # noqa: B023
        # Where it had finished but for its tidying, it says that there is something already.
        assert again in (0, 1) or (again == 2 and name != "relax"), (name, place, again)
        assert contents(home / "out") == contents(whole), (name, place)
        assert not hidden(home), (name, place, hidden(home))
        shutil.rmtree(home)
    return len(places)


COMMANDS = ("import", "split", "describe", "convert", "relax", "evaluate")


@pytest.mark.parametrize("name", ("import", "relax"))
def test_a_kill_leaves_nothing_that_stops_the_same_command(folder, name):
    try_kills(folder, name, range(1, 12, 5))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_anywhere_leaves_nothing_that_stops_the_same_command(folder, name):
    print(f"{name}: {try_kills(folder, name, range(200))} kills")


def try_pairs(folder: Path, name: str, pairs: int) -> None:
    command = make_commands(folder)[name]
    whole = folder.parent / "whole" / "out"
    assert status_of(in_child(lambda: command(whole))) in (0, 1)
    for pair in range(pairs):
        output = folder.parent / f"pair{pair}" / "out"
        both = [in_child(lambda: command(output)) for _ in range(2)]  # noqa: B023
        statuses = sorted(map(status_of, both))
        assert statuses[0] in (0, 1) and statuses[1] in (0, 1, 2), (name, statuses)
        assert contents(output) == contents(whole) and not hidden(output.parent)
        if name == "relax":
            assert (output / "summary.csv").read_text().count("\n") == 3


@pytest.mark.parametrize("name", ("split", "relax"))
def test_of_two_equal_commands_one_does_the_work(folder, name):
    try_pairs(folder, name, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ("import", "split", "convert", "relax", "evaluate"))
def test_of_many_pairs_of_equal_commands_one_does_the_work(folder, name):
    try_pairs(folder, name, 5)
