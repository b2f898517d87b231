"""
Structures/s of the batch loader beside what training consumes, on a data set made for it: silicon with one or two
defect sites, 217 atoms, and a second one of mixed sizes; and for how much of its time a training loop waits for it.

    OMP_NUM_THREADS=1 python benchmarks/loader.py
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from ase.build import bulk
from torch.utils.data import DataLoader, RandomSampler
from tqdm import tqdm

from modeling_adapt.cli.command_line import CommandParser, run_command, whole_number
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.load.augmentation import augmentation_steps
from modeling_adapt.data.load.batching import StructureCollator, StructureDataset
from modeling_adapt.data.load.importance import ImportanceWeighting
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.structures import structure_row
from modeling_adapt.feature_extraction_adapt import ADAPTFeatureExtractor
from modeling_adapt.loading import HEADS
from modeling_adapt.tables import format_table
from modeling_adapt.training.arguments import preset_config
from modeling_adapt.training.preparation import fit_statistics_of
from modeling_adapt.training.trainer import EpochSampler

BATCH_SIZE = 64
RIGID = ["rotation", "inversion", "translation"]


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, "example:\n  python benchmarks/loader.py --structures 500 --repeats 3")
    parser.add_argument("--structures", type=whole_number(1), default=2000, help="in each data set (default 2000)")
    parser.add_argument("--repeats", type=whole_number(1), default=7, help="passes; medians are shown (default 7)")
    parser.add_argument("--step-batch", type=whole_number(1), default=8, help="batch of a training step (default 8)")
    arguments = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        splits = {
            "equal": list(tqdm(defects(arguments.structures, [3]), "equal sizes", arguments.structures, disable=None)),
            "mixed": list(tqdm(defects(arguments.structures, [2, 3]), "mixed", arguments.structures, disable=None)),
        }
        write_dataset(splits, Path(folder) / "set")
        equal, mixed = (read_split(Path(folder) / "set", split) for split in splits)
        print(loader_table(equal, mixed, arguments.repeats))
        print()
        print(training_table(equal, arguments.step_batch, arguments.repeats))
        print()
        print(waiting_table(equal.select(range(min(128, len(equal)))), arguments.step_batch))


def defects(count: int, repeats: list[int]) -> Iterator[dict[str, Any]]:
    """Rows of rattled silicon with an interstitial and, every second time, a second site; `repeats` of the cube."""
    rng = np.random.default_rng(0)
    for index in range(count):
        atoms = bulk("Si", a=5.43, cubic=True) * repeats[index % len(repeats)]
        interstitial, second = np.array([2.715, 2.715, 2.715]), atoms.positions[5].copy()
        atoms.append("Si")
        atoms.positions[-1] = interstitial
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
        sites = [interstitial, second][: 1 + index % 2]
        forces = rng.normal(size=atoms.positions.shape)
        yield structure_row(atoms, forces, -5.0 * len(atoms), defect_sites=sites, source=f"made#{index}")


def loader_table(equal: datasets.Dataset, mixed: datasets.Dataset, repeats: int) -> str:
    weighting = ImportanceWeighting()
    octahedral = augmentation_steps(["octahedral", "translation"])
    plain, weighted = StructureDataset(equal), StructureDataset(equal, weighting)
    turned = StructureDataset(equal, weighting, octahedral)
    moved = StructureDataset(equal, weighting, augmentation_steps(RIGID))
    ragged = StructureDataset(mixed, weighting)
    cases: list[tuple[str, StructureDataset, dict[str, Any]]] = [
        ("no weights", plain, {}),
        ("importance weights", weighted, {}),
        ("importance weights, 2 workers", weighted, {"num_workers": 2}),
        ("octahedral + translation", turned, {}),
        ("octahedral + translation, 2 workers", turned, {"num_workers": 2}),
        (" + ".join(RIGID), moved, {}),
        ("mixed sizes, random", ragged, {}),
        ("mixed sizes, grouped", ragged, {"sampler": EpochSampler(ragged, "group_by_length", 0, BATCH_SIZE)}),
    ]
    rows = []
    for name, structures, options in cases:
        sampler = options.pop("sampler", None) or RandomSampler(structures)
        loader = DataLoader(
            structures, BATCH_SIZE, sampler=sampler, collate_fn=StructureCollator(ADAPTFeatureExtractor()), **options
        )
        atoms = slots = 0
        for batch in loader:  # warms the cache
            atoms, slots = atoms + int(batch["attention_mask"].sum()), slots + batch["attention_mask"].numel()
        wall, processor = median_seconds(lambda loader=loader: sum(1 for _ in loader), repeats)  # type: ignore[misc]
        per_processor = "" if options else f"{len(structures) / processor:,.0f}"
        rows.append((name, f"{len(structures) / wall:,.0f}", per_processor, f"{1 - atoms / slots:.1%}"))
    return format_table((f"loader, batches of {BATCH_SIZE}", "structures/s", "per CPU second", "padding"), rows)


def training_table(rows: datasets.Dataset, batch_size: int, repeats: int) -> str:
    structures = StructureDataset(rows, ImportanceWeighting())
    table = []
    for preset in ("published-small", "pairwise-small"):
        config = preset_config(preset)
        fit_statistics_of(config, rows)
        collator = StructureCollator(ADAPTFeatureExtractor.for_model(config))
        batch = collator(structures.__getitems__(range(min(batch_size, len(rows)))))
        batch = {name: value for name, value in batch.items() if name not in ("nearest_defect", "rows")}
        model = HEADS[config.model_type](config).train()
        optimizer = torch.optim.AdamW(model.parameters())

        def step(
            model: torch.nn.Module = model,
            optimizer: torch.optim.Optimizer = optimizer,
            batch: dict[str, torch.Tensor] = batch,
        ) -> None:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        step()
        wall, processor = median_seconds(step, repeats)
        size = len(batch["labels"])
        table.append((preset, f"{size / wall:,.1f}", f"{size / processor:,.1f}"))
    return format_table((f"training step, batch of {batch_size}", "structures/s", "per CPU second"), table)


def waiting_table(rows: datasets.Dataset, batch_size: int) -> str:
    """Of training loops over the rows, without workers."""
    table = []
    for preset in ("published-small", "pairwise-small"):
        config = preset_config(preset)
        structures = StructureDataset(rows, ImportanceWeighting(), cutoff=config.cutoff)
        collator = StructureCollator(ADAPTFeatureExtractor.for_model(config))
        model = HEADS[config.model_type](config).train()
        optimizer = torch.optim.AdamW(model.parameters())
        waited, began = [], time.perf_counter()
        asked = began
        for batch in DataLoader(structures, batch_size, shuffle=True, collate_fn=collator):
            waited.append(time.perf_counter() - asked)
            model(
                **{name: value for name, value in batch.items() if name not in ("nearest_defect", "rows")}
            ).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            asked = time.perf_counter()
        share = sum(waited) / (time.perf_counter() - began)
        table.append((preset, f"{1 - share:.2%}", f"{1000 * float(np.median(waited)):.1f}"))
    return format_table((f"training loop, batches of {batch_size}", "time spent computing", "wait (ms)"), table)


def median_seconds(work: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median wall and processor time of `work`; the second is steadier where other programs run."""
    times = []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - wall, time.process_time() - processor))
    wall, processor = np.median(times, axis=0)
    return float(wall), float(processor)


if __name__ == "__main__":
    sys.exit(run_command(main))
