"""
Times forces of a freshly made MACE with 64 scalar channels. Runs in an environment of its own that has mace-torch;
`inference.py --mace-python` calls it. Prints milliseconds per structure, one line per batch size: `BATCH MS`.
"""

import sys
import time

import ase.io
import numpy as np
import torch

torch.serialization.add_safe_globals([slice])  # for the constants that e3nn loads when it is imported

from e3nn import o3  # noqa: E402
from mace import data, modules  # noqa: E402
from mace.tools import AtomicNumberTable, torch_geometric  # noqa: E402


def main(file: str, threads: int, repeats: int, batches: list[int]) -> None:
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    (atoms,) = ase.io.read(file, index=":")
    table = AtomicNumberTable(sorted(set(atoms.numbers.tolist())))
    model = modules.ScaleShiftMACE(
        r_max=5.0,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=len(table),
        hidden_irreps=o3.Irreps("64x0e"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(table)),
        avg_num_neighbors=28.0,
        atomic_numbers=table.zs,
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"parameters {parameters}")
    for count in batches:
        times = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            # The neighbour list is part of the work: a relaxation needs a new one at every step.
            graphs = [
                data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=5.0)
                for _ in range(count)
            ]
            batch = next(iter(torch_geometric.dataloader.DataLoader(graphs, batch_size=count)))
            model(batch.to_dict(), compute_force=True)["forces"].detach()
            times.append(1000 * (time.perf_counter() - began) / count)
        print(f"{count} {np.median(times[1:]):.3f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), [int(count) for count in sys.argv[4:]])
