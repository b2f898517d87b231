"""Weights of the published ADAPT code (a `state_dict`) and its statistics, as models of ours."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel

from .configuration_adapt import ADAPTConfig, ADAPTEnergyConfig
from .errors import InputError, one_line
from .feature_extraction_adapt import ADAPTFeatureExtractor
from .files import finished_folder
from .loading import load_model
from .modeling_adapt import ADAPTForEnergy, ADAPTForForces
from .torch_files import read_torch_file

_FORCE_NAMES: list[tuple[str, Any]] = [
    (r"^lin(\d)\.", lambda m: f"adapt.trunk.embeddings.layers.{int(m[1]) - 1}."),
    (r"^embed_norm\.", "adapt.trunk.embeddings.norm."),
    (r"^layers\.(\d+)\.self_attn\.out_proj\.", r"adapt.trunk.layers.\1.attention.o_proj."),
    (r"^layers\.(\d+)\.linear([12])\.", r"adapt.trunk.layers.\1.mlp.fc\2."),
    (r"^layers\.(\d+)\.norm1\.", r"adapt.trunk.layers.\1.attention_norm."),
    (r"^layers\.(\d+)\.norm2\.", r"adapt.trunk.layers.\1.mlp_norm."),
    (r"^norm\.", "adapt.trunk.norm."),
    (r"^output_linear\.", "force_head.linear."),
]


def convert_force_weights(
    state_dict: dict[str, torch.Tensor], statistics: dict[str, list[float]], num_attention_heads: int = 8
) -> ADAPTForForces:
    """
    Published force Transformer -> [`ADAPTForForces`]. Sizes are read from the weights, all but the number of heads.

    Args:
        state_dict (`dict[str, torch.Tensor]`):
            Weights as published (`lin1.weight`, `layers.0.self_attn.in_proj_weight`, ...).
        statistics (`dict[str, list[float]]`):
            `x_mean`, `x_std` (12 or more entries), `y_mean_force`, `y_std_force` (3 entries, eV/Å).
        num_attention_heads (`int`, defaults to `8`): Cannot be told from the weights; 8 in the published model.

    Raises:
        [`InputError`]: The weights are not those of the published force network.
    """
    _require_weights(state_dict, "force", "lin1", "lin2", "lin3", "layers.0.linear1")
    converted = {}
    for name, weight in state_dict.items():
        if match := re.match(r"^layers\.(\d+)\.self_attn\.in_proj_(weight|bias)$", name):
            for projection, part in zip("qkv", weight.chunk(3), strict=True):
                converted[f"adapt.trunk.layers.{match[1]}.attention.{projection}_proj.{match[2]}"] = part.contiguous()
            continue
        for pattern, replacement in _FORCE_NAMES:
            name = re.sub(pattern, replacement, name)
        converted[name] = weight
    num_layers = 1 + max(int(match[1]) for name in state_dict if (match := re.match(r"layers\.(\d+)\.", name)))
    config = _config(
        ADAPTConfig,
        embedding_sizes=[state_dict["lin1.weight"].shape[0], state_dict["lin2.weight"].shape[0]],
        hidden_size=state_dict["lin3.weight"].shape[0],
        num_hidden_layers=num_layers,
        num_attention_heads=num_attention_heads,
        intermediate_size=state_dict["layers.0.linear1.weight"].shape[0],
        feature_mean=_statistic(statistics, "x_mean", 12),
        feature_std=_statistic(statistics, "x_std", 12),
        force_mean=_statistic(statistics, "y_mean_force", 3),
        force_std=_statistic(statistics, "y_std_force", 3),
    )
    return _with_weights(ADAPTForForces(config), converted)


def convert_energy_weights(state_dict: dict[str, torch.Tensor], statistics: dict[str, list[float]]) -> ADAPTForEnergy:
    """
    Published energy MLP -> [`ADAPTForEnergy`]; sizes are read from the weights.

    Args:
        state_dict (`dict[str, torch.Tensor]`):
            Weights as published (`model.1.fc.weight`, ..., the last entry a plain linear layer).
        statistics (`dict[str, list[float]]`):
            `x_mean`, `x_std` (12 or more entries), `y_mean_energy`, `y_std_energy` (eV).

    Raises:
        [`InputError`]: The weights are not those of the published energy network.
    """
    _require_weights(state_dict, "energy", "model.1.fc")
    blocks = sorted({int(match[1]) for name in state_dict if (match := re.match(r"model\.(\d+)\.fc\.", name))})
    _require_weights(state_dict, "energy", *(f"model.{block}.fc" for block in blocks))
    first, last = blocks[0], blocks[-1]
    converted = {}
    for name, weight in state_dict.items():
        name = re.sub(rf"^model\.{last + 1}\.", "energy_head.linear.", name)
        name = re.sub(r"^model\.(\d+)\.", lambda m: f"adapt.trunk.blocks.{int(m[1]) - first}.", name)
        converted[name] = weight
    config = _config(
        ADAPTEnergyConfig,
        max_atoms=state_dict[f"model.{first}.fc.weight"].shape[1] // 12,
        energy_hidden_sizes=[state_dict[f"model.{block}.fc.weight"].shape[0] for block in blocks],
        feature_mean=_statistic(statistics, "x_mean", 12),
        feature_std=_statistic(statistics, "x_std", 12),
        energy_mean=_statistic(statistics, "y_mean_energy", 1)[0],
        energy_std=_statistic(statistics, "y_std_energy", 1)[0],
    )
    return _with_weights(ADAPTForEnergy(config), converted)


def _require_weights(state_dict: Any, network: str, *layers: str) -> None:
    """The weights that sizes are read from; all others are checked when they are loaded."""
    for name in (f"{layer}.weight" for layer in layers):
        weight = state_dict.get(name) if isinstance(state_dict, dict) else None
        if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
            raise InputError(f"these are not weights of the published {network} network: there is no matrix '{name}'")


def _statistic(statistics: dict[str, list[float]], name: str, length: int) -> list[float]:
    if len(statistics.get(name, ())) < length:
        raise InputError(f"the statistics need '{name}' with {length} entries; found {', '.join(sorted(statistics))}")
    return statistics[name][:length]


def _config(config_class: type[ADAPTConfig], **fields: Any) -> Any:
    try:
        return config_class(**fields)
    except StrictDataclassError as error:
        raise InputError(f"weights, statistics and options do not fit: {one_line(error)}") from error


def _with_weights(model: PreTrainedModel, state_dict: dict[str, torch.Tensor]) -> Any:
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        raise InputError(f"the weights do not fit the published network: {error}") from error
    for name, weight in model.state_dict().items():
        if not weight.isfinite().all():
            raise InputError(f"the weights that became {name} are not all finite numbers")
    return model.eval()


def read_statistics(path: str | Path) -> dict[str, list[float]]:
    """Published statistics (`x_mean`, `x_std`, `y_mean_force`, ...) from a `.json` or `.pt` file.

    Raises:
        [`InputError`]: The file is missing or damaged, or holds anything but lists of finite numbers under names.
    """
    if Path(path).suffix != ".json":
        content = read_torch_file(path)
    elif not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    else:
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # no JSON, or no text at all
            raise InputError(f"{path} is no JSON file: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no statistics: expected lists of numbers under names such as x_mean")
    return {str(name): _numbers(values, f"{path}, {name}") for name, values in content.items()}


def _numbers(values: Any, where: str) -> list[float]:
    try:
        numbers = torch.as_tensor(values, dtype=torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: expected a list of numbers") from error
    if not numbers.isfinite().all():
        raise InputError(f"{where} holds a value that is not a finite number")
    return numbers.tolist()


def save_verified(model: PreTrainedModel, folder: str | Path) -> None:
    """Saves `model` with its feature extractor, reloads it and compares every weight; leaves all or nothing behind."""
    with finished_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        ADAPTFeatureExtractor().save_pretrained(unfinished)
        reloaded, _ = load_model(unfinished, type(model))
        for name, weight in model.state_dict().items():
            if not torch.equal(weight, reloaded.state_dict()[name]):
                raise InputError(f"{name} changed while it was saved to {folder}; is the disk full?")
