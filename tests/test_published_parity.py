"""Converted weights of the published code return what the published code returned (`../shared/reference`)."""

import json

import pytest
import torch
from safetensors.torch import load_file

from modeling_adapt import ADAPTForEnergy, ADAPTForForces
from modeling_adapt.cli.convert_published import main
from modeling_adapt.errors import InputError
from modeling_adapt.published_weights import convert_energy_weights, convert_force_weights, read_statistics
from modeling_adapt.torch_files import read_torch_file

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
    scale = torch.tensor(force_model.normalizer.scale.numbers)
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
    normalized_error = (energy - reference["energy"][:, 0]) / model.energy_normalizer.scale.numbers[0]
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
    with pytest.raises(InputError, match="no such file"):
        main(["--stats", str(stats), "--forces", str(tmp_path / "none.pth"), str(tmp_path / "model")])
    with pytest.raises(InputError, match="multiple of num_attention_heads"):
        arguments = ["--forces", str(shared_reference / "force_weights.pth"), "--num-attention-heads", "7"]
        main(["--stats", str(stats), *arguments, str(tmp_path / "model")])
    assert list(tmp_path.iterdir()) == [stats]


def test_damaged_weights_are_refused(shared_reference, statistics):
    weights = read_torch_file(shared_reference / "force_weights.pth")
    for content in (torch.zeros(3), [1], {"state_dict": weights}, weights | {"lin2.weight": "text"}):
        with pytest.raises(InputError, match="these are not weights of the published force network"):
            convert_force_weights(content, statistics)
    for name in ("lin2.weight", "layers.0.linear1.weight"):
        with pytest.raises(InputError, match=f"there is no matrix '{name}'"):
            convert_force_weights({key: value for key, value in weights.items() if key != name}, statistics)
    with pytest.raises(InputError, match="Missing key"):
        convert_force_weights({key: value for key, value in weights.items() if key != "lin3.bias"}, statistics, 4)
    with pytest.raises(InputError, match="not all finite"):
        convert_force_weights(weights | {"lin1.bias": torch.full_like(weights["lin1.bias"], torch.nan)}, statistics, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "is no JSON file"),
        ("[1, 2]", "holds no statistics"),
        ('{"x_mean": ["a"]}', "x_mean: expected a list of numbers"),
        ('{"x_mean": [NaN]}', "x_mean holds a value that is not a finite number"),
    ],
)
def test_damaged_statistics_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "stats.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_statistics(tmp_path / "stats.json")
