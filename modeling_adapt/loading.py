"""Loading a checkpoint so that a wrong one is an error, not a half-random model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import FEATURE_EXTRACTOR_NAME, logging

from .errors import InputError, one_line
from .feature_extraction_adapt import ADAPTFeatureExtractor
from .locations import is_local
from .modeling_adapt import ADAPTForEnergy, ADAPTForForces, gives_forces

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
    config_file = Path(model) / subfolder / "config.json"
    if is_local(model) and not config_file.is_file():
        raise InputError(f"{model} is no checkpoint: {config_file} does not exist; name a folder written by train.py")
    try:
        config_dict, _ = PreTrainedConfig.get_config_dict(model, subfolder=subfolder, revision=revision)
        model_type = config_dict.get("model_type") if isinstance(config_dict, dict) else None
        found = HEADS.get(str(model_type))
        if found is None:
            raise InputError(f"{model} is no ADAPT checkpoint: its model_type is {model_type!r}")
        if head is not None and found is not head:
            raise InputError(f"{model} holds {found.__name__}, but {head.__name__} is needed here")
        options = {} if config is None else {"config": config}
        with _quiet():
            loaded, info = found.from_pretrained(
                model,
                subfolder=subfolder,
                revision=revision,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in `info` then, and an error below
                **options,
            )
    except InputError:
        raise
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise InputError(f"{model} cannot be loaded: {one_line(error)}") from error
    problems = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    details = [f"{len(keys)} {kind} such as {keys[0]}" for kind, keys in problems.items() if keys]
    if details:
        raise InputError(f"{model} does not fit its configuration: {', '.join(details)}")
    return loaded.eval(), _feature_extractor(model, subfolder, revision)


def require_forces(model: PreTrainedModel) -> None:
    """Raises [`InputError`] for the published energy network, the one model that gives no forces."""
    if not gives_forces(model):
        raise InputError("the published energy network gives no forces; name a force model or a pooled energy")


def _feature_extractor(model: str | Path, subfolder: str, revision: str | None) -> ADAPTFeatureExtractor:
    """The checkpoint's own; one saved without has the atoms in the order in which they are given."""
    if is_local(model) and not (Path(model) / subfolder / FEATURE_EXTRACTOR_NAME).is_file():
        return ADAPTFeatureExtractor()
    try:
        return ADAPTFeatureExtractor.from_pretrained(model, subfolder=subfolder, revision=revision)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"the feature extractor of {model} cannot be loaded: {one_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the table that transformers prints about weights that do not fit; the error says it in one line."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
