"""Where a model runs, and how precisely."""

import copy
from typing import TYPE_CHECKING, TypeVar

from .errors import InputError

if TYPE_CHECKING:  # commands offer the dtypes in their --help, which does not wait for torch
    import torch

DTYPES = ("float32", "bfloat16", "float64")
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
