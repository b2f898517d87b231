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
import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ...errors import InputError
from ...files import alone_in, require_empty_folder, require_replaceable, unfinished_folder
from ..columns import open_rows
from ..split.splitting import Division
from ..structures import STRUCTURE_FEATURES
from .summary import DatasetSummary
from .writing import KEY_COLUMNS, Divide, RowWriter, rows_of_files, sources_and_keys, write_divided

_NOTES = b"adapt_notes"  # key of the metadata of a part's parquet file

Notes = dict[str, Any]
MakePart = Callable[[Any, Notes], Iterable[dict[str, Any]]]
Revise = Callable[[list[Path], list[Notes], Division], tuple[Division, Callable[[pa.Table], pa.Table]]]


@dataclass(frozen=True)
class Built:
    """What came out: rows by split, what the data set holds, and the notes of the parts in order."""

    counts: dict[str, int]
    summary: DatasetSummary
    notes: list[Notes]


def build_dataset(
    folder: str | Path,
    parts: Iterable[Any],
    make: MakePart,
    divide: Divide,
    *,
    revise: Revise | None = None,
    plan: Any = None,
    provenance: Callable[[list[Notes]], Mapping[str, Any]] = lambda notes: {},
    limit: int | None = None,
    expected: int | None = None,
    num_proc: int = 1,
    description: str = "building",
) -> Built:
    """
    Makes all parts that are not there yet, and the data set of their rows in the order of the parts, with its card.

    The result does not depend on `num_proc`, nor on how often the run was interrupted.

    Args:
        folder (`str` or `Path`): Must not exist or be empty; appears when everything is done.
        parts (`Iterable[Any]`):
            Descriptions of the parts, plain values that JSON can write; may be endless where there is a `limit`.
        make (`MakePart`):
            `make(part, notes)` yields the rows of a part, as [`structure_row`] returns them, and may leave JSON values
            in the dictionary `notes`. A function of a module (or a `partial` of one) that gives the same rows each
            time; with several processes it runs in fresh ones.
        divide (`Divide`): Says in which split each row goes, such as [`divide_rows`].
        revise (`Revise`, *optional*):
            Gets the files of the parts, their notes and the division, when all parts are there. Gives a division that
            may lack rows, which are then left out, and what becomes of each table before it is written.
        plan (`Any`, *optional*):
            Whatever else decides the content of a part, such as options and the state of files; plain values.
        provenance (`Callable[[list[Notes]], Mapping[str, Any]]`, *optional*):
            What the card says of where the data come from, given the notes of all parts.
        limit (`int`, *optional*):
            Number of rows wanted; no part is made beyond them, and rows beyond them are dropped.
        expected (`int`, *optional*): Number of rows that there must be in the end.
        num_proc (`int`, defaults to `1`): Processes.
        description (`str`, defaults to `"building"`): What the progress bar says.

    Raises:
        [`InputError`]: `folder` is not empty or in use, `make` raises one, no row came out, or not as many as
            `expected`, a disk is full or a worker was killed. Finished parts stay, and the same command goes on.
    """
    folder = require_empty_folder(folder)
    with _workshop(folder) as workshop:
        total = limit if limit is not None else expected
        with tqdm(total=total, unit="structure", desc=description, disable=None) as bar:
            made = _make_parts(workshop, parts, make, plan, limit, num_proc, bar)
        paths, notes = [path for path, _, _ in made], [note for _, _, note in made]
        rows = sum(count for _, count, _ in made)
        rows = rows if limit is None else min(limit, rows)
        if rows == 0:
            reason = next((f": {line}" for note in notes for line in note.get("skipped", ())), "")
            raise InputError(f"no structures to write to {folder}{reason}")
        if expected is not None and rows != expected:
            raise InputError(f"{folder}: {rows} structures arrived of {expected}; nothing is written")
        batches = (batch for path in paths for batch in open_rows(path).iter_batches(columns=KEY_COLUMNS))
        sources, keys = sources_and_keys(batches)
        sources, keys = sources[:rows], keys[:rows]
        division, change = (revise or _as_it_is)(paths, notes, divide(sources, keys))
        rows = rows if revise is None else sum(map(len, division[0].values()))
        unfinished = workshop / "dataset"
        unfinished.mkdir()
        counts, summary = write_divided(
            unfinished,
            sources,
            keys,
            lambda *_: division,
            lambda wanted: map(change, rows_of_files(paths, wanted)),
            provenance(notes),
            name=folder.name,
        )
        if sum(counts.values()) != rows:
            raise InputError(f"{folder}: {sum(counts.values())} structures were written of {rows}")
        os.replace(unfinished, folder)
        for path in workshop.glob("*.parquet"):
            path.unlink()
    return Built(counts, summary, notes)


