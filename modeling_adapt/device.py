"""Where a model runs, and how precisely."""

import copy
import ctypes
import os
from typing import TYPE_CHECKING, TypeVar

from .errors import InputError

if TYPE_CHECKING:  # commands offer the dtypes in their --help, which does not wait for torch
    import torch

DTYPES = ("float32", "bfloat16", "float64")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
Model = TypeVar("Model", bound="torch.nn.Module")


def available_device(name: str | None = None) -> "torch.device":
    """The device called `name`; without a name a GPU where there is one. [`InputError`] where it does not exist."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        probe = torch.zeros(1, device=name)
        probe.cpu()  # fails on "meta", which exists but computes nothing
        return probe.device
    except (RuntimeError, AssertionError):  # torch raises the latter where it was built without that device
        raise InputError(f"there is no device {name!r} here; use cpu, cuda or cuda:0") from None


def on_device(model: Model, device: "torch.device", dtype: str | None = None, compiled: bool = False) -> Model:
    """
    `model`, moved to `device` and in evaluation mode; a copy of it where its `dtype` changes, as others may use it.

    Args:
        dtype (`str`, *optional*):
            Of `DTYPES`, for its weights; None leaves them as they are. Coordinates and distances stay in float32 or
            better whatever it is.
        compiled (`bool`, defaults to `False`):
            Let `torch.compile` make kernels for it at its first call, which takes a minute or so.

    Raises:
        [`InputError`]: An unknown dtype.
    """
    import torch

    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"there is no dtype {dtype!r} for models; use {', '.join(DTYPES)}")
    if dtype is not None and any(weight.dtype != getattr(torch, dtype) for weight in model.parameters()):
        model = copy.deepcopy(model).to(getattr(torch, dtype))
    model = model.to(device).eval()
    if compiled:
        model.compile(dynamic=True)
    return model


def keep_freed_memory() -> None:
    """
    For commands that compute, which ask for the same large pieces of memory at each step. The C library of Linux gives
    pieces from some size on back to the system as soon as they are free, and has each page of the next one filled with
    zeros: a tenth of the time of a force call at 216 atoms. Here it keeps them, up to 1 GiB. Nothing happens where the
    C library has no such setting, or where a variable MALLOC_... says what it should do.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    ):
        return
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no C library by that name, as on Windows, or another one
        return
    set_option(_M_MMAP_THRESHOLD, 32 * 2**20)  # the most that it takes
    set_option(_M_TRIM_THRESHOLD, 2**30)
