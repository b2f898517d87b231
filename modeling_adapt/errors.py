"""The one exception for input that the user can put right."""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError


class InputError(ValueError):
    """Bad input: one clear line that names the file, row or atom and the remedy. Commands print it and exit with 2."""


@contextmanager
def about(name: str) -> Iterator[None]:
    """Within it errors name what they are about, such as a structure."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def no_such(name: str, known: Iterable[str], kind: str = "") -> str:
    """The line for a name that there is not, which tells the nearest of those that there are; `kind` as in "key"."""
    nearest = difflib.get_close_matches(name, sorted(map(str, known)), n=1, cutoff=0.0)
    what = f"{kind} '{name}'" if kind else f"'{name}'"
    return f"there is no {what}" + (f"; did you mean '{nearest[0]}'?" if nearest else "")


def one_line(error: Exception) -> str:
    """What an error of a library says: its first line; the last of a strict configuration, which has the reason."""
    lines = str(error).splitlines() or [type(error).__name__]
    return re.sub(r"^\s*\w+Error: ", "", lines[-1]) if isinstance(error, StrictDataclassError) else lines[0]
