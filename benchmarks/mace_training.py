"""
Trains a MACE of about 50,000 parameters for a given processor time and predicts energies and forces. Runs in an
environment of its own that has mace-torch; `compare_mace.py` calls it.

Settings are those of `mace_run_train` (AMSGrad, rate 0.01, average of the weights 0.99, forces weighted 100 times),
with a cosine over the given time in place of its plateau schedule, which would not come to an end in it.
"""

import math
import sys
import time
from collections.abc import Sequence

import ase.io
import numpy as np
import torch

torch.serialization.add_safe_globals([slice])  # for the constants that e3nn loads when it is imported

from e3nn import o3  # noqa: E402
from mace import data, modules  # noqa: E402
from mace.tools import AtomicNumberTable, torch_geometric  # noqa: E402

CUTOFF = 5.0  # Å
BATCH_SIZE, RATE, DECAY, CHANNELS = 5, 0.01, 0.99, 32


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


def graphs(structures, table):
    key = data.KeySpecification(info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces"})
    configs = [data.config_from_atoms(atoms, key_specification=key) for atoms in structures]
    items = [data.AtomicData.from_config(config, z_table=table, cutoff=CUTOFF) for config in configs]
    return next(iter(torch_geometric.dataloader.DataLoader(items, batch_size=len(items)))).to_dict()


def main(train_file: str, test_file: str, output: str, seconds: float, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    train, test = ase.io.read(train_file, index=":"), ase.io.read(test_file, index=":")
    table = AtomicNumberTable(sorted({int(number) for atoms in train for number in atoms.numbers}))
    counts = np.array([[int((atoms.numbers == number).sum()) for number in table.zs] for atoms in train])
    energies = np.array([atoms.info["REF_energy"] for atoms in train])
    references, *_ = np.linalg.lstsq(counts, energies, rcond=None)
    probe = graphs(train[:20], table)
    neighbors = probe["edge_index"].shape[1] / probe["positions"].shape[0]
    force_scale = float(np.sqrt(np.mean([np.mean(atoms.arrays["REF_forces"] ** 2) for atoms in train])))
    model = scalar_mace(table.zs, CHANNELS, references, neighbors, force_scale)
    print(f"parameters {sum(weight.numel() for weight in model.parameters())}", flush=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, amsgrad=True)
    average = [weight.detach().clone() for weight in model.parameters()]
    rng, seen = np.random.default_rng(0), 0
    order: list[int] = []
    began = time.process_time()
    while (elapsed := time.process_time() - began) < seconds:
        if len(order) < BATCH_SIZE:
            order = rng.permutation(len(train)).tolist()
        batch, order = graphs([train[index] for index in order[:BATCH_SIZE]], table), order[BATCH_SIZE:]
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * elapsed / seconds))
        predicted = model(batch, training=True, compute_force=True)
        atoms = (batch["ptr"][1:] - batch["ptr"][:-1]).to(batch["energy"].dtype)
        energy = (((predicted["energy"] - batch["energy"]) / atoms) ** 2).mean()
        loss = energy + 100 * ((predicted["forces"] - batch["forces"]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(average, model.parameters(), strict=True):
                mean.lerp_(weight, 1 - DECAY)
        seen += BATCH_SIZE
        if seen % 500 == 0:
            print(f"{seen} structures {elapsed:.0f} s loss {loss.item():.4f}", file=sys.stderr, flush=True)
    with torch.no_grad():
        for mean, weight in zip(average, model.parameters(), strict=True):
            weight.copy_(mean)
    print(f"structures {seen}", flush=True)
    found = [model(graphs(test[start : start + 10], table), compute_force=True) for start in range(0, len(test), 10)]
    energies, forces = (torch.cat([one[name] for one in found]).detach().numpy() for name in ("energy", "forces"))
    np.savez(output, energy=energies, forces=forces)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5]))
