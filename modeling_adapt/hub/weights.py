"""Which weights a record is of: their hash, since a folder can be renamed, and what is in it trained again."""

import hashlib
from pathlib import Path

from transformers.utils import CONFIG_NAME, cached_file

from ..hub_access import is_local


def weights_folder(model: str | Path, subfolder: str = "", revision: str | None = None) -> Path:
    """Where the files of a model lie that has been loaded: its folder, or that in the cache of the Hub."""
    if is_local(model):
        return Path(model) / subfolder
    config = cached_file(str(model), CONFIG_NAME, subfolder=subfolder, revision=revision)
    return Path(str(config)).parent


def weights_hash(folder: str | Path) -> str | None:
    """SHA-256 of `model.safetensors`, or of all its shards one after the other; None where there is neither."""
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
