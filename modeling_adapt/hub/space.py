"""
The Space that is published: the page, and the package it runs on as source, as what `requirements.txt` names is
installed before the files of a Space are there.
"""

import re
import tomllib
from pathlib import Path

from ..errors import InputError
from ..pretrained_adapt import DEFAULT_MODEL
from .repository import CARD

_PACKAGE = Path(__file__).parents[1]
_CHECKOUT = _PACKAGE.parent
_PAGE = ("app.py", CARD)
_REQUIREMENTS = "requirements.txt"
_OF_PACKAGE = ("**/*.py", "templates/*", "configuration/models/*.json", "configuration/*/*.yaml")
_CPU = "--extra-index-url https://download.pytorch.org/whl/cpu"  # where torch is a tenth of the size


def stage_space(target: Path) -> dict[str, Path]:
    """
    Name in the repository -> file; what is written anew goes into `target`.

    Raises:
        [`InputError`]: The package is not used from a checkout, which alone has the page.
    """
    page = _CHECKOUT / "space"
    if not all((page / name).is_file() for name in _PAGE):
        raise InputError("--space publishes the page of a checkout of the repository: run hub_upload.py there")
    target.mkdir(parents=True)
    (target / _REQUIREMENTS).write_text(requirements(), encoding="utf-8")
    files = {name: page / name for name in _PAGE} | {_REQUIREMENTS: target / _REQUIREMENTS}
    return files | {f"{_PACKAGE.name}/{name}": path for name, path in _package().items()}


def requirements() -> str:
    """Text of requirements.txt: what the package needs, of torch the build for processors."""
    project = tomllib.loads((_CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return "\n".join([_CPU, *project["dependencies"]]) + "\n"


def is_of_space(name: str) -> bool:
    """Whether a file in a Space is one that an upload writes, and may take away again."""
    return name in (*_PAGE, _REQUIREMENTS) or re.match(rf"{_PACKAGE.name}/", name) is not None


def _package() -> dict[str, Path]:
    """As it would be installed, with no other model than the one in the box."""
    patterns = (*_OF_PACKAGE, f"pretrained/{DEFAULT_MODEL}/*")
    paths = {path for pattern in patterns for path in _PACKAGE.glob(pattern) if path.is_file()}
    # Folders that are links, which the pattern for code does not follow.
    paths |= {path for path in (_PACKAGE / "configuration").glob("*.py")}
    return {path.relative_to(_PACKAGE).as_posix(): path for path in sorted(paths)}


__all__ = ["is_of_space", "requirements", "stage_space"]
