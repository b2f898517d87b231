"""Whether a name means a folder of this machine or a repository of the Hub."""

import re
from pathlib import Path

HUB_DATASETS = "hf://datasets/"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_local(name: str | Path) -> bool:
    """Whether `name` is a path: it exists, its parent does, or it does not look like `organisation/name`.

    A misspelled folder is then an error that says so, instead of a question to the network. `hf://datasets/...` is
    never a path.
    """
    if str(name).startswith(HUB_DATASETS):
        return False
    path = Path(name).expanduser()
    return path.exists() or path.parent.is_dir() or not _HUB_ID.fullmatch(str(name))
