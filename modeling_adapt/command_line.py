"""What every command shares: how it fails, and how it treats its output folder."""

import sys
from collections.abc import Callable
from pathlib import Path

import datasets
from transformers.utils import logging

from .errors import InputError


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
    """Returns `folder` as a path; raises [`InputError`] if it is a file or a folder that holds anything."""
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file; name a new folder for the output")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} exists and is not empty; name a new folder or remove it")
    return folder
