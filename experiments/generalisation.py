"""What becomes of a kind of structure that the training has never seen?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modeling_adapt.errors import InputError

from .experiment import KINDS, Experiment, Row, Training, Verdict
from .lab import Lab
from .shared import BY_CHANCE, MAE, bars, chance

KIND, COUNT, ZERO = "left out", "structures", "zero force"
SEEN, UNSEEN, FACTOR = "MAE when seen", "MAE when left out", "factor"
LEFT_OUT = {
    "di_interstitial": "clusters of interstitials",
    "vacancy": "another kind of defect",
    "surface": "slabs with free surfaces",
    "bulk_thermal": "hot crystal without a defect",
}


class Generalisation(Experiment):
    name = "generalisation"
    title = "Kinds of structures that are not in the training"
    question = "How large are the errors on a kind of structure that was left out of the training?"
    paper = "whether a model generalises to defects that it has not seen is an open question"
    columns = {KIND: "", COUNT: "d", ZERO: ".1f", SEEN: ".1f", UNSEEN: ".1f", FACTOR: ".1f"}

    def trainings(self, lab: Lab) -> Iterator[Training]:
        yield Training("pairwise-small", dataset=KINDS)
        yield from (Training("pairwise-small", dataset=f"{KINDS} without {kind}") for kind in LEFT_OUT)

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        rows = []
        everything = lab.errors(Training("pairwise-small", dataset=KINDS))["by_config_type"]
        for kind, what in LEFT_OUT.items():
            if kind not in everything:  # of a small set, none is among the unseen ones
                continue
            # On the same structures: those that the training with all kinds has not seen either.
            without = lab.errors(Training("pairwise-small", dataset=f"{KINDS} without {kind}"), KINDS)
            seen, unseen = (
                groups[kind]["force_mae_mev_per_ang"] for groups in (everything, without["by_config_type"])
            )
            zero, count = (everything[kind][name] for name in ("zero_force_mae_mev_per_ang", "num_structures"))
            cells = {SEEN: seen, UNSEEN: unseen, FACTOR: unseen / seen}
            rows.append({KIND: f"{kind} ({what})", COUNT: count, ZERO: zero, **cells})
        if not rows:
            raise InputError(f"{self.name}: none of {', '.join(LEFT_OUT)} is among the unseen; take a larger --scale")
        return rows

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        groups = {
            f"{row[KIND]}, n = {row[COUNT]}": {"when seen": row[SEEN], "when left out": row[UNSEEN]} for row in rows
        }
        bars(groups, path, MAE, ".1f", chance, f"n: structures that it is measured on; {BY_CHANCE}")

    def reading(self, rows: Sequence[Row]) -> str:
        parts = ", ".join(f"{row[KIND]} {row[SEEN]:.1f} and {row[UNSEEN]:.1f}" for row in rows)
        worst = max(rows, key=lambda row: row[FACTOR])
        share = worst[UNSEEN] / worst[ZERO]
        return (
            f"Force MAE in meV/Å of kinds that are in the training and that were left out of it: {parts}. The hardest "
            f"to do without is {worst[KIND]}, whose error is {worst[FACTOR]:.1f} times as large, {100 * share:.0f} % "
            f"of predicting zero. Errors of a kind are on {_range([row[COUNT] for row in rows])} structures, eight of "
            "a trajectory: of few defects."
        )

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        near = [row for row in rows if row[FACTOR] < 2]
        return "new here", f"for {len(near)} of {len(rows)} kinds the error less than doubles when they are left out"


def _range(counts: Sequence[int]) -> str:
    return f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0])
