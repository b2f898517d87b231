"""
Times forces of a freshly made MACE with 64 scalar channels. Runs in an environment of its own that has mace-torch;
`inference.py --mace-python` calls it. Prints milliseconds per structure, one line per batch size: `BATCH MS`.
"""

import sys
import time

import ase.io
import numpy as np
import torch
from mace_model import CUTOFF, scalar_mace  # before mace, which it makes importable

from mace import data  # isort: skip
from mace.tools import AtomicNumberTable, torch_geometric  # isort: skip


def main(file: str, threads: int, repeats: int, batches: list[int]) -> None:
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    (atoms,) = ase.io.read(file, index=":")
    table = AtomicNumberTable(sorted(set(atoms.numbers.tolist())))
    model = scalar_mace(table.zs, 64, np.zeros(len(table)))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"parameters {parameters}")
    for count in batches:
        times = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            # The neighbour list is part of the work: a relaxation needs a new one at every step.
            graphs = [
                data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=CUTOFF)
                for _ in range(count)
            ]
            batch = next(iter(torch_geometric.dataloader.DataLoader(graphs, batch_size=count)))
            model(batch.to_dict(), compute_force=True)["forces"].detach()
            times.append(1000 * (time.perf_counter() - began) / count)
        print(f"{count} {np.median(times[1:]):.3f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), [int(count) for count in sys.argv[4:]])
