"""`relax.py` on many structures in processes of their own: killed, and spread over several."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import pytest
from ase.build import bulk
from processes import launched

from modeling_adapt.cli import relax


@pytest.fixture
def batch(make_force_model, tmp_path):
    """Function from a number of structures to the arguments of a command on them; no relaxation ends at once."""
    make_force_model(architecture="pairwise", num_vector_channels=8).save_pretrained(tmp_path / "model")

    def make(count: int) -> list[str]:
        (tmp_path / "in").mkdir()
        for number in range(count):
            atoms = bulk("Si", cubic=True)
            atoms.rattle(0.1, seed=number)
            ase.io.write(tmp_path / "in" / f"s{number:02d}.extxyz", atoms)
        return [str(tmp_path / "in"), "--model", str(tmp_path / "model"), "--fmax", "1e-6", "--steps", "10"]

    return make


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "relax.py", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def results(output: Path) -> dict[str, dict[str, str]]:
    rows = list(csv.DictReader((output / "summary.csv").read_text().splitlines()))
    assert len({row["name"] for row in rows}) == len(rows)  # nothing twice
    for row in rows:
        assert len(ase.io.read(output / f"{row['name']}.relaxed.extxyz")) == 8
        assert len(ase.io.read(output / f"{row['name']}.traj.extxyz", ":")) == 11
    return {row["name"]: row for row in rows}


def lines_of(output: Path) -> int:
    summary = output / "summary.csv"
    return summary.read_text().count("\n") if summary.is_file() else 0


def test_two_processes_share_the_structures(batch, tmp_path, forks, capsys):
    arguments = batch(5)
    assert relax.main([*arguments, "--output", str(tmp_path / "one")]) == 1  # none converges
    status, out, err = launched(forks, "relax", *arguments, "--output", str(tmp_path / "two"))
    assert status == 1 and "structures saved to" in out, err
    assert capsys.readouterr().out.count("not converged") == out.count("not converged") == 2 * 5  # by one process
    assert results(tmp_path / "one") == results(tmp_path / "two")


@pytest.mark.slow
def test_ten_kills(batch, tmp_path):
    """Killed at random moments, forty relaxations end as they do without: none lost, none twice, none by halves."""
    arguments = batch(40)
    began = time.monotonic()
    assert start(*arguments, "--output", str(tmp_path / "whole")).wait() == 1  # none converges
    duration = time.monotonic() - began
    seed = int(os.environ.get("KILL_SEED", time.time()))
    print(f"KILL_SEED={seed}")
    chance, kills = random.Random(seed), 0
    while kills < 10:
        process = start(*arguments, "--output", str(tmp_path / "killed"))
        goal = min(lines_of(tmp_path / "killed") + 2, 40)
        while process.poll() is None and lines_of(tmp_path / "killed") < goal:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.05) * duration)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert start(*arguments, "--output", str(tmp_path / "killed")).wait() == 1
    assert kills == 10
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob(".*"))
