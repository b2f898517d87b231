"""Where a model runs, and how precisely."""

import copy
import ctypes
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import InputError

if TYPE_CHECKING:  # commands offer the dtypes in their --help, which does not wait for torch
    import torch

DTYPES = ("float32", "bfloat16", "float64", "mixed", "auto")
_FASTER, _LARGEST_CHANGE, _TURNS = 1.1, 0.01, 4  # what mixed precision must bring, and may cost, as `auto` measures it
_LEAST_SIZE = 0.1  # eV/Å, of forces by which their change is told: those of a perfect crystal vanish
_LARGEST_CHANGE_OF_ENERGIES = 0.1  # meV/atom: minima are told apart by 10 meV
_COMPILERS = ("g++", "clang++", "c++", "cl")  # for C++; the variable CXX may name another
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
            Of `DTYPES`, for its weights; None leaves them as they are. `"mixed"` leaves them, too, and makes products
            in bfloat16; `"auto"` does so where the first structures show that it pays, see [`MixedPrecision`].
            Coordinates, distances and read-outs stay in float32 or better whatever it is.
        compiled (`bool`, defaults to `False`):
            Let `torch.compile` make kernels for it at its first call, which takes a minute or so.

    Raises:
        [`InputError`]: An unknown dtype, kernels for mixed precision, or for a processor without a compiler.
    """
    import torch

    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"there is no dtype {dtype!r} for models; use {', '.join(DTYPES)}")
    if compiled and dtype in ("mixed", "auto"):
        raise InputError(f"no kernels are made for dtype {dtype!r}; leave out the dtype, or the compiling")
    if compiled:
        require_compiler(device)
    if dtype in ("mixed", "auto"):
        model = copy.deepcopy(model)
        MixedPrecision(True if dtype == "mixed" else None).watch(model)
    elif dtype is not None and any(weight.dtype != getattr(torch, dtype) for weight in model.parameters()):
        model = copy.deepcopy(model).to(getattr(torch, dtype))
    model = model.to(device).eval()
    if compiled:
        model.compile(dynamic=True)
    return model


def require_compiler(device: "torch.device") -> None:
    """Raises [`InputError`] where `torch.compile` cannot make kernels, as a processor's need a compiler."""
    if device.type == "cpu" and not any(map(shutil.which, filter(None, (os.environ.get("CXX"), *_COMPILERS)))):
        raise InputError(
            "no kernels can be compiled, as there is no C++ compiler, such as g++, on the PATH; leave out --compile "
            "(compiled=True, torch_compile)"
        )


class MixedPrecision:
    """
    Has a model make its products in bfloat16, from float32 weights; positions, displacements, radial functions and
    read-outs stay in float32.

    Whether that pays is no matter of names: a processor may have instructions for it and yet spend the time on casts.
    So it can be measured, with what the model is first given: a few calls each way by turns, once for each model and
    device in a process. It must be a tenth faster, and change the answer by less than 1 % of its mean size; a line on
    stderr says what was found.

    Args:
        wanted (`bool`, *optional*): None: as measured.
    """

    _measured: dict[tuple[str, str], bool] = {}

    def __init__(self, wanted: bool | None = None) -> None:
        self.wanted = wanted
        self._running: list[torch.autocast] = []

    def watch(self, model: "torch.nn.Module") -> None:
        """From now on calls of `model` run so."""
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        model.register_forward_hook(self._end, always_call=True)

    def _begin(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        import torch

        if self.wanted is None:
            key = (model.config.to_json_string(), str(model.device))
            if key not in self._measured:
                self._measured[key] = self._pays(model, args, kwargs)
            self.wanted = self._measured[key]
        context = torch.autocast(model.device.type, torch.bfloat16, enabled=self.wanted)
        context.__enter__()
        self._running.append(context)

    def _end(self, model: Any, args: tuple[Any, ...], output: Any) -> None:
        if self._running:
            self._running.pop().__exit__(None, None, None)

    def _pays(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        import torch

        seconds: dict[bool, list[float]] = {False: [], True: []}
        answers = {}
        for _ in range(_TURNS):
            for mixed, times in seconds.items():
                began = time.perf_counter()
                with torch.autocast(model.device.type, torch.bfloat16, enabled=mixed):
                    answers[mixed] = _answer(model.forward(*args, **kwargs), kwargs.get("attention_mask"))
                times.append(time.perf_counter() - began)
        slow, fast = (1000 * min(times[1:]) for times in seconds.values())
        (forces, energies), (mixed_forces, mixed_energies) = answers[False], answers[True]
        of_energies = 1000 * float((mixed_energies - energies).abs().max())
        of_forces = float((mixed_forces - forces).abs().mean()) / max(float(forces.abs().mean()), _LEAST_SIZE)
        pays = slow > _FASTER * fast and of_forces < _LARGEST_CHANGE and of_energies < _LARGEST_CHANGE_OF_ENERGIES
        print(
            f"dtype auto: {type(model).__name__} runs in {'mixed precision' if pays else 'float32'}; a call took "
            f"{slow:.1f} ms in float32 and {fast:.1f} ms in mixed precision, which changes forces by {of_forces:.2%} "
            f"and energies by {of_energies:.2f} meV/atom",
            file=sys.stderr,
        )
        return pays


def _answer(output: Any, attention_mask: Any) -> "tuple[torch.Tensor, torch.Tensor]":
    """Forces, and energies of an atom, on the host, so whatever makes them has finished; zero where there are none."""
    import torch

    nothing = torch.zeros(1, dtype=torch.float64)
    forces, energy = getattr(output, "forces", None), getattr(output, "energy", None)
    if forces is not None:
        forces = (forces if attention_mask is None else forces[attention_mask.bool()]).double().cpu()
    if energy is not None:
        energy = energy.double().cpu() / (1 if attention_mask is None else attention_mask.sum(dim=1).cpu())
    return nothing if forces is None else forces, nothing if energy is None else energy


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
