"""Where a model runs."""

from typing import TypeVar

import torch
from torch import nn

from .errors import InputError

Model = TypeVar("Model", bound=nn.Module)


def available_device(name: str | None = None) -> torch.device:
    """The device called `name`; without a name a GPU where there is one. [`InputError`] where it does not exist."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        probe = torch.zeros(1, device=name)
        probe.cpu()  # fails on "meta", which exists but computes nothing
        return probe.device
    except (RuntimeError, AssertionError):  # torch raises the latter where it was built without that device
        raise InputError(f"there is no device {name!r} here; use cpu, cuda or cuda:0") from None


def on_device(model: Model, device: torch.device) -> Model:
    """`model`, moved to `device` and in evaluation mode."""
    return model.to(device).eval()
