"""Muon and AdamW as one optimiser: each does what it does alone, and a checkpoint keeps both."""

import copy

import pytest
import torch

from modeling_adapt.errors import InputError
from modeling_adapt.training.muon import MuonFactory, MuonWithAdamW

OPTIONS = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.99), "eps": 1e-8}


def moved(optimisers, weights, steps, first=0):
    for step in range(first, first + steps):
        for number, weight in enumerate(weights):
            torch.manual_seed(100 * step + number)
            weight.grad = torch.randn_like(weight)
        for optimiser in optimisers:
            optimiser.step()
    return weights


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 16), (12, 8), (16,), (3, 8))]


def test_each_moves_what_is_its_own(weights):
    alone = copy.deepcopy(weights)
    muon = torch.optim.Muon(alone[:2], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(alone[2:], lr=1e-2, weight_decay=0.0, betas=(0.9, 0.99), eps=1e-8)
    moved([muon, adamw], alone, 3)
    moved([MuonWithAdamW(weights[:2], weights[2:], **OPTIONS)], weights, 3)
    assert all(torch.equal(*pair) for pair in zip(weights, alone, strict=True))


def test_a_checkpoint_and_a_schedule_reach_both(weights):
    first = MuonWithAdamW(weights[:2], weights[2:], **OPTIONS)
    moved([first], weights, 2)
    later = copy.deepcopy(weights)
    second = MuonWithAdamW(later[:2], later[2:], **OPTIONS)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimiser in (first, second):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3
    moved([first], weights, 2, first=2)
    moved([second], later, 2, first=2)
    assert all(torch.equal(*pair) for pair in zip(weights, later, strict=True))
    assert len(second.state) == len(weights)


@pytest.mark.parametrize("architecture", ["cartesian", "pairwise"])
def test_embeddings_read_outs_and_thin_matrices_are_not_for_muon(make_energy_model, architecture):
    model = make_energy_model(architecture=architecture)
    optimiser = MuonFactory()(model, **OPTIONS)
    names = {id(weight): name for name, weight in model.named_parameters()}
    matrices, others = ([names[id(one)] for one in group["params"]] for group in optimiser.param_groups)
    assert len(matrices) + len(others) == len(names)
    assert matrices and all("layers" in name and name.endswith("weight") for name in matrices)
    assert any("embedding" in name for name in others) and any("head" in name for name in others)


def test_a_model_without_matrices_for_it_says_so(make_energy_model):
    model = make_energy_model(architecture="pairwise", hidden_size=4, intermediate_size=4, num_vector_channels=4)
    with pytest.raises(InputError, match="muon: no matrix of the layers has sides of 8 or more"):
        MuonFactory()(model, **OPTIONS)
