"""Loading a checkpoint so that a wrong one is an error, not a half-random model; and which weights it has."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch
from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import (
    CONFIG_NAME,
    FEATURE_EXTRACTOR_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
    extract_commit_hash,
    logging,
)

from .configuration.versions_adapt import upgraded
from .configuration_adapt import ADAPTConfig
from .errors import InputError, one_line
from .feature_extraction_adapt import ADAPTFeatureExtractor
from .hub_access import hub_problem, is_local
from .modeling_adapt import ADAPTForEnergy, ADAPTForForces, forces_of
from .pretrained_adapt import in_the_box

# What libraries raise over files that are damaged, or do not fit each other.
BAD_CHECKPOINT = (
    *(OSError, ValueError, TypeError, LookupError, RuntimeError, AttributeError, ImportError),
    *(SafetensorError, StrictDataclassError),
)
_OUR_TYPES = ("F64", "F32", "F16", "BF16")  # as safetensors calls them
EXAMPLE = "example.json"  # of a published model: a structure, and what it says of it
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
        model (`str` or `Path`):
            Folder written by `save_pretrained` or `train.py`, a Hub id `org/name`, or the name of a model in the box.
        head (`type[PreTrainedModel]`, *optional*):
            [`ADAPTForForces`] or [`ADAPTForEnergy`] where only that one will do.
        subfolder (`str`, defaults to `""`):
            Where in the folder or repository the model is; a repository of forces has its energy in `"energy"`.
        revision (`str`, *optional*): Branch, tag or commit of the repository; of a folder there is only what it holds.
        dtype (`torch.dtype`, defaults to `torch.float32`): Type of the weights.
        config ([`ADAPTConfig`], *optional*): Configuration to load the weights into, instead of the checkpoint's own.

    Returns:
        `tuple[PreTrainedModel, ADAPTFeatureExtractor]`: The model in evaluation mode and its feature extractor.

    Raises:
        [`InputError`]: `model` is no checkpoint, has the other head, or lacks weights or has weights too many, or some
            that are whole numbers or not finite; it cannot be had from the Hub, and the line says what to do about it;
            a folder is given with a `revision`; it was written by a later version, in a format or units that this one
            does not read; one from the Hub does not compute what its example says.
    """
    model = in_the_box(model)
    local, config_file = is_local(model), Path(model) / subfolder / "config.json"
    if local and not config_file.is_file():
        raise InputError(f"{model} is no checkpoint: {config_file} does not exist; name a folder written by train.py")
    if local and revision is not None:
        raise InputError(f"{model} is a folder, which has no revision {revision}; revisions are of Hub repositories")
    try:
        if not local:
            revision = _commit_of(model, revision, subfolder)  # all files from one, whatever is pushed meanwhile
        config_dict, _ = PreTrainedConfig.get_config_dict(model, subfolder=subfolder, revision=revision)
        model_type = config_dict.get("model_type") if isinstance(config_dict, dict) else None
        if str(model_type).startswith(ADAPTConfig.model_type):
            upgraded(config_dict)  # a later format, which may have models that are not known here, is said to be one
        found = HEADS.get(str(model_type))
        if found is None:
            raise InputError(f"{model} is no ADAPT checkpoint: its model_type is {model_type!r}")
        if head is not None and found is not head:
            raise InputError(f"{model} holds {found.__name__}, but {head.__name__} is needed here")
        options = {} if config is None else {"config": config}
        if local:
            _require_own_shards(Path(model) / subfolder)
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
    except Exception as error:
        _refuse(error, model, revision)
    problems = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    details = [f"{len(keys)} {kind} such as {keys[0]}" for kind, keys in problems.items() if keys]
    if details:
        raise InputError(f"{model} does not fit its configuration: {', '.join(details)}")
    _require_sound_weights(loaded, weights_folder(model, subfolder, revision), str(model))
    extractor = _feature_extractor(model, subfolder, revision)
    # Which checkpoints of earlier formats do not say.
    extractor.cutoff, extractor.reciprocal_cutoff = loaded.config.cutoff, loaded.config.reciprocal_cutoff
    extractor.reads_charge = loaded.config.reads_charge
    loaded.eval()
    if not local:
        quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        example = cached_file(str(model), EXAMPLE, subfolder=subfolder, revision=revision, **quiet)
        if example is not None:
            require_example(loaded, extractor, Path(example))
    return loaded, extractor


