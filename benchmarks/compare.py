"""
Forces and training steps of this repository beside the published layer stack, MACE, SevenNet-0 and CHGNet, in one
table; or two commits of this repository beside each other.

    python benchmarks/compare.py
    python benchmarks/compare.py --commits main .

Each contestant is a process of its own, in the environment that has it: `make rivals` builds those of the others. All
take turns, case by case and round by round, so that other work on the machine disturbs all alike, and medians count.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from modeling_adapt.cli.command_line import (
    CommandParser,
    number_not_negative,
    positive_number,
    run_command,
    whole_number,
)
from modeling_adapt.errors import InputError
from modeling_adapt.tables import format_table

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("contestant.py")
STACK = "published stack"
OURS = ("published-small", "fourier-small", "pairwise-small", "pairwise-energy", "adapt-si")
MODES = ("published-small:bfloat16", "pairwise-small:bfloat16", "pairwise-energy:bfloat16")
ENVIRONMENTS = {"MACE 64x0e": ".venv-mace-torch", "SevenNet-0": ".venv-sevenn", "CHGNet": ".venv-chgnet"}
CONTESTANTS = (STACK, *OURS, *MODES, "adapt-si, calculator", *ENVIRONMENTS)


class Case(NamedTuple):
    """What is asked of a contestant; of a training step, `batch` structures at once."""

    work: str
    atoms: int
    batch: int


BATCHES = (1, 16, 64)
LARGE = tuple(Case("forces", atoms, 1) for atoms in (1000, 2000, 4000, 10_000))
STEPS = (Case("training", 64, 2), Case("training", 217, 16))


@dataclass
class Contestant:
    """A process that answers cases, and its answers by case; one that a case would take too long has none there."""

    name: str
    process: subprocess.Popen[str]
    errors: Any
    answers: dict[Case, list[dict[str, Any]]] = field(default_factory=dict)
    longest: float = 0.0  # of the last answer: seconds an atom, of the processor

    def ask(self, case: Case) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(case._asdict()) + "\n")
        self.process.stdin.flush()
        if answer := json.loads(self.said("{")):
            self.answers.setdefault(case, []).append(answer)
            self.longest = answer["processor"] / (case.atoms * case.batch)
            said = f"{self.name}, {case.work}, {case.atoms} atoms, batch {case.batch}: {answer['processor']:.4f} s"
            tqdm.write(said, file=sys.stderr)  # an interruption leaves what was measured

    def said(self, start: str) -> str:
        """The next line that begins so; what libraries say of themselves is passed over."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line
        self.errors.seek(0)
        last = (self.errors.read().strip().splitlines() or ["it ended without a word"])[-1]
        raise InputError(f"{self.name} failed: {last}")

    def median(self, case: Case, key: str) -> float:
        return float(np.median([answer[key] for answer in self.answers[case][1:]]))


def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(
        __doc__, "example:\n  python benchmarks/compare.py --only pairwise-small CHGNet --repeats 3"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(CONTESTANTS)}, or NAME:compiled")
    parser.add_argument("--commits", nargs=2, metavar="COMMIT", help="compare these two; . is the tree as it is")
    parser.add_argument("--tolerance", type=number_not_negative, default=0.1, help="of slower commits (default 0.1)")
    parser.add_argument("--atoms", type=whole_number(1), default=10_000, help="in structures at most (default 10000)")
    parser.add_argument(
        "--longest", type=positive_number, default=6.0, help="seconds that a call may take (default 6)"
    )
    parser.add_argument("--batches", nargs="+", type=whole_number(1), default=BATCHES, help="of 217 atoms each")
    parser.add_argument("--threads", type=whole_number(1), default=1, help="of each (default %(default)s)")
    parser.add_argument("--repeats", type=whole_number(1), default=5, help="rounds (default %(default)s)")
    arguments = parser.parse_args(argv)
    usual = [Case("forces", 217, batch) for batch in arguments.batches]
    cases = [case for case in (*usual, *LARGE, *STEPS) if case.atoms <= arguments.atoms]
    with contextlib.ExitStack() as stack:
        if arguments.commits:
            names = arguments.only or OURS
            trees = [stack.enter_context(tree_of(commit)) for commit in arguments.commits]
            sides = [[stack.enter_context(started(n, arguments.threads, tree)) for n in names] for tree in trees]
            take_turns([one for pair in zip(*sides, strict=True) for one in pair], cases, arguments)
            return told_of_commits(sides[0], sides[1], cases, arguments)
        names = [name for name in arguments.only or CONTESTANTS if installed(name)]
        contestants = [stack.enter_context(started(name, arguments.threads)) for name in names]
        take_turns(contestants, cases, arguments)
        print(table_of(contestants, cases))
        print(
            f"{arguments.threads} threads each, medians of {arguments.repeats} rounds in turns; memory over the model"
        )
        print(f"times as fast: as the {STACK}, or the first; by the time of the processor, median of the ratios")
        print(growth(contestants))
    return 0


