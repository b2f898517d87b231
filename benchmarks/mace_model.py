"""A small MACE with scalar channels, as both benchmarks beside it use it; needs mace-torch."""

from collections.abc import Sequence

import numpy as np
import torch

torch.serialization.add_safe_globals([slice])  # for the constants that e3nn loads when it is imported

from e3nn import o3  # noqa: E402
from mace import modules  # noqa: E402

CUTOFF = 5.0  # Å


def scalar_mace(
    atomic_numbers: Sequence[int],
    channels: int,
    atomic_energies: np.ndarray,
    avg_num_neighbors: float = 28.0,
    force_scale: float = 1.0,
) -> torch.nn.Module:
    """
    Args:
        atomic_numbers (`Sequence[int]`): Of the elements.
        atomic_energies (`np.ndarray`): Their reference energies in eV.
        channels (`int`): 64 have 112,272 parameters, 32 with two elements 54,384.
        avg_num_neighbors (`float`, defaults to `28.0`): Within the cutoff.
        force_scale (`float`, defaults to `1.0`): Root mean square of the forces in eV/Å.
    """
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=len(atomic_numbers),
        hidden_irreps=o3.Irreps(f"{channels}x0e"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=atomic_energies,
        avg_num_neighbors=avg_num_neighbors,
        atomic_numbers=list(atomic_numbers),
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=force_scale,
        atomic_inter_shift=0.0,
    )
