"""What physics demands of a model, as far as it was measured: a small error on a test split does not show it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..evaluation.physical_checks import CHECKS
from ..tables import markdown_table

PHYSICAL_CHECKS = "physical_checks"  # in metrics.json
_OTHERWISE = {
    "net_force_per_atom_mev_per_ang": "the whole crystal is pushed, from nowhere",
    "bulk_atom_force_mev_per_ang": "the crystal around a defect is pushed, and relaxing it does not end",
    "perfect_crystal_force_mev_per_ang": "the crystal without a defect does not stay as it is",
    "octahedral_error_mev_per_ang": "a defect relaxes along x in another way than along y or z",
    "rotation_error_mev_per_ang": "forces depend on how the crystal lies in space",
    "translation_error_mev_per_ang": "forces depend on where in the cell a defect is",
    "permutation_error_mev_per_ang": "forces depend on the order of the atoms in a file",
    "supercell_error_mev_per_ang": "forces depend on how large a cell the same crystal is written in",
    "jacobian_asymmetry": "the forces have no energy: no molecular dynamics, no line search",
    "energy_gradient_mae_mev_per_ang": "the energy model says little about what the force model relaxes",
    "scan_jump_mev_per_ang": "forces jump while atoms move a little, where no optimiser settles",
}
_NET_FORCE = "net_force_per_atom_mev_per_ang"
# What stands in where no evaluation measured it: (name in training_metrics.json, name above, what it is).
_OF_TRAINING = (
    ("eval_octahedral_error", "octahedral_error_mev_per_ang", "the symmetries of the cube"),
    ("eval_rotation_error", "rotation_error_mev_per_ang", "random rotations"),
)


def checks_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What a card shows of the checks in a metrics.json; what could not be measured is absent or null there."""
    found = metrics.get(PHYSICAL_CHECKS) or {}
    return {name: found[name] for name in CHECKS if found.get(name) is not None}


def physical_checks(
    metrics: Mapping[str, Any], training_metrics: Mapping[str, Any], example: Mapping[str, Any], of_forces: bool
) -> list[str]:
    """
    Args:
        metrics, training_metrics, example: what these files hold; the first one goes before the others.
        of_forces: whether the model learned forces; the training measures one that did not by its energies.

    Returns:
        A table with an introduction, or nothing where nothing was measured.
    """
    checks = checks_of(metrics)
    scale = "RMS force component" if of_forces else "composition-only error"
    rows = [
        (CHECKS[name][0], _shown(value, name), CHECKS[name][1], _OTHERWISE.get(name, ""))
        for name, value in checks.items()
    ]
    rows += [
        (
            f"RMS deviation under {what}, in training",
            f"{training_metrics[name]:.1e} of the {scale}",
            "0",
            _OTHERWISE[same] if of_forces else "",
        )
        for name, same, what in _OF_TRAINING
        if name in training_metrics and same not in checks
    ]
    if "forces" in example and _NET_FORCE not in checks:
        net = np.abs(np.sum(example["forces"], axis=0)).max()
        rows.append(("net force on the example", f"{net:.1e} eV/Å", "0", _OTHERWISE[_NET_FORCE]))
    if not rows:
        return []
    return [
        "Errors on a test split do not tell whether these hold, and not all of them are built in. What is not small "
        "beside those errors is a reason for care:",
        markdown_table(("", "measured", "should be", "otherwise"), rows),
    ]


def _shown(value: float, name: str) -> str:
    text = "0" if value == 0 else f"{value:.3g}" if 0.001 <= abs(value) < 1000 else f"{value:.1e}"
    return f"{text} meV/Å" if name.endswith("_mev_per_ang") else text
