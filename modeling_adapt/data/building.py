"""
Builds a data set in parts: bounded memory, many processes, and a killed run goes on where it was.

A part is what one call makes: a file, a range of structures, a range of trajectories. Each becomes one parquet file in
a hidden folder beside the output, named by a fingerprint of what it was made from, so a part is never mistaken for
another one. When all are there, their rows are divided into splits and written as the data set.
"""

import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from ..command_line import finished_folder, require_empty_folder
from ..errors import InputError
from .grouping import RowKey
from .structures import STRUCTURE_FEATURES
from .subsets import train_subsets
from .writing import RowWriter, write_shards

_NOTES = b"adapt_notes"  # key of the metadata of a part's parquet file

Notes = dict[str, Any]
MakePart = Callable[[Any, Notes], Iterable[dict[str, Any]]]


@dataclass(frozen=True)
class Built:
    """What came out: rows by split, and the notes of the parts in order."""

    counts: dict[str, int]
    notes: list[Notes]


def build_dataset(
    folder: str | Path,
    parts: Iterable[Any],
    make: MakePart,
    assign: Callable[[list[RowKey]], dict[str, list[int]]],
    *,
    plan: Any = None,
    limit: int | None = None,
    expected: int | None = None,
    num_proc: int = 1,
    description: str = "building",
    finish: Callable[[Path, list[Notes]], None] | None = None,
) -> Built:
    """
    Makes all parts that are not there yet, and the data set of their rows in the order of the parts.

    The result does not depend on `num_proc`, nor on how often the run was interrupted.

    Args:
        folder: must not exist or be empty; appears when everything is done.
        parts: descriptions of the parts, plain values that JSON can write; may be endless where there is a `limit`.
        make: `make(part, notes)` yields the rows of a part, as [`structure_row`] returns them, and may leave
            JSON values in the dictionary `notes`. A function of a module (or a `partial` of one) that gives the same
            rows each time; with several processes it runs in fresh ones.
        assign: from the keys of all rows to the row numbers of each split.
        plan: whatever else decides the content of a part, such as options; plain values.
        limit: number of rows wanted; no part is made beyond them, and rows beyond them are dropped.
        expected: number of rows that there must be in the end.
        num_proc: processes.
        description: what the progress bar says.
        finish: called with the unfinished folder and the notes when the data are written, for a card.

    Raises:
        InputError: if `folder` is not empty, `make` raises one, no row came out, or not as many as `expected`.
            Finished parts stay, and the same command goes on from them.
    """
    folder = require_empty_folder(folder)
    workshop = _workshop(folder)
    workshop.mkdir(parents=True, exist_ok=True)
    try:
        total = limit if limit is not None else expected
        with tqdm(total=total, unit="structure", desc=description, disable=None) as bar:
            made = _make_parts(workshop, parts, make, plan, limit, num_proc, bar)
        paths, counts, notes = (
            [path for path, *_ in made],
            [count for _, count, _ in made],
            [note for *_, note in made],
        )
        rows = sum(counts) if limit is None else min(limit, sum(counts))
        if rows == 0:
            raise InputError(f"no structures to write to {folder}")
        if expected is not None and rows != expected:
            raise InputError(f"{folder}: {rows} structures arrived of {expected}; nothing is written")
        keys = list(islice(_keys(paths), rows))
        splits = assign(keys)
        with finished_folder(folder) as unfinished:
            by_split = write_shards(paths, splits, train_subsets(keys, splits), unfinished)
            if sum(by_split.values()) != rows:
                raise InputError(f"{folder}: {sum(by_split.values())} structures were written of {rows}")
            if finish is not None:
                finish(unfinished, notes)
        _clear(workshop, everything=True)
    except OSError as error:
        raise InputError(f"{folder}: {error}; finished parts are kept, and the same command goes on") from error
    finally:
        _clear(workshop, everything=False)
    return Built(by_split, notes)


def _workshop(folder: Path) -> Path:
    """Where the parts of `folder` are kept until it is finished."""
    absolute = folder.absolute()
    return absolute.parent / f".{absolute.name}.unfinished"


def _clear(workshop: Path, everything: bool) -> None:
    """Removes what no later run can use: half parts, an empty workshop, or all of it."""
    if not workshop.is_dir():
        return
    for path in workshop.iterdir():
        if everything or path.suffix != ".parquet":
            path.unlink(missing_ok=True)
    if not any(workshop.iterdir()):
        workshop.rmdir()


def _make_parts(
    workshop: Path,
    parts: Iterable[Any],
    make: MakePart,
    plan: Any,
    limit: int | None,
    num_proc: int,
    bar: tqdm,
) -> list[tuple[Path, int, Notes]]:
    """Path, number of rows and notes of every part needed, in order."""
    made: list[tuple[Path, int, Notes]] = []
    rows = 0
    with _workers(num_proc) as submit:
        waiting: list[Future] = []
        remaining = iter(parts)
        ahead = 1 if num_proc == 1 else num_proc + 1
        while limit is None or rows < limit:
            # One part more than there are workers keeps them busy; an endless list must not be run through.
            for part in islice(remaining, ahead - len(waiting)):
                waiting.append(submit(partial(_make_part, workshop / _file_name(plan, part), make, part)))
            if not waiting:
                break
            path, count, notes = waiting.pop(0).result()
            made.append((path, count, notes))
            bar.update(count if limit is None else min(count, limit - rows))
            rows += count
    return made


def _file_name(plan: Any, part: Any) -> str:
    content = json.dumps([plan, part, STRUCTURE_FEATURES.to_dict()], sort_keys=True)
    return f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.parquet"


def _make_part(path: Path, make: MakePart, part: Any) -> tuple[Path, int, Notes]:
    """Makes the part unless it is there; the file takes its name when it is complete."""
    if not path.exists():
        notes: Notes = {}
        with NamedTemporaryFile(dir=path.parent, suffix=".half", delete=False) as half:
            temporary = Path(half.name)
        try:
            with RowWriter(temporary) as writer:
                writer.write(make(part, notes))
                writer.note(_NOTES, json.dumps(notes))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    metadata = pq.read_metadata(path)
    return path, metadata.num_rows, json.loads((metadata.metadata or {}).get(_NOTES, b"{}"))


@contextmanager
def _workers(num_proc: int) -> Iterator[Callable[[Callable[[], Any]], Future]]:
    """A function that runs calls in `num_proc` other processes, or here and now where one is enough."""
    if num_proc == 1:
        yield _run_here
        return
    # Fresh processes: a fork would copy the threads' locks of torch and Arrow in whatever state they are.
    pool = ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        yield pool.submit
    finally:
        pool.shutdown(cancel_futures=True)


def _run_here(call: Callable[[], Any]) -> Future:
    future: Future = Future()
    future.set_result(call())
    return future


def _end_with_parent() -> None:
    """Workers of a killed command must not linger."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _keys(paths: list[Path]) -> Iterator[RowKey]:
    """What decides the split of each row, without reading the structures."""
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(columns=["trajectory", "config_type", "forces"]):
            has_forces = batch.column("forces").is_valid().to_pylist()
            trajectories, kinds = batch.column("trajectory").to_pylist(), batch.column("config_type").to_pylist()
            yield from map(RowKey, trajectories, kinds, has_forces)
