"""Building a data set in parts: the same for any number of processes, after any interruption, and never half."""

import os
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from modeling_adapt.data.build.building import build_dataset
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.split.splitting import train_subsets
from modeling_adapt.data.structures import structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.files import alone_in


def make_rows(part, notes):
    """As many rows as the part says, each its own trajectory; a log beside the data tells what was made."""
    if part.get("log"):
        with open(part["log"], "a") as log:
            log.write(f"{part['number']}\n")
    if part.get("fault"):
        raise InputError(f"part {part['number']} is damaged")
    notes["number"] = part["number"]
    for row in range(part["rows"]):
        if part.get("seconds"):
            time.sleep(part["seconds"])
        position = [[part["number"], row, 0.0]]
        yield structure_row(
            Atoms("Si", positions=position, cell=[9, 9, 9], pbc=True),
            np.array([[0.1 * row, 0, 0]]),
            energy=part["number"] + row / 7,
            trajectory=f"{part['number']}-{row}",
            source=f"made#{part['number']}-{row}",
        )


def everything_in_train(sources, keys):
    splits = {"train": list(range(len(keys)))}
    return splits, train_subsets(keys, splits)


def two_splits(sources, keys):
    splits = {"train": list(range(0, len(keys), 2)), "test": list(range(1, len(keys), 2))}
    return splits, train_subsets(keys, splits)


def parts(*sizes, **also):
    return [{"number": number, "rows": rows, **also} for number, rows in enumerate(sizes)]


def test_rows_keep_the_order_of_the_parts_for_any_number_of_processes(tmp_path):
    for processes in (1, 2):
        built = build_dataset(tmp_path / f"{processes}", parts(3, 0, 5, 2), make_rows, two_splits, num_proc=processes)
        assert built.counts == {"train": 5, "test": 5}
        assert [note["number"] for note in built.notes] == [0, 1, 2, 3]
    for split in ("train", "test"):
        one, two = (read_split(tmp_path / name, split)[:] for name in ("1", "2"))
        assert one == two
    sources = [f"made#{name}" for name in ("0-0", "0-2", "2-1", "2-3", "3-0")]
    assert read_split(tmp_path / "1", "train")["source"] == sources
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]  # no workshop is left


def test_a_limit_stops_endless_parts_and_drops_what_is_beyond(tmp_path):
    endless = ({"number": number, "rows": 4} for number in count())
    built = build_dataset(tmp_path / "data", endless, make_rows, everything_in_train, limit=10)
    assert built.counts == {"train": 10}
    assert read_split(tmp_path / "data", "train")["source"][-1] == "made#2-1"


def test_an_error_keeps_finished_parts_and_the_next_run_makes_only_the_others(tmp_path):
    log = tmp_path / "log"
    faulty = parts(2, 2, 2, log=str(log))
    faulty[1]["fault"] = True
    with pytest.raises(InputError, match="part 1 is damaged"):
        build_dataset(tmp_path / "data", faulty, make_rows, everything_in_train)
    assert not (tmp_path / "data").exists()
    log.unlink()
    build_dataset(tmp_path / "data", parts(2, 2, 2, log=str(log)), make_rows, everything_in_train)
    assert log.read_text().split() == ["1", "2"]


def test_an_error_in_the_first_part_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="damaged"):
        build_dataset(tmp_path / "data", parts(2, fault=True), make_rows, everything_in_train)
    assert list(tmp_path.iterdir()) == []


def test_other_options_never_reuse_a_part(tmp_path):
    log = tmp_path / "log"
    faulty = parts(2, 2, log=str(log))
    faulty[1]["fault"] = True
    for plan in ({"seed": 0}, {"seed": 1}):
        with pytest.raises(InputError):
            build_dataset(tmp_path / "data", faulty, make_rows, everything_in_train, plan=plan)
    assert log.read_text().split() == ["0", "1", "0", "1"]


