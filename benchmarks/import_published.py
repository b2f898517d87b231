"""
Time and memory to import a file in the published format, made for it: Ni and Br in 216-atom silicon, 217 atoms.

    OMP_NUM_THREADS=1 python benchmarks/import_published.py --structures 100000 --num-proc 2
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from ase.build import bulk
from tqdm import trange

from modeling_adapt.cli.command_line import CommandParser, run_command, whole_number
from modeling_adapt.data.options import CELL_EDGE
from modeling_adapt.elements_adapt import descriptors
from modeling_adapt.errors import InputError

FRAMES = 50  # of a trajectory
COMMAND = Path(__file__).parents[1] / "data_scripts" / "import_published.py"


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, "example:\n  python benchmarks/import_published.py --structures 2000")
    parser.add_argument("--structures", type=whole_number(1), default=100_000, help="how many (default %(default)s)")
    parser.add_argument("--num-proc", type=whole_number(1), default=2, help="processes (default %(default)s)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        file, output = Path(folder, "frames.pt"), Path(folder, "dataset")
        write_file(file, arguments.structures)
        print(f"{arguments.structures} structures of 217 atoms, {file.stat().st_size / 1e6:.0f} MB")
        seconds, cpu, memory = measure([file, output, "--num-proc", arguments.num_proc])
        written = sum(pq.read_metadata(path).num_rows for path in output.rglob("*.parquet"))
    print(f"imported: {written} in {seconds:.0f} s with {arguments.num_proc} processes")
    print(f"CPU time: {1000 * cpu / written:.1f} ms per structure")
    print(f"peak memory: {memory / 1e6:.0f} MB, resident, all processes together")


def write_file(path: Path, structures: int) -> None:
    """Trajectories of a substitution and an interstitial at random sites of the vibrating crystal."""
    host = bulk("Si", "diamond", a=CELL_EDGE / 3, cubic=True).repeat(3).positions
    rng = np.random.default_rng(0)
    features, forces = [], []
    for index in trange(structures, desc="making the file", disable=None):
        if index % FRAMES == 0:
            site, place = rng.choice(len(host), 2, replace=False)
            numbers = np.full(len(host) + 1, 14)
            numbers[[site, -1]] = 28, 35
            start = np.vstack([host, host[place] + CELL_EDGE / 6])  # the tetrahedral site beside an atom
        positions = (start + rng.normal(scale=0.08, size=start.shape)) % CELL_EDGE
        weights = rng.uniform(1, 11, (len(numbers), 1))
        matrix = np.hstack([positions, descriptors(numbers), weights])
        features.append(torch.tensor(matrix, dtype=torch.float32))
        forces.append(torch.tensor(rng.normal(scale=0.1, size=start.shape), dtype=torch.float32))
    torch.save({"X": features, "Y": forces}, path)


def measure(arguments: list[object]) -> tuple[float, float, int]:
    """Wall time and CPU time in s and the largest memory in bytes of the command and its workers together."""
    begin = time.perf_counter()
    process = psutil.Popen([sys.executable, str(COMMAND), *map(str, arguments)])
    peak, cpu = 0, {}
    while process.poll() is None:
        memory = 0
        for each in [process, *process.children(recursive=True)]:
            try:
                with each.oneshot():
                    memory += each.memory_info().rss
                    cpu[each.pid] = sum(each.cpu_times()[:2])
            except psutil.Error:  # it has just ended
                continue
        peak = max(peak, memory)
        time.sleep(0.2)
    if process.returncode != 0:
        raise InputError(f"the import ended with status {process.returncode}")
    return time.perf_counter() - begin, sum(cpu.values()), peak


if __name__ == "__main__":
    sys.exit(run_command(main))
