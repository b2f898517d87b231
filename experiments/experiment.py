"""What an experiment is: models to train, what is measured on them, and what the numbers then say."""

import hashlib
import inspect
import json
import pkgutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from .lab import Lab

Row = Mapping[str, Any]  # heading -> text, number, or None where there is nothing to say
Verdict = Literal["reproduced", "not reproduced", "not comparable", "new here"]
DEFECTS, SMALL_CELLS, KINDS, REAL = "defects", "small-cells", "kinds", "dft"
IONIC, CHARGED = "ionic", "charged"  # of magnesium oxide; files of the user's
GENERATED, GIVEN, DFT = "generated", "given", "DFT"  # as tables call them

# Of every training: the schedule that learns most in a few minutes. The same number of steps whatever the amount of
# data, so that runs differ in one thing only.
_COMMON = {
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 3.0,
    "per_device_train_batch_size": 4,
    "eval_strategy": "no",
    "save_strategy": "no",
    "validation_split": "null",
    "logging_steps": 50,
    "seed": 0,
}
_RATES = {"pairwise-small": 3e-3, "pairwise-energy": 2e-3, "fourier-small": 1e-3, "published-small": 3e-4}
# Processor seconds of a training step per structure of 216 atoms, measured on one core (`benchmarks/compare.py` tells
# the same of other machines).
_SECONDS = {"pairwise-small": 0.075, "pairwise-energy": 0.22, "fourier-small": 0.045, "published-small": 0.2}
# Likewise; where structures differ, or have more neighbours than silicon, of what takes as long.
_ATOMS = {DEFECTS: 216, SMALL_CELLS: 64, KINDS: 216, REAL: 60, IONIC: 300, CHARGED: 130}
STEPS = 600
_WARMUP = 1 / 12  # of the steps
LEARNS_FORCES = {"force_weight": 40.0}  # of a pooled energy, as in the recipe `si-dft-pairwise`


@dataclass(frozen=True)
class Training:
    """
    A model that an experiment needs.

    Args:
        model (`str`): Preset of `configuration/models/`.
        options (`Mapping[str, Any]`, defaults to `{}`): What differs from the others, as options of `train.py`.
        dataset (`str`, defaults to `DEFECTS`):
            One of the names above, or the name of a part of one, such as `"kinds without vacancy"`.
        steps (`int`, defaults to `STEPS`): Of the optimiser, at scale 1.
        cost (`float`, defaults to `1.0`): How much longer a step takes than one of the preset.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = DEFECTS
    steps: int = STEPS
    cost: float = 1.0

    def arguments(self, scale: float) -> dict[str, Any]:
        """All options of `train.py` but the folders."""
        known = {
            "model": self.model,
            "learning_rate": _RATES[self.model],
            "max_steps": max(1, round(self.steps * scale)),
            "warmup_steps": round(_WARMUP * self.steps * scale),
        }
        return _COMMON | known | dict(self.options)

    def seconds(self, scale: float) -> float:
        """Processor time that it is expected to take on one core."""
        arguments = self.arguments(scale)
        passes = arguments["max_steps"] * arguments["per_device_train_batch_size"]
        atoms = _ATOMS[self.dataset.split(" ")[0]]
        return 10 + passes * self.cost * _SECONDS[self.model] * atoms / 216


def without_doubles(trainings: Iterable[Training]) -> list[Training]:
    """Experiments share trainings."""
    return list({short_hash([one.dataset, one.arguments(1)]): one for one in trainings}.values())


def short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()[:12]


def source_hash(*files: str) -> str:
    """Of the code in these files."""
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()[:12]


def training_on(data: str, model: str, options: Mapping[str, Any] | None = None, cost: float = 1.0) -> Training:
    """On ions or one of [`DataSets.kinds`]; of the DFT data, of which there are few, steps take fewer structures."""
    if data.startswith(DFT):
        dataset = REAL + data.removeprefix(DFT)
        return Training(model, {**(options or {}), "per_device_train_batch_size": 2}, dataset, cost=cost)
    return Training(model, options or {}, IONIC if data == IONIC else DEFECTS, cost=cost)


class Experiment(ABC):
    """
    One question to the method, as a command. A class in a file of its own is all that there is to write: the command
    finds it, and until it has been run the page of the results says so.

    Attributes:
        name, title, question (`str`): For the command line, and as heading and first sentence of its section.
        paper (`str`): What the paper (arXiv 2509.24115) reports.
        columns (`Mapping[str, str]`): Heading -> how its numbers are written, a format such as `".1f"`; `""` for text.
        minutes (`float`, defaults to `0.5`): What measuring takes at scale 1 beside the trainings.
        about_silicon (`bool`, defaults to `False`):
            Whether it is about the generated silicon and its potential, and not about any data.
        about_charges (`bool`, defaults to `False`): Whether it is about the files of `--charged`, and nothing else.
        also_measured_on (`Sequence[str]`, defaults to `()`): Data sets beside those that its models are trained on.
        source (`str`): Hash of the file that it stands in, and so of all that it is told there.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    paper: ClassVar[str]
    columns: ClassVar[Mapping[str, str]]
    minutes: ClassVar[float] = 0.5
    about_silicon: ClassVar[bool] = False
    about_charges: ClassVar[bool] = False
    also_measured_on: ClassVar[Sequence[str]] = ()
    source: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # When it is imported: a file that is edited during a run is not what measured.
        cls.source = source_hash(inspect.getfile(cls))

    @abstractmethod
    def trainings(self, lab: "Lab") -> Iterator[Training]:
        """The models that [`measure`] asks for."""

    @abstractmethod
    def measure(self, lab: "Lab") -> list[dict[str, Any]]:
        """The table, with the headings of `columns`."""

    @abstractmethod
    def draw(self, rows: Sequence[Row], path: Path) -> None:
        """The figure, from the table alone."""

    @abstractmethod
    def reading(self, rows: Sequence[Row]) -> str:
        """A paragraph made from the numbers of the table."""

    @abstractmethod
    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        """Whether the numbers bear out what the paper reports, and why one may say so."""


def all_experiments() -> dict[str, Experiment]:
    """By name: every [`Experiment`] in a file of this folder, so that a new one is its file and nothing else."""
    names = [one.name for one in pkgutil.iter_modules(sys.modules[__package__].__path__) if one.name != "__main__"]
    modules = [import_module(f"{__package__}.{name}") for name in names]
    here = [kind for module in modules for kind in vars(module).values() if _is_declared_in(kind, module)]
    return {kind.name: kind() for kind in sorted(here, key=lambda kind: kind.name)}


def _is_declared_in(kind: Any, module: ModuleType) -> bool:
    is_class = inspect.isclass(kind) and not inspect.isabstract(kind)
    return is_class and issubclass(kind, Experiment) and kind.__module__ == module.__name__
