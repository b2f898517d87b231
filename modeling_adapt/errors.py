"""The one exception for input that the user can put right."""

import re

from huggingface_hub.errors import StrictDataclassError


class InputError(ValueError):
    """Bad input: one clear line that names the file, row or atom and the remedy. Commands print it and exit with 2."""


def one_line(error: Exception) -> str:
    """What an error of a library says: its first line; the last of a strict configuration, which has the reason."""
    lines = str(error).splitlines() or [type(error).__name__]
    return re.sub(r"^\s*\w+Error: ", "", lines[-1]) if isinstance(error, StrictDataclassError) else lines[0]
