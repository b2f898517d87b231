"""
Files and folders that exist as a whole or not at all, and whether they can be written, asked before the work; and YAML
that a user writes.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from .errors import InputError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


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


def read_yaml(path: str | Path) -> dict[Any, Any]:
    """The mapping in a YAML file; raises [`InputError`] if it cannot be read, is no YAML, or holds something else."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must be a mapping of keys to values")
    return content


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """
    Makes `folder` where it is missing, and keeps a second command from writing into it while the block lasts. The
    system takes note of that, not a file, so one that was killed keeps nobody out.

    Raises:
        [`InputError`]: Another command is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:  # not on Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another command writes to {folder} now; let it end, or name another folder") from None
        except OSError:
            pass  # some file systems of clusters have no locks
        yield
    finally:
        os.close(descriptor)


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
