"""On a GPU: the same forces as on the processor, and a forward pass that never waits for the host."""

import pytest
import torch

from modeling_adapt.feature_extraction_adapt import ADAPTFeatureExtractor
from modeling_adapt.modeling_adapt import forces_of

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


@pytest.fixture(params=["cartesian", "fourier", "pairwise", "energy"])
def model(request, make_force_model, make_energy_model):
    if request.param == "energy":
        return make_energy_model(architecture="pairwise", message_degree=2, num_hidden_layers=2)
    return make_force_model(architecture=request.param)


def inputs_of(model, structures, device):
    return dict(ADAPTFeatureExtractor.for_model(model.config)(structures).to(device))


def test_forces_are_those_of_the_processor(model, structures):
    there = forces_of(model, **inputs_of(model, structures, "cpu")).forces
    here = forces_of(model.to("cuda"), **inputs_of(model, structures, "cuda")).forces.cpu()
    assert torch.allclose(here, there, rtol=1e-4, atol=1e-4 * there.abs().max())


def test_a_forward_pass_does_not_wait_for_the_host(model, structures):
    inputs = inputs_of(model.to("cuda"), structures, "cuda")
    forces_of(model, **inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        forces_of(model, **inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
