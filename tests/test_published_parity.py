"""Converted weights of the published code return what the published code returned (`../shared/reference`)."""

import json

import pytest
import torch
from safetensors.torch import load_file

from modeling_adapt import ADAPTForEnergy, ADAPTForForces
from modeling_adapt.convert_published import convert_energy_weights, convert_force_weights, main, read_torch_file
from modeling_adapt.errors import InputError

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def reference(shared_reference):
    return load_file(shared_reference / "reference.safetensors")


@pytest.fixture(scope="module")
def statistics(reference):
    return {name: reference[name].tolist() for name in reference if name.startswith(("x_", "y_"))}


@pytest.fixture(scope="module")
def force_model(shared_reference, statistics):
    sizes = json.loads((shared_reference / "reference.json").read_text())
    weights = read_torch_file(shared_reference / "force_weights.pth")
    return convert_force_weights(weights, statistics, sizes["num_heads"])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_forces_and_tokens_match(force_model, reference, attention):
    force_model.set_attn_implementation(attention)
    atoms = reference["mask"]
    with torch.no_grad():
        forces = force_model(reference["tokens_raw"], atoms.long()).forces
    scale = torch.tensor(force_model.normalizer.scale)
    assert ((forces - reference["forces"]) / scale)[atoms].abs().max() < TOLERANCE
    assert (forces - reference["forces"])[atoms].abs().max() < TOLERANCE


def test_published_loss_matches(force_model, reference):
    labels = force_model.normalizer.denormalize(reference["loss_target"])
    labels = labels.masked_fill(~reference["mask"][..., None], -100.0)
    with torch.no_grad():
        loss = force_model(
            reference["tokens_raw"],
            reference["mask"].long(),
            labels=labels,
            importance_weights=reference["loss_weight"],
        ).loss
    published = reference["loss_sum_weighted_l2"].item()
    assert abs(loss.item() * reference["mask"].sum().item() - published) < TOLERANCE * published


def test_energies_match(shared_reference, statistics, reference):
    model = convert_energy_weights(read_torch_file(shared_reference / "energy_weights.pth"), statistics)
    with torch.no_grad():
        energy = model(reference["tokens_raw"], reference["mask"].long()).energy
        short = model(reference["tokens_raw"][:, :20], reference["mask"][:, :20].long()).energy
    normalized_error = (energy - reference["energy"][:, 0]) / model.energy_normalizer.scale[0]
    assert normalized_error.abs().max() < TOLERANCE
    full = reference["mask"].sum(dim=1) <= 20
    assert torch.allclose(short[full], energy[full], rtol=1e-6)


@pytest.mark.parametrize("option, head", [("--forces", ADAPTForForces), ("--energy", ADAPTForEnergy)])
def test_command_writes_a_checkpoint(shared_reference, statistics, tmp_path, option, head):
    stats = tmp_path / "stats.json"
    stats.write_text(json.dumps(statistics))
    weights = shared_reference / f"{'force' if option == '--forces' else 'energy'}_weights.pth"
    main(["--stats", str(stats), option, str(weights), "--num-attention-heads", "4", str(tmp_path / "model")])
    _, info = head.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_wrong_weights_are_refused_and_nothing_is_written(shared_reference, statistics, tmp_path):
    stats = tmp_path / "stats.json"
    stats.write_text(json.dumps(statistics))
    for option, file in (("--forces", "energy_weights.pth"), ("--energy", "force_weights.pth")):
        with pytest.raises(InputError, match="these are not weights of the published"):
            main(["--stats", str(stats), option, str(shared_reference / file), str(tmp_path / "model")])
    with pytest.raises(InputError, match="does not exist"):
        main(["--stats", str(stats), "--forces", str(tmp_path / "none.pth"), str(tmp_path / "model")])
    assert list(tmp_path.iterdir()) == [stats]
