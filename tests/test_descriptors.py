"""Which descriptors a model reads is a matter of its configuration, and what it does not read changes nothing."""

import pytest
import torch
from ase import Atoms
from huggingface_hub.errors import StrictDataclassError

from modeling_adapt import ADAPTConfig, ADAPTFeatureExtractor, ADAPTForForces
from modeling_adapt.configuration.configuration_adapt import DESCRIPTOR_CHOICES
from modeling_adapt.elements_adapt import DESCRIPTOR_NAMES

SMALL = {"embedding_sizes": [8], "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}


def forces(model, change=None):
    inputs = ADAPTFeatureExtractor()(Atoms("SiCNi", positions=[[0, 0, 0], [1.9, 0.2, 0], [0, 2.2, 0.4]]))
    if change is not None:
        inputs["input_features"][..., 3 + DESCRIPTOR_NAMES.index(change)] += 0.5
    with torch.no_grad():
        return model.eval()(**inputs).forces


def test_the_configuration_knows_the_columns_of_the_feature_extractor():
    assert DESCRIPTOR_CHOICES == (*DESCRIPTOR_NAMES, "atomic_number")


def test_all_descriptors_by_name_are_the_published_tokens():
    torch.manual_seed(0)
    model = ADAPTForForces(ADAPTConfig(**SMALL))
    named = ADAPTForForces(ADAPTConfig(**SMALL, descriptors=DESCRIPTOR_NAMES))
    named.load_state_dict(model.state_dict())
    assert torch.equal(forces(model), forces(named))


def test_a_descriptor_that_is_not_read_changes_nothing():
    torch.manual_seed(0)
    model = ADAPTForForces(ADAPTConfig(**SMALL, descriptors=["period", "molar_volume_cm3_mol"]))
    assert torch.equal(forces(model), forces(model, change="group"))
    assert not torch.equal(forces(model), forces(model, change="period"))


@pytest.mark.parametrize(
    "elements",
    [{"descriptors": ["atomic_number"]}, {"descriptors": [], "element_embedding_size": 4}],
    ids=["atomic number", "embedding"],
)
def test_elements_are_told_apart_without_the_table(elements, tmp_path):
    torch.manual_seed(0)
    model = ADAPTForForces(ADAPTConfig(**SMALL, **elements))
    inputs = ADAPTFeatureExtractor()(Atoms("SiC", positions=[[0, 0, 0], [0, 0, 0]]))
    first, second = model.eval()(**inputs).forces[0]
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="it needs atomic_numbers"):
        model(inputs["input_features"])
    model.save_pretrained(tmp_path)
    assert torch.equal(forces(model), forces(ADAPTForForces.from_pretrained(tmp_path)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"descriptors": ["mass"]}, "there is no descriptor 'mass'; there are group, period"),
        ({"descriptors": []}, "without descriptors the elements need an element_embedding_size"),
        ({"element_embedding_size": -1}, "element_embedding_size must be at least 0"),
    ],
)
def test_bad_descriptors_are_named(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        ADAPTConfig(**fields)
