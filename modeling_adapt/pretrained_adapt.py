"""The models that come with the package, which have a name and need no path."""

from pathlib import Path
from typing import Any

DEFAULT_MODEL = "adapt-si"  # what commands, the calculator and the pipeline use where no model is named


def in_the_box(name: Any) -> Any:
    """
    The folder of a model that comes with the package, for its bare name; every other name as it is. A folder of that
    name is meant by its path (`./adapt-si` or a `Path`), a repository with its organisation.
    """
    if isinstance(name, Path):  # transformers makes text of it
        return name if in_the_box(str(name)) == str(name) else name.absolute()
    if not isinstance(name, str):
        return name
    # This file stands in the package, and in its folder `configuration` once more; in a checkpoint there is no box.
    for home in Path(__file__).parents[:2]:
        folder = home / "pretrained" / name
        if Path(name).name == name and (folder / "config.json").is_file():
            return str(folder)
    return name


__all__ = ["DEFAULT_MODEL", "in_the_box"]