def installed(name: str) -> bool:
    if (environment := ENVIRONMENTS.get(name)) is None or (ROOT / environment / ".ready").exists():
        return True
    print(f"{name} is left out: there is no {environment}, which `make rivals` builds", file=sys.stderr)
    return False


@contextlib.contextmanager
def started(name: str, threads: int, tree: Path = ROOT) -> Iterator[Contestant]:
    """A contestant that has loaded what it needs, with the library that lies in `tree`."""
    python = ROOT / ENVIRONMENTS[name] / "bin" / "python" if name in ENVIRONMENTS else sys.executable
    base, _, mode = name.partition(":")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(tree)}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [str(python), str(WORKER), base, mode or "float32", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=tree,
            env=environment,
        )
        try:
            contestant = Contestant(name, process, errors)
            contestant.said("ready")
            yield contestant
        finally:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit, for as long as it is wanted."""
    if commit == ".":
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def git(*words: str) -> None:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"git {words[0]} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")


def take_turns(contestants: Sequence[Contestant], cases: Sequence[Case], arguments: Any) -> None:
    """The first round, from small to large, fills caches; its time does not count, its memory does."""
    for number in tqdm(range(arguments.repeats + 1), "rounds", disable=None):
        for case in cases:
            for one in contestants:
                known = case in one.answers
                if known if number else one.longest * case.atoms * case.batch < arguments.longest:
                    one.ask(case)


def table_of(contestants: Sequence[Contestant], cases: Sequence[Case]) -> str:
    rows = [row_of(one, case, contestants[0]) for case in cases for one in contestants if case in one.answers]
    header = ("contestant", "work", "atoms", "batch", "wall (ms)", "processor (ms)", "times as fast", "MB", "of sgemm")
    return format_table(header, rows)


def row_of(one: Contestant, case: Case, first: Contestant) -> tuple[str, ...]:
    """Times are of one structure."""
    wall, processor = (1000 * one.median(case, key) / case.batch for key in ("wall", "processor"))
    faster = f"{ratio(first, one, case):.2f}" if case in first.answers else "-"
    operations = one.answers[case][0]["operations"]
    share = operations and operations / one.median(case, "processor") / one.median(case, "rate")
    memory = f"{one.answers[case][0]['mb']:.0f}"
    numbers = (f"{wall:.1f}", f"{processor:.1f}", faster, memory, f"{share:.0%}" if share else "-")
    return one.name, case.work, str(case.atoms), str(case.batch), *numbers


def ratio(first: Contestant, second: Contestant, case: Case) -> float:
    """How many times the processor time of `second` the first one takes, the median over the rounds."""
    pairs = zip(first.answers[case][1:], second.answers[case][1:], strict=True)
    return float(np.median([one["processor"] / other["processor"] for one, other in pairs]))


def growth(contestants: Sequence[Contestant]) -> str:
    """Powers of the number of atoms with which time and memory of one structure grow from 1,000 atoms on."""
    lines = []
    for one in contestants:
        if len(known := [case for case in LARGE if case in one.answers]) > 1:
            atoms = np.log([case.atoms for case in known])
            values = [[one.median(case, "processor"), max(one.answers[case][0]["mb"], 1.0)] for case in known]
            time, memory = np.polyfit(atoms, np.log(values), 1)[0]
            lines.append(f"{one.name}: from 1,000 atoms on time grows as n^{time:.2f}, memory as n^{memory:.2f}")
    return "\n".join(lines)


def told_of_commits(
    before: Sequence[Contestant], after: Sequence[Contestant], cases: Sequence[Case], arguments: Any
) -> int:
    """Prints the table of two commits; 1 where the second is slower than the tolerance allows."""
    rows, slower = [], []
    for case in cases:
        for one, other in zip(before, after, strict=True):
            if case in one.answers and case in other.answers:
                times = [f"{1000 * side.median(case, 'processor') / case.batch:.2f}" for side in (one, other)]
                factor = ratio(one, other, case)
                slower += [one.name] if factor * (1 + arguments.tolerance) < 1 else []
                rows.append((one.name, *map(str, case), *times, f"{factor:.2f}", difference(one, other, case)))
    first, second = arguments.commits
    header = ("contestant", "work", "atoms", "batch", f"{first} (ms)", f"{second} (ms)", "times as fast", "difference")
    print(format_table(header, rows))
    print(
        f"processor time of a structure, {arguments.threads} threads, medians of {arguments.repeats} rounds in turns"
    )
    print("difference: the largest of a force component, as a share of the largest force")
    if slower:
        print(f"slower by more than {arguments.tolerance:.0%}: {', '.join(dict.fromkeys(slower))}")
    return int(bool(slower))


def difference(one: Contestant, other: Contestant, case: Case) -> str:
    first, second = (side.answers[case][0]["forces"] for side in (one, other))
    if first is None or second is None:
        return "-"
    return f"{np.abs(np.subtract(first, second)).max() / np.abs(first).max():.0e}"


if __name__ == "__main__":
    sys.exit(run_command(main))
