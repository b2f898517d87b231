"""Commands of this repository, each in a process of its own, which ends when the run of the experiments does."""

import os
import subprocess
import sys
from pathlib import Path

from modeling_adapt.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
_running: set[subprocess.Popen[str]] = set()


def run_python(*arguments: str, threads: int | None = None) -> str:
    """
    Runs Python with these arguments in the current folder.

    Args:
        arguments: a script by its path in the repository, or an option such as `-m`, and what follows.
        threads (*optional*): how many the process may use.

    Returns:
        What it printed.

    Raises:
        [`InputError`]: it failed; its last line says why.
    """
    script, *rest = arguments
    command = [sys.executable, script if script.startswith("-") else str(ROOT / script), *rest]
    environment = os.environ if threads is None else os.environ | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        _running.add(process)
        try:
            printed, errors = process.communicate()
        finally:
            _running.discard(process)
    if process.returncode:
        reason = (errors.strip().splitlines() or ["failed"])[-1].removeprefix("error: ")
        raise InputError(f"{' '.join(arguments[:2])}: {reason}")
    return printed


def end_all() -> None:
    """Ends what runs, of all threads."""
    for process in list(_running):
        process.terminate()