def test_a_full_disk_keeps_finished_parts(tmp_path, monkeypatch):
    from modeling_adapt.data.build import building

    class FullDisk(building.RowWriter):
        def write_rows(self, rows):
            rows = list(rows)
            if rows[0]["source"].startswith("made#1"):
                raise OSError(28, "No space left on device")
            return super().write_rows(rows)

    log = tmp_path / "log"
    with monkeypatch.context() as patch:
        patch.setattr(building, "RowWriter", FullDisk)
        with pytest.raises(InputError, match="No space left .* the same command goes on"):
            build_dataset(tmp_path / "data", parts(3, 3, log=str(log)), make_rows, everything_in_train)
    log.unlink()
    built = build_dataset(tmp_path / "data", parts(3, 3, log=str(log)), make_rows, everything_in_train)
    assert built.counts == {"train": 6}
    assert log.read_text().split() == ["1"]


def test_fewer_rows_than_expected_are_an_error(tmp_path):
    with pytest.raises(InputError, match="5 structures arrived of 6"):
        build_dataset(tmp_path / "data", parts(2, 3), make_rows, everything_in_train, expected=6)
    assert not (tmp_path / "data").exists()


def test_rows_go_to_shards_that_load_as_one_split(tmp_path, monkeypatch):
    from modeling_adapt.data.build import writing

    monkeypatch.setattr(writing, "ROWS_PER_SHARD", 4)
    build_dataset(tmp_path / "data", parts(3, 5, 2), make_rows, everything_in_train)
    assert [path.name for path in sorted((tmp_path / "data" / "data").iterdir())] == [
        f"train-0000{shard}-of-00003.parquet" for shard in range(3)
    ]
    energies = read_split(tmp_path / "data", "train")["energy"]
    assert energies == [part + row / 7 for part, rows in enumerate((3, 5, 2)) for row in range(rows)]


def test_killed_with_its_workers_it_goes_on(tmp_path):
    log = tmp_path / "log"
    script = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from test_building import *\n"
        "if __name__ == '__main__':\n"
        "    work = parts(*[4] * 8, log=sys.argv[4], seconds=0.05)\n"
        "    build_dataset(sys.argv[3], work, make_rows, everything_in_train, num_proc=2)\n"
    )
    (tmp_path / "build.py").write_text(script)
    repository = Path(__file__).parents[1]
    command = [sys.executable, tmp_path / "build.py", repository, repository / "tests", tmp_path / "data", log]
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
    while not log.exists() or len(log.read_text().split()) < 4:
        assert first.poll() is None
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)  # its workers are not killed: they must notice
    first.communicate(timeout=60)  # what they share with it is closed when the last of them has ended
    done = len(list((tmp_path / ".data.unfinished").glob("*.parquet")))
    begun = len(log.read_text().split())
    assert 1 <= done < 8
    build_dataset(tmp_path / "data", parts(*[4] * 8, log=str(log), seconds=0.05), make_rows, everything_in_train)
    assert len(log.read_text().split()) - begun == 8 - done
    rows = read_split(tmp_path / "data", "train")
    assert rows["source"] == [f"made#{part}-{row}" for part in range(8) for row in range(4)]


def test_two_runs_do_not_build_the_same_data_set(tmp_path):
    workshop = tmp_path / ".data.unfinished"
    with alone_in(workshop):
        with pytest.raises(InputError, match=rf"another command writes to .*/data now \(process {os.getpid()}\)"):
            build_dataset(tmp_path / "data", parts(1), make_rows, everything_in_train)
    build_dataset(tmp_path / "data", parts(1), make_rows, everything_in_train)


def test_a_damaged_part_is_made_again(tmp_path):
    faulty = parts(2, 2)
    faulty[1]["fault"] = True
    with pytest.raises(InputError, match="damaged"):
        build_dataset(tmp_path / "data", faulty, make_rows, everything_in_train)
    (part,) = (tmp_path / ".data.unfinished").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-100])
    assert build_dataset(tmp_path / "data", parts(2, 2), make_rows, everything_in_train).counts == {"train": 4}


def test_an_output_that_cannot_be_replaced_is_refused_first(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")
    for folder in (tmp_path / "link", Path(".")):
        with pytest.raises(InputError, match="name a new folder"):
            build_dataset(folder, parts(1, fault=True), make_rows, everything_in_train)


def test_a_killed_worker_is_one_line(tmp_path):
    with pytest.raises(InputError, match="a worker was killed.*the same command goes on"):
        build_dataset(tmp_path / "data", parts(1, 1), end_worker, everything_in_train, num_proc=2)


def end_worker(part, notes):
    os.kill(os.getpid(), signal.SIGKILL)
    yield