def _as_it_is(
    paths: list[Path], notes: list[Notes], division: Division
) -> tuple[Division, Callable[[pa.Table], pa.Table]]:
    return division, lambda table: table


@contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """Where the parts of `folder` are kept until it is finished; for one run at a time.

    What no later run can use (half a part, half a data set) is removed, and all of it when no part is left.
    """
    workshop = unfinished_folder(require_replaceable(folder))
    with alone_in(workshop, folder):
        require_empty_folder(folder)  # which another run may have finished just now
        _tidy(workshop)  # after a run that was killed
        try:
            yield workshop
        except (OSError, BrokenExecutor) as error:
            reason = "a worker was killed, perhaps for memory" if isinstance(error, BrokenExecutor) else error
            raise InputError(f"{folder}: {reason}; finished parts are kept, and the same command goes on") from error
        finally:
            _tidy(workshop)
            if not any(workshop.glob("*.parquet")):
                shutil.rmtree(workshop)


def _tidy(workshop: Path) -> None:
    shutil.rmtree(workshop / "dataset", ignore_errors=True)
    for half in workshop.glob("*.half"):
        half.unlink(missing_ok=True)


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
        waiting: deque[Future] = deque()
        remaining = iter(parts)
        busy = 1 if num_proc == 1 else num_proc + 1  # one part more than workers, so that none has to wait
        most = busy if limit is not None else sys.maxsize  # parts beyond the limit would be made for nothing
        while limit is None or rows < limit:
            unfinished = [future for future in waiting if not future.done()]
            for part in islice(remaining, min(busy - len(unfinished), most - len(waiting))):
                file = workshop / _file_name(plan, make, part)
                waiting.append(submit(partial(_make_part, file, make, part)))
            if not waiting:
                break
            if not waiting[0].done() and unfinished:
                wait(unfinished, return_when=FIRST_COMPLETED)
                continue
            path, count, notes = waiting.popleft().result()
            made.append((path, count, notes))
            bar.update(count if limit is None else min(count, limit - rows))
            rows += count
    return made


def _file_name(plan: Any, make: MakePart, part: Any) -> str:
    function = make.func if isinstance(make, partial) else make
    content = json.dumps([plan, function.__qualname__, part, STRUCTURE_FEATURES.to_dict()], sort_keys=True)
    return f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.parquet"


def _make_part(path: Path, make: MakePart, part: Any) -> tuple[Path, int, Notes]:
    """Makes the part unless it is there; the file takes its name when it is complete."""
    if (found := _finished(path)) is not None:
        return found
    notes: Notes = {}
    with NamedTemporaryFile(dir=path.parent, suffix=".half", delete=False) as half:
        temporary = Path(half.name)
    try:
        with RowWriter(temporary) as writer:
            count = writer.write_rows(make(part, notes))
            writer.add_key_value_metadata({_NOTES: json.dumps(notes).encode()})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path, count, notes


def _finished(path: Path) -> tuple[Path, int, Notes] | None:
    """What an earlier run made; None if there is nothing, or a file that a power failure left damaged."""
    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return None
    return path, metadata.num_rows, json.loads((metadata.metadata or {})[_NOTES])


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