def _require_own_shards(folder: Path) -> None:
    """Raises `ValueError` where an index of weights names a file that is not beside it."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():
        return
    for name in set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()):
        if not re.fullmatch(r"[\w.-]+\.safetensors", str(name)):
            raise ValueError(f"its {index.name} names {name}, which is no safetensors file beside it")


def _require_sound_weights(model: PreTrainedModel, folder: Path, name: str) -> None:
    """Raises [`InputError`] for weights that were rounded to whole numbers, or that no training leaves."""
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for key in stored.keys():
                if (kind := stored.get_slice(key).get_dtype()) not in _OUR_TYPES:
                    raise InputError(
                        f"{name}: {key} is stored as {kind}; take weights in float32, float16 or bfloat16"
                    )
    for key, values in model.state_dict().items():
        if not bool(torch.isfinite(values).all()):
            raise InputError(
                f"{name}: {key} has values that are not finite; the file is damaged, or the training went wrong"
            )


def require_example(model: PreTrainedModel, extractor: ADAPTFeatureExtractor, path: Path) -> None:
    """
    Raises [`InputError`] where a model does not compute what the `example.json` beside it says: a byte of a file that
    was downloaded may have flipped since.
    """
    try:
        example = json.loads(path.read_text(encoding="utf-8"))
        inputs = extractor(example)
        with torch.no_grad():
            output = forces_of(model, **inputs) if model.config.gives_forces else model(**inputs)
        share = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1  # other machines round otherwise
        for name in ("forces", "energy"):
            if name in example and output.get(name) is not None:
                expected = torch.as_tensor(example[name], dtype=torch.float64)
                error = (output[name][0].double() - expected).abs().max().item()
                if not error <= share * (1 + expected.abs().max().item()):
                    raise InputError(f"its {name} differ by {error:.1e}")
    except (OSError, ValueError, TypeError, LookupError, RuntimeError) as error:
        raise InputError(
            f"{path.parent}: the model does not compute what its {path.name} says ({one_line(error)}); a file is "
            "damaged: delete this folder of the cache, and fetch it again"
        ) from error


def require_forces(model: PreTrainedModel) -> None:
    """Raises [`InputError`] for the published energy network, the one model that gives no forces."""
    if not model.config.gives_forces:
        raise InputError("the published energy network gives no forces; name one that has a gradient")


def pinned_revision(model: str | Path, revision: str | None = None) -> str | None:
    """
    The commit that a branch or tag of a Hub repository names now (by default main), so that what is loaded later is of
    the same one. A folder has none, and what was given comes back, for [`load_model`] to refuse.
    """
    if is_local(model):
        return revision
    try:
        return _commit_of(model, revision)
    except InputError:
        raise
    except Exception as error:
        _refuse(error, model, revision)


def weights_folder(model: str | Path, subfolder: str = "", revision: str | None = None) -> Path:
    """Where the files of a model lie that has been loaded: its folder, or that in the cache of the Hub."""
    model = in_the_box(model)
    if is_local(model):
        return Path(model) / subfolder
    config = cached_file(str(model), CONFIG_NAME, subfolder=subfolder, revision=revision)
    return Path(str(config)).parent


def weights_hash(folder: str | Path) -> str | None:
    """
    SHA-256 of `model.safetensors`, or of all its shards one after the other; None where there is neither. Records name
    weights by it, since a folder can be renamed, and what is in it trained again.
    """
    whole = Path(folder) / "model.safetensors"
    paths = [whole] if whole.is_file() else sorted(Path(folder).glob("model-*-of-*.safetensors"))
    if not paths:
        return None
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _commit_of(model: str | Path, revision: str | None, subfolder: str = "") -> str | None:
    """The commit that a branch or tag of a repository names now; without the Hub, when it was last asked."""
    file = cached_file(str(model), CONFIG_NAME, subfolder=subfolder, revision=revision)
    if file is None:
        name = (Path(subfolder) / CONFIG_NAME).as_posix()
        raise InputError(f"{model} is no checkpoint: the repository has no {name}")
    return extract_commit_hash(file, None) or revision


def _feature_extractor(model: str | Path, subfolder: str, revision: str | None) -> ADAPTFeatureExtractor:
    """The checkpoint's own; one saved without has the atoms in the order in which they are given."""
    local, file = is_local(model), (Path(subfolder) / FEATURE_EXTRACTOR_NAME).as_posix()
    if local and not (Path(model) / file).is_file():
        return ADAPTFeatureExtractor()
    try:
        return ADAPTFeatureExtractor.from_pretrained(model, subfolder=subfolder, revision=revision)
    except Exception as error:
        # The cache also remembers what a commit does not have.
        if not local and try_to_load_from_cache(str(model), file, revision=revision) is _CACHED_NO_EXIST:
            return ADAPTFeatureExtractor()
        _refuse(error, model, revision, "the feature extractor of ")


def _refuse(error: Exception, model: str | Path, revision: str | None, what: str = "") -> NoReturn:
    """Raises the line that the Hub's errors or those of a bad checkpoint come to; others are ours, and stay."""
    problem = None if is_local(model) else hub_problem(error, str(model), revision=revision)
    if problem is None and not is_local(model) and "does not appear to have a file named" in str(error):
        problem = _why_no_weights(str(model), revision)
    if problem is None and not isinstance(error, BAD_CHECKPOINT):
        raise error
    raise InputError(problem or f"{what}{model} cannot be loaded: {one_line(error)}") from error


def _why_no_weights(model: str, revision: str | None) -> str | None:
    """Whatever the Hub answered where transformers asked for weights, it says that there are none; so ask again."""
    try:
        hf_hub_download(model, SAFE_WEIGHTS_NAME, revision=revision)
    except EntryNotFoundError:
        return None
    except Exception as error:
        return hub_problem(error, model, revision=revision)
    return f"the weights of {model} could not be fetched: run the same again"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the table that transformers prints about weights that do not fit; the error says it in one line."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
