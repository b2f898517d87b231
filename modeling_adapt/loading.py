"""Loading a checkpoint so that a wrong one is an error, not a half-random model."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel

from .errors import InputError
from .feature_extraction_adapt import ADAPTFeatureExtractor
from .modeling_adapt import ADAPTForEnergy, ADAPTForForces

HEADS: dict[str, type[PreTrainedModel]] = {
    head.config_class.model_type: head for head in (ADAPTForForces, ADAPTForEnergy)
}


def load_model(
    model: str | Path,
    head: type[PreTrainedModel] | None = None,
    subfolder: str = "",
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    config: PreTrainedConfig | None = None,
) -> tuple[PreTrainedModel, ADAPTFeatureExtractor]:
    """
    Loads a force or energy model for inference.

    Args:
        model (`str` or `Path`): Folder written by `save_pretrained` or `train.py`, or a Hub id `org/name`.
        head (`type`, *optional*): [`ADAPTForForces`] or [`ADAPTForEnergy`] where only that one will do.
        subfolder (`str`), revision (`str`, *optional*): As in `from_pretrained`.
        dtype (`torch.dtype`): Type of the weights.
        config ([`ADAPTConfig`], *optional*): Configuration to load the weights into, instead of the checkpoint's own.

    Returns:
        The model in evaluation mode and its feature extractor.

    Raises:
        [`InputError`]: `model` is no checkpoint, has the other head, or lacks weights or has weights too many.
    """
    folder = Path(model)
    config_file = folder / subfolder / "config.json"
    looks_like_path = folder.is_absolute() or str(model).startswith(".") or str(model).count("/") != 1
    if not config_file.is_file() and (folder.exists() or looks_like_path):
        raise InputError(f"{model} is no checkpoint: {config_file} does not exist; name a folder written by train.py")
    try:
        config_dict, _ = PreTrainedConfig.get_config_dict(model, subfolder=subfolder, revision=revision)
        model_type = config_dict.get("model_type")
        found = HEADS.get(model_type)
        if found is None:
            raise InputError(f"{model} is no ADAPT checkpoint: its model_type is {model_type!r}")
        if head is not None and found is not head:
            raise InputError(f"{model} holds {found.__name__}, but {head.__name__} is needed here")
        options = {} if config is None else {"config": config}
        loaded, info = found.from_pretrained(
            model, subfolder=subfolder, revision=revision, dtype=dtype, output_loading_info=True, **options
        )
    except InputError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{model} cannot be loaded: {str(error).splitlines()[0]}") from error
    kinds = [kind for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[kind]]
    if kinds:
        details = ", ".join(f"{kind} {sorted(info[kind])}" for kind in kinds)
        raise InputError(f"{model} does not fit its configuration: {details}")
    return loaded.eval(), ADAPTFeatureExtractor()
