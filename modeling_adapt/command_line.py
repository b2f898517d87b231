"""What every command shares: how it reads its options, how it fails, and how it treats its output folder."""

import argparse
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import datasets
from transformers.utils import logging

from .errors import InputError


class CommandParser(argparse.ArgumentParser):
    """An argument parser that keeps the lines of its example, and whose errors are the one line of every bad input."""

    def __init__(self, description: str | None, example: str, prog: str | None = None) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, epilog=example, formatter_class=layout)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def whole_number(least: int) -> Callable[[str], int]:
    """The type of an option: a whole number of at least `least`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return value

    return read


def positive_number(text: str) -> float:
    """The type of an option: a finite number above zero."""
    value = _finite(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def number_not_negative(text: str) -> float:
    """The type of an option: a finite number of at least zero."""
    value = _finite(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def _finite(text: str) -> float:
    """The number that `text` says; NaN, which no comparison accepts, where it says none or an infinite one."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def run_command(main: Callable[[], int | None]) -> int:
    """Runs `main` and turns what a user can cause into one line on stderr.

    Returns:
        `int`: exit status; what `main` returned (None = 0), 2 for bad input, 130 when interrupted.
    """
    # Loading weights and opening data sets take no time worth a bar, and bars would break up one-line errors.
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        return main() or 0
    except (InputError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def require_empty_folder(folder: str | Path) -> Path:
    """Returns `folder` as a path; raises [`InputError`] if something is there already, or it cannot be made.

    Commands ask first and write last: hours of work must not end at a folder that could never be written.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file; name a new folder for the output")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} exists and is not empty; name a new folder or remove it")
    return require_writable(folder)


def require_writable(folder: Path) -> Path:
    """Returns `folder`; raises [`InputError`] if it is not there and cannot be made, or you may not write into it."""
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written: {nearest} is no folder that you may write to")
    return folder


def require_replaceable(folder: Path) -> Path:
    """Returns `folder`; raises [`InputError`] if no finished folder could take its place."""
    if folder.is_symlink() or os.path.ismount(folder) or (folder.exists() and folder.samefile(Path.cwd())):
        raise InputError(f"{folder} is a link, a mount point or the current folder; name a new folder in it")
    return folder


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; the file takes its name when the block ends without an error.

    A kill or a full disk leaves the old file or the new one, never half of it.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        if error.filename is None:  # as where a disk is full
            raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: str | Path, text: str) -> None:
    """Writes a text file as [`whole_file`] does, with its line ends as they are."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


@contextmanager
def finished_folder(folder: str | Path) -> Iterator[Path]:
    """A new folder to write into, beside `folder`, whose name it takes when the block ends without an error.

    So half a result is never mistaken for one, and an error leaves nothing behind.
    """
    folder = require_replaceable(require_empty_folder(folder))
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)  # mkdtemp makes private folders
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
