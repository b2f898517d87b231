"""Files that `torch.save` wrote, in which the published code keeps its weights, statistics and data."""

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .errors import InputError


class StoredTensor(NamedTuple):
    """Where in a file the numbers of a tensor lie; plain values, which another process can be told."""

    offset: int  # bytes
    dtype: str  # numpy's name
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes

    def part(self, number: int) -> "StoredTensor":
        """One part along the first axis."""
        return StoredTensor(self.offset + number * self.strides[0], self.dtype, self.shape[1:], self.strides[1:])


def read_torch_file(path: str | Path) -> Any:
    """What a file holds, on the CPU and mapped into memory where its format allows; nothing in it is executed.

    Raises:
        [`InputError`]: There is no such file, it is damaged, or it holds more than plain tensors, numbers and names.
    """
    return _load(path, "cpu")


def read_torch_layout(path: str | Path) -> Any:
    """Likewise, with tensors that have a shape and no data; [`stored_tensor`] tells where they lie in the file."""
    return _load(path, "meta")


def _load(path: str | Path, device: str) -> Any:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    options: dict[str, Any] = {"map_location": device, "weights_only": True}
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch warns about in foreign files is the error below
            try:
                content = torch.load(path, mmap=True, **options)
            except RuntimeError:  # files older than torch 1.6 cannot be mapped
                content = torch.load(path, **options)
    except Exception as error:  # torch raises UnpicklingError, EOFError, RuntimeError, ...
        raise InputError(f"{path}: truncated, or no torch file of plain tensors") from error
    for tensor in _tensors(content):  # one that repeats a number without end takes no room in a file
        if tensor.numel() * tensor.element_size() > Path(path).stat().st_size:
            raise InputError(f"{path}: a tensor of {tensor.numel():,} numbers, which is more than the file holds")
    return content


def _tensors(content: Any) -> list[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        return [content]
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def stored_tensor(tensor: torch.Tensor, path: str | Path) -> StoredTensor:
    """Where a tensor of [`read_torch_layout`] lies in its file.

    Raises:
        [`InputError`]: The file is in the format of torch before 1.6, or the tensor is no array of plain numbers.
    """
    try:
        storage = tensor.untyped_storage()
        dtype = torch.empty(0, dtype=tensor.dtype).numpy().dtype
    except (NotImplementedError, RuntimeError, TypeError) as error:  # sparse tensors, bfloat16, ...
        raise InputError(f"{path}: tensors of {tensor.dtype} in {tensor.layout} layout cannot be read") from error
    start = getattr(storage, "_checkpoint_offset", None)
    if start is None:
        raise InputError(f"{path}: a torch before 1.6 wrote it; load it and save it again with torch.save")
    size = dtype.itemsize
    strides = tuple(size * stride for stride in tensor.stride())
    return StoredTensor(start + size * tensor.storage_offset(), dtype.str, tuple(tensor.shape), strides)


def read_tensors(path: str | Path, tensors: Iterable[StoredTensor]) -> Iterator[np.ndarray]:
    """Reads some tensors of a file one by one, and nothing else of it.

    Raises:
        [`InputError`]: The file ends before they do.
    """
    data = np.memmap(path, mode="r")
    for offset, dtype, shape, strides in tensors:
        try:
            yield np.ndarray(shape, dtype, data, offset, strides).copy()
        except (TypeError, ValueError) as error:  # beyond its end, or of strides that cannot be
            raise InputError(f"{path}: truncated") from error
