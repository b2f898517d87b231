"""
Files and folders that exist as a whole or not at all, and whether they can be written, asked before the work; and YAML
that a user writes.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from .errors import InputError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_HALF = ".half-"  # what the name of a file begins with while it is written
_LONGEST_NAME = 180  # bytes of that of a data set, which `datasets` makes longer ones of
_LONGEST = 240  # bytes of a name, of which most systems allow 255


def require_empty_folder(folder: str | Path) -> Path:
    """Returns `folder` as a path; raises [`InputError`] if something is there already, or it cannot be made.

    Commands ask first and write last: hours of work must not end at a folder that could never be written.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file; name a new folder for the output")
    if folder.is_dir() and any(not path.name.startswith(_HALF) for path in folder.iterdir()):
        _remove_unfinished(folder)
        raise InputError(f"{folder} exists and is not empty; name a new folder or remove it")
    return require_writable(folder)


def require_plain_path(folder: Path) -> Path:
    """Returns `folder`; raises [`InputError`] if `datasets` would take its path for a pattern, or cannot write it."""
    whole, name = str(folder.expanduser().absolute()), os.fsencode(folder.name)
    if found := re.search(r"[*?\[\]]", whole):
        raise InputError(
            f"{folder}: the path of a data set has no {found.group()}, which stands for a pattern; rename it"
        )
    if len(name) > _LONGEST_NAME or not name.isascii() and readable_name(folder.name) != folder.name:
        raise InputError(f"{folder}: the name of a data set is UTF-8 of at most {_LONGEST_NAME} bytes; rename it")
    return folder


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


def is_full_disk(error: BaseException) -> bool:
    """Whether it says that a file system has no space left; the writer of safetensors has only words for it."""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return True
    return any(f"(os error {number})" in str(error) for number in _NO_SPACE)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; the file takes its name when the block ends without an error.

    A kill or a full disk leaves the old file or the new one, never half of it.
    """
    path = Path(path)
    # A longer name ends as it did, which tells writers the format.
    unfinished = path.with_name(_HALF + os.fsdecode(os.fsencode(path.name)[-_LONGEST:]))
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
    """Writes a text file as [`whole_file`] does, with its line ends as they are; names that are no text, escaped."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def readable_name(name: str) -> str:
    """The name of a file as text; one of bytes that are no UTF-8 as Latin-1, which it most likely is."""
    try:
        return os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        return os.fsencode(name).decode("latin-1")


def read_yaml(path: str | Path) -> dict[Any, Any]:
    """The mapping in a YAML file; raises [`InputError`] if it cannot be read, is no YAML, or holds something else."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must be a mapping of keys to values")
    return content


@contextmanager
def alone_in(folder: Path, named: Path | None = None) -> Iterator[None]:
    """
    Makes `folder` where it is missing, and keeps a second command from writing into it while the block lasts; files
    that a killed one had begun are removed. The system takes note of that, not a file, so one that was killed keeps
    nobody out.

    Args:
        named (`Path`, *optional*): What the error calls the folder.

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
            taken = not folder.is_dir() or not os.path.samestat(os.fstat(descriptor), os.stat(folder))
        except BlockingIOError:
            taken = True
        except OSError:
            taken = False  # some file systems of clusters have no locks
        if taken:
            who = _holder(descriptor)
            raise InputError(
                f"another command writes to {named or folder} now{who}; let it end, or name another folder"
            )
        for path in folder.glob(f"{_HALF}*"):
            path.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """The process that has locked a file, where the system tells (proc_locks(5))."""
    with suppress(OSError, ValueError, IndexError):
        inode = str(os.fstat(descriptor).st_ino)
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode and int(words[4]) > 0:
                return f" (process {words[4]})"
    return ""


def unfinished_folder(folder: Path) -> Path:
    """Where what becomes `folder` is made, beside it; one name, so that a command finds what a killed one left."""
    absolute = folder.absolute()
    return absolute.with_name(f".{os.fsdecode(os.fsencode(absolute.name)[:_LONGEST])}.unfinished")


def _remove_unfinished(folder: Path) -> None:
    """Of a command that was killed after it had finished `folder`, and before it had tidied up."""
    unfinished = unfinished_folder(folder)
    if unfinished.is_dir():
        with suppress(InputError, OSError), alone_in(unfinished):
            shutil.rmtree(unfinished)


@contextmanager
def finished_folder(folder: str | Path) -> Iterator[Path]:
    """A new folder to write into, beside `folder`, whose name it takes when the block ends without an error.

    So half a result is never mistaken for one, and an error leaves nothing behind; nor does a kill, once the same
    command is given again. Of two that write the same folder the second ends with an error at its beginning.

    Raises:
        [`InputError`]: There is something in `folder`, another command makes it, or no space is left for it.
    """
    folder = require_replaceable(require_empty_folder(folder))
    unfinished = unfinished_folder(folder)
    with alone_in(unfinished, folder):
        require_empty_folder(folder)  # which another one may have finished just now
        for path in unfinished.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        try:
            yield unfinished
            for path in folder.glob(f"{_HALF}*"):
                path.unlink()
            os.replace(unfinished, folder)
        except Exception as error:  # the writers of libraries have their own types
            if not is_full_disk(error):
                raise
            raise InputError(f"no space is left for {folder}: make room, or name another folder") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
