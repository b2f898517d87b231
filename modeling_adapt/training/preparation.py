"""What a run fits before it trains: statistics, reference energies and the trained domain, from the training split."""

from collections.abc import Mapping

import datasets
import numpy as np

from ..configuration_adapt import ADAPTConfig, ADAPTEnergyConfig
from ..crystal.trained_region import fit_domain
from ..data.columns import flat_values, list_lengths
from ..data.load.augmentation import require_cubic_cells
from ..data.load.statistics import DatasetStatistics, fit_statistics
from ..elements_adapt import SYMBOLS
from ..errors import InputError
from ..reference_energies import CompositionBaseline, compositions_and_energies
from .arguments import RunArguments
from .tasks import target_of


def prepare_config(config: ADAPTConfig, run: RunArguments, rows: Mapping[str, datasets.Dataset]) -> None:
    """
    Fills in what `config` takes from the training split. A run that goes on from a checkpoint keeps its statistics
    unless `refit_statistics`. The domain is always that of the new split, and what belongs to the labels of an energy
    model is too: the reference energies, as energies of another potential or functional are off by eV per atom, and
    the scale of the forces, which such a model only has to weigh its loss.

    Raises:
        [`InputError`]: the splits and the run do not fit together.
    """
    train_rows = rows["train"]
    _require_fitting(config, run, train_rows)
    if run.initial_model is None or run.refit_statistics:
        fit_statistics_of(config, train_rows)
    elif isinstance(config, ADAPTEnergyConfig) and config.element_energies is not None:
        fit_reference_energies(config, train_rows)
        _fit_force_scale(config, fit_statistics(train_rows))
    if isinstance(config, ADAPTEnergyConfig):
        for split, table in rows.items():
            _require_readable(config, table, f"the {split} split")
    local = config.geometry == "pairwise" and getattr(config, "architecture", "pooled") == "pooled"
    # Every augmentation moves the crystal about, so no frame is left that the model knows.
    domain = fit_domain(train_rows, local=local, reads_coordinates=not local and not run.augmentation)
    config.training_domain = domain.to_dict()


def fit_statistics_of(config: ADAPTConfig, train_rows: datasets.Dataset) -> None:
    """Fills in the normalisation statistics of `config` from the training split."""
    statistics = fit_statistics(train_rows)
    config.feature_mean = statistics.feature_mean
    # A column that never varies, such as a descriptor in data of one element, has no scale; 1 keeps it at zero.
    config.feature_std = [std if std > 1e-9 else 1.0 for std in statistics.feature_std]
    _fit_force_scale(config, statistics)
    if isinstance(config, ADAPTEnergyConfig):
        config.energy_std = fit_reference_energies(config, train_rows)


def _fit_force_scale(config: ADAPTConfig, statistics: DatasetStatistics) -> None:
    config.force_mean, config.force_std = statistics.force_mean, statistics.force_std
    if config.geometry == "pairwise" and statistics.force_std:  # one scale for all directions keeps them equivalent
        scale = np.sqrt(np.mean(np.square(np.array(statistics.force_std))))
        config.force_mean, config.force_std = [0.0] * 3, [float(scale)] * 3


def fit_reference_energies(config: ADAPTEnergyConfig, train_rows: datasets.Dataset) -> float:
    """
    Fits one energy per element by least squares, which is all that the composition tells, and the mean of what is left
    over: per atom for a sum of atomic energies, per structure for the published network.

    Returns:
        Standard deviation of what is left over in eV.
    """
    counts, energies = compositions_and_energies(train_rows)
    baseline = CompositionBaseline.fit(counts, energies)
    config.element_energies = baseline.element_energies()
    left_over = energies - baseline.predict(counts)
    if config.architecture == "pooled":
        left_over = left_over / counts.sum(axis=1)
    config.energy_mean = float(np.mean(left_over))
    return float(np.std(left_over))


def _require_fitting(config: ADAPTConfig, run: RunArguments, train_rows: datasets.Dataset) -> None:
    if "octahedral" in run.augmentation:
        require_cubic_cells(train_rows)
    if "rotation" in run.augmentation and config.geometry == "fourier":
        raise InputError("augmentation: rotation turns the forces, but fractional coordinates stay; use octahedral")
    table = train_rows.select_columns(["defect_sites", "importance_weights"]).with_format("arrow")[:]
    if target_of(config) == "forces" and config.force_loss != "mse":
        if not any(list_lengths(table, name).any() for name in table.column_names):
            raise InputError(
                f"force_loss: {config.force_loss} weighs atoms by their distance to a defect, but no structure of the "
                "training split has a defect site; use force_loss: mse, or import the data with --host"
            )


def _require_readable(config: ADAPTEnergyConfig, rows: datasets.Dataset, where: str) -> None:
    """An energy model takes only so many atoms and the elements that it has seen; better said now than after hours."""
    table = rows.select_columns(["atomic_numbers"]).with_format("arrow")[:]
    largest = int(list_lengths(table, "atomic_numbers").max())
    if config.architecture == "mlp" and largest > config.max_atoms:
        raise InputError(
            f"{where} has a structure of {largest} atoms, but this energy model takes at most {config.max_atoms}; "
            "raise max_atoms"
        )
    known = config.element_energies or {}
    for number in np.unique(flat_values(table, "atomic_numbers")):
        if known and SYMBOLS[number] not in known:
            raise InputError(
                f"{where} has {SYMBOLS[number]}, of which the training split has none: there is no reference energy"
            )
