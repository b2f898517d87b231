"""Files that `torch.save` wrote, in which the published code keeps its weights, statistics and data."""

import warnings
from pathlib import Path
from typing import Any

import torch

from .errors import InputError


def read_torch_file(path: str | Path) -> Any:
    """What a file holds, on the CPU and mapped into memory where its format allows; nothing in it is executed.

    Raises:
        [`InputError`]: there is no such file, it is damaged, or it holds more than plain tensors, numbers and names.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch warns about in foreign files is the error below
            try:
                return torch.load(path, mmap=True, **options)
            except RuntimeError:  # files older than torch 1.6 cannot be mapped
                return torch.load(path, **options)
    except Exception as error:  # torch raises UnpicklingError, EOFError, RuntimeError, ...
        raise InputError(f"{path}: truncated, or no torch file of plain tensors") from error
