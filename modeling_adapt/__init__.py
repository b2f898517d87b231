"""ADAPT: a machine-learning force field for point defects, as a Hugging Face model."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_adapt import ADAPTConfig, ADAPTEnergyConfig
from .feature_extraction_adapt import ADAPTFeatureExtractor
from .modeling_adapt import ADAPTForEnergy, ADAPTForForces, ADAPTModel, ADAPTPreTrainedModel
from .pipeline_adapt import AtomForcesPipeline

# With the package imported, the Auto classes find ours; without it, a checkpoint brings its own code along
# (trust_remote_code=True), which save_pretrained writes for classes registered with register_for_auto_class.
for _config, _model in ((ADAPTConfig, ADAPTForForces), (ADAPTEnergyConfig, ADAPTForEnergy)):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
    AutoFeatureExtractor.register(_config, ADAPTFeatureExtractor)
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModel")
ADAPTFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
PIPELINE_REGISTRY.register_pipeline("atom-forces", AtomForcesPipeline, pt_model=AutoModel, type="multimodal")

__all__ = [
    "ADAPTConfig",
    "ADAPTEnergyConfig",
    "ADAPTFeatureExtractor",
    "ADAPTForEnergy",
    "ADAPTForForces",
    "ADAPTModel",
    "ADAPTPreTrainedModel",
    "AtomForcesPipeline",
]
