"""
Makes our classes known to the Auto classes and the pipelines of transformers, whichever of the two is imported first.

What is registered must be imported, and torch with it, which would cost every `import modeling_adapt`, and so every
`--help`, some seconds. So each registration waits for the module of transformers that it is made in: a finder at the
head of `sys.meta_path` learns when that has been executed, and goes once all is registered.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple


def _register_configurations(theirs: Any, ours: Any) -> None:
    for config in (ours.ADAPTConfig, ours.ADAPTEnergyConfig):
        theirs.AutoConfig.register(config.model_type, config)


def _register_models(theirs: Any, ours: Any) -> None:
    for model in (ours.ADAPTForForces, ours.ADAPTForEnergy):
        theirs.AutoModel.register(model.config_class, model)


def _register_feature_extractor(theirs: Any, ours: Any) -> None:
    from .configuration_adapt import ADAPTConfig, ADAPTEnergyConfig

    for config in (ADAPTConfig, ADAPTEnergyConfig):
        theirs.AutoFeatureExtractor.register(config, ours.ADAPTFeatureExtractor)


def _register_pipeline(theirs: Any, ours: Any) -> None:
    from transformers import AutoModel

    from .pretrained_adapt import DEFAULT_MODEL, in_the_box

    default = {"model": (in_the_box(DEFAULT_MODEL), None)}
    register = theirs.PIPELINE_REGISTRY.register_pipeline
    register("atom-forces", ours.AtomForcesPipeline, pt_model=AutoModel, default=default, type="multimodal")


class _Registration(NamedTuple):
    theirs: str
    ours: str
    register: Callable[[Any, Any], None]


_AUTO = "transformers.models.auto"
_waiting = [
    _Registration(f"{_AUTO}.configuration_auto", f"{__package__}.configuration_adapt", _register_configurations),
    _Registration(f"{_AUTO}.modeling_auto", f"{__package__}.modeling_adapt", _register_models),
    _Registration(
        f"{_AUTO}.feature_extraction_auto", f"{__package__}.feature_extraction_adapt", _register_feature_extractor
    ),
    _Registration("transformers.pipelines", f"{__package__}.pipeline_adapt", _register_pipeline),
]
# What ours need of theirs, and what imports theirs before it is whole itself.
_LAYERS = "transformers.modeling_layers"
_begun: set[str] = set()
_executed: set[str] = set()


def _is_watched(name: str) -> bool:
    return name == _LAYERS or name.startswith(f"{__package__}.") or any(name == one.theirs for one in _waiting)


class _Watcher(MetaPathFinder):
    """Finds the modules that registrations wait for where all others find them, and learns when they are executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not _is_watched(fullname):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            _tell_when_executed(spec.loader, fullname)
        return spec


def _tell_when_executed(loader: Any, name: str) -> None:
    """Puts itself around the one method of the loader, which so stays what `inspect` and others take it for."""
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        if module.__name__ != name:  # a loader may serve several modules
            return execute(module)
        _begun.add(name)
        try:
            execute(module)
        finally:
            _begun.discard(name)
        _register_after(name)

    loader.exec_module = exec_module


def _register_after(name: str) -> None:
    """Registers what has waited for the module called `name`, which has been executed."""
    _executed.add(name)
    if _begun:  # what is half imported can be asked for nothing: all goes on at the end of that
        return
    for one in [one for one in _waiting if one.theirs in _executed]:
        import_module(one.ours)
    for one in [one for one in _waiting if {one.theirs, one.ours} <= _executed]:
        _waiting.remove(one)
        one.register(sys.modules[one.theirs], sys.modules[one.ours])
    if not _waiting:
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Watcher)]


def register() -> None:
    """Registers our classes in what of transformers has been imported, and in the rest as soon as it is."""
    sys.meta_path.insert(0, _Watcher())
    for one in list(_waiting):
        if one.theirs in sys.modules:
            _register_after(one.theirs)
