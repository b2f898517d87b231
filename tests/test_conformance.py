"""What transformers, accelerate, torch and datasets ask of every model, asked of each architecture."""

import copy

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from datasets import load_dataset
from huggingface_hub.errors import StrictDataclassError
from torch._dynamo.testing import CompileCounter
from transformers import Trainer, TrainingArguments

from modeling_adapt import (
    ADAPTConfig,
    ADAPTEnergyConfig,
    ADAPTFeatureExtractor,
    ADAPTForEnergy,
    ADAPTForForces,
    ADAPTModel,
)
from modeling_adapt.configuration.architectures_adapt import ARCHITECTURES, ENERGY_LOSSES, FORCE_LOSSES
from modeling_adapt.data.load.batching import StructureCollator
from modeling_adapt.modeling_adapt import ENERGY_LOSS_FUNCTIONS, LOSS_FUNCTIONS, NETWORKS

KINDS = [("forces", name) for name, known in ARCHITECTURES.items() if known.has_forces]
KINDS += [("energy", name) for name in ARCHITECTURES]
WITH_GRADIENT = [("energy", name) for name, known in ARCHITECTURES.items() if known.has_gradient]
# One of the table under another name: with the far field.
MORE = {"far": {"architecture": "pairwise", "long_range": True}}
KINDS += [("forces", name) for name in MORE]
WITH_GRADIENT += [("energy", name) for name in MORE]


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(kind))
def model(request, make_force_model, make_energy_model):
    predicts, architecture = request.param
    make = make_force_model if predicts == "forces" else make_energy_model
    fields = MORE.get(architecture, {"architecture": architecture}) | getattr(request.cls, "fields", {})
    return make(**fields, num_vector_channels=8, pairwise_cutoff=4.0, energy_dropout_prob=0.0)


@pytest.fixture
def conservative(request, make_energy_model):
    fields = MORE.get(request.param, {"architecture": request.param}) | getattr(request.cls, "fields", {})
    return make_energy_model(**fields, num_vector_channels=8, pairwise_cutoff=4.0)


def inputs_of(model, structures, **options) -> dict[str, torch.Tensor]:
    return dict(ADAPTFeatureExtractor.for_model(model.config)(structures, **options))


def answer(model, inputs, **options) -> torch.Tensor:
    with torch.no_grad():
        output = model(**inputs, **options)
    return output.forces if "forces" in output else output.energy


def labels_of(model, inputs) -> dict[str, torch.Tensor]:
    batch, atoms = inputs["attention_mask"].shape
    draw = torch.Generator().manual_seed(0)
    if model.config.predicts == "forces":
        return {"labels": torch.randn(batch, atoms, 3, generator=draw)}
    forces = {"reference_forces": torch.randn(batch, atoms, 3, generator=draw)} if model.config.gives_forces else {}
    return {"labels": torch.randn(batch, generator=draw), **forces}


def test_the_tables_agree():
    assert NETWORKS.keys() == ARCHITECTURES.keys()
    assert tuple(LOSS_FUNCTIONS) == FORCE_LOSSES
    assert tuple(ENERGY_LOSS_FUNCTIONS) == ENERGY_LOSSES
    for name, network in NETWORKS.items():
        assert (network.forces is not None) == ARCHITECTURES[name].has_forces


def test_every_field_that_is_read_is_one(model):
    read = model.config.traits.fields(model.config.predicts)
    assert read <= set(type(model.config).__dataclass_fields__)
    assert read & {"hidden_size", "energy_hidden_sizes"}


@pytest.mark.parametrize("predicts", ["forces", "energy"])
def test_a_field_that_is_not_read_is_refused_and_not_saved(predicts, tmp_path):
    config_class = {"forces": ADAPTConfig, "energy": ADAPTEnergyConfig}[predicts]
    for name, known in ARCHITECTURES.items():
        if predicts == "forces" and not known.has_forces:
            continue
        unread = config_class._own_fields() - known.fields(predicts)
        written = config_class(architecture=name).to_dict()
        assert not unread & set(written)
        for field in unread:
            with pytest.raises(
                StrictDataclassError, match=f"architecture '{name}' does not read {field}; leave it out"
            ):
                config_class(architecture=name, **{field: getattr(config_class(), field)})


def test_every_weight_learns(model, structures):
    inputs = inputs_of(model, structures)
    model.train()(**inputs, **labels_of(model, inputs)).loss.backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert idle == []


def batches_of(structures):
    """Of several sizes. The first is no batch of three: sizes that are equal then are one to a graph."""
    return [*structures, *structures[:2]], structures[:2], structures[1:]


def test_no_constant_is_without_dimensions():
    """A graph takes such a one for a number of Python's, and is traced twice."""
    for model in (ADAPTForForces(ADAPTConfig()), ADAPTForEnergy(ADAPTEnergyConfig(architecture="pairwise"))):
        assert all(buffer.ndim for buffer in model.buffers())


class CountedGraphs(CompileCounter):
    """Counts graphs, and looks for what has them made again at each start, in place of taken from the disk."""

    def __call__(self, graph, inputs):
        assert not [node for node in graph.graph.nodes if "autocast" in str(node.target)]
        return super().__call__(graph, inputs)


class TestGraphs:
    """One graph without a break, for any number of structures, atoms and pairs."""

    fields = {"num_hidden_layers": 1, "hidden_dropout_prob": 0.1}  # each takes seconds

    @staticmethod
    def _graph(model):
        """`model` as a graph, and what counts how often one is made."""
        torch._dynamo.reset()
        made = CountedGraphs()
        return torch.compile(model, fullgraph=True, dynamic=True, backend=made), made

    @staticmethod
    def _agree(model, graph, structures, **options):
        for chosen in batches_of(structures):
            inputs = inputs_of(model, chosen)
            atoms = inputs["attention_mask"].bool()
            expected = answer(model, inputs, **options)
            got = answer(graph, inputs, **options)
            if expected.ndim == 3:
                expected, got = expected[atoms], got[atoms]
            assert (got - expected).abs().max() < 1e-5

    def test_compiled(self, model, structures):
        graph, made = self._graph(model)
        self._agree(model, graph, structures)
        assert made.frame_count == 1

    @pytest.mark.parametrize("conservative", [name for _, name in WITH_GRADIENT], indirect=True)
    def test_gradients_compiled(self, conservative, structures):
        graph, made = self._graph(conservative)
        self._agree(conservative, graph, structures, compute_forces=True)
        assert made.frame_count == 1

    def test_training_compiled(self, model, structures):
        """With dropout, of which the graph that is differentiated in itself must not ask its sizes."""
        graph, made = self._graph(model.train())
        for chosen in batches_of(structures):
            inputs = inputs_of(model, chosen)
            graph(**inputs, **labels_of(model, inputs)).loss.backward()
        assert made.frame_count == 1

    def test_exported(self, model, structures):
        inputs = inputs_of(model, structures)
        dynamic = {name: {axis: torch.export.Dim.AUTO for axis in range(x.ndim)} for name, x in inputs.items()}
        with torch.no_grad():
            program = torch.export.export(model, (), inputs, dynamic_shapes=dynamic, strict=False)
        self._agree(model, program.module(), structures)


class TestGradients:
    @pytest.mark.parametrize("conservative", [name for _, name in WITH_GRADIENT], indirect=True)
    def test_in_inference_mode(self, conservative, structures):
        expected = answer(conservative, inputs_of(conservative, structures), compute_forces=True)
        with torch.inference_mode():
            inputs = {name: value.clone() for name, value in inputs_of(conservative, structures).items()}
            forces = conservative(**inputs, compute_forces=True).forces
        assert torch.equal(forces, expected)

    @pytest.mark.parametrize("conservative", [name for _, name in WITH_GRADIENT], indirect=True)
    def test_of_forces_in_evaluation_mode(self, conservative, structures):
        """The second derivative, as phonons and active learning ask for it, against finite differences."""
        model, atoms = conservative.double(), structures[1]
        inputs = inputs_of(model, atoms, dtype="float64")
        inputs["input_features"].requires_grad_()
        force = model(**inputs, compute_forces=True).forces[0, 3, 0]
        (gradient,) = torch.autograd.grad(force, inputs["input_features"])
        moved = []
        for sign in (1, -1):
            other = atoms.copy()
            other.positions[2, 1] += sign * 1e-4
            moved.append(answer(model, inputs_of(model, other, dtype="float64"), compute_forces=True)[0, 3, 0])
        assert abs(gradient[0, 2, 1] - (moved[0] - moved[1]) / 2e-4) < 1e-6

    def test_the_energy_is_read_in_float32_under_autocast(self, make_energy_model, structures):
        model = make_energy_model(architecture="pairwise")
        seen = []
        model.energy_head.register_forward_hook(lambda head, inputs, output: seen.append(output.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            model(**inputs_of(model, structures))
        assert seen == [torch.float32]

    @pytest.mark.parametrize("loss", FORCE_LOSSES)
    def test_energies_learn_forces_by_the_losses_of_force_models(self, make_energy_model, structures, loss):
        model = make_energy_model(architecture="pairwise", force_loss=loss, force_weight=2.0)
        inputs = inputs_of(model, structures)
        labels = labels_of(model, inputs)
        weights = torch.rand(inputs["attention_mask"].shape, generator=torch.Generator().manual_seed(1))
        output = model(**inputs, **labels, importance_weights=weights)
        alone = model(**inputs, labels=labels["labels"]).loss
        error = (output.forces - labels["reference_forces"]) / 0.5
        of_atoms = {
            "weighted_l2": 3 * weights * error.norm(dim=-1),
            "l2": 3 * error.norm(dim=-1),
            "weighted_mse": weights * error.square().sum(-1),
            "mse": error.square().sum(-1),
        }[loss]
        expected = alone + 2.0 * (of_atoms.sum(1) / (3 * error.shape[1])).mean()
        assert torch.allclose(output.loss, expected, rtol=1e-5)


class TestHabits:
    def test_input_embeddings_read_the_tokens(self, model):
        assert isinstance(model.get_input_embeddings(), torch.nn.Module)
        assert model.get_input_embeddings() is model.adapt.trunk.embeddings

    def test_hidden_states_and_attentions(self, model, structures):
        attends = model.config.traits.attends
        if attends:
            model.set_attn_implementation("eager")
        output = model(**inputs_of(model, structures), output_hidden_states=True, output_attentions=attends)
        layers = getattr(model.adapt.trunk, "layers", None) or model.adapt.trunk.blocks
        assert len(output.hidden_states) == len(layers) + 1
        if model.config.traits.has_gradient or model.config.predicts == "forces":
            shape = (len(structures), max(map(len, structures)))
            assert all(states.shape[:2] == shape for states in output.hidden_states)
        assert (output.attentions is not None) == attends

    @pytest.mark.parametrize("use_reentrant", [True, False])
    def test_checkpointing_of_layers_changes_nothing(self, model, structures, use_reentrant):
        inputs = inputs_of(model, structures)
        labels = {"labels": labels_of(model, inputs)["labels"]}
        model.train()(**inputs, **labels).loss.backward()
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        model.zero_grad()
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model(**inputs, **labels).loss.backward()
        for name, gradient in gradients.items():
            assert torch.allclose(model.get_parameter(name).grad, gradient, atol=1e-6), name

    def test_offloaded(self, model, structures):
        inputs = inputs_of(model, structures)
        expected = answer(model, inputs)
        assert torch.equal(answer(cpu_offload(model, execution_device=torch.device("cpu")), inputs), expected)

    @pytest.mark.filterwarnings("ignore:.*deprecated")
    def test_quantized(self, model, structures):
        inputs = inputs_of(model, structures)
        expected = answer(model, inputs)
        quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8)
        assert (answer(quantized, inputs) - expected).abs().max() < 0.2 * expected.abs().max()

    def test_lora_on_all_layers(self, model, structures):
        peft = pytest.importorskip("peft")
        inputs = inputs_of(model, structures)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear")).train()
        adapted(**inputs, **labels_of(model, inputs)).loss.backward()
        idle = [name for name, weight in adapted.named_parameters() if "lora_B" in name and weight.grad is None]
        assert idle == []

    def test_batches_cast_to_low_precision_keep_their_positions(self, model, structures):
        batch = ADAPTFeatureExtractor.for_model(model.config)(structures)
        cast = ADAPTFeatureExtractor.for_model(model.config)(structures).to(torch.bfloat16)
        for name in ("input_features", "cell"):
            assert cast[name].dtype == torch.float32 and torch.equal(cast[name], batch[name])
        assert torch.equal(answer(model, dict(cast)), answer(model, dict(batch)))

    def test_positions_of_low_precision_are_said(self, make_force_model, structures, caplog, monkeypatch):
        model = make_force_model()
        inputs = inputs_of(model, structures)
        said = []
        monkeypatch.setattr("modeling_adapt.modeling_adapt.logger.warning_once", said.append)
        answer(model, inputs)
        assert not said
        answer(model, inputs | {"input_features": inputs["input_features"].bfloat16()})
        assert len(said) == 1 and "resolves 0.06" in said[0]

    def test_statistics_of_any_kind_of_number(self, make_force_model):
        plain = make_force_model(feature_std=[1.0] * 12).config
        given = make_force_model(feature_std=[1] * 12).config, make_force_model(feature_std=np.ones(12)).config
        for config in given:
            assert config.to_dict() == plain.to_dict()
            ADAPTForForces(config)

    def test_the_trunk_of_a_checkpoint(self, model, tmp_path):
        if model.config.predicts == "energy":
            pytest.skip("ADAPTModel has the configuration of forces")
        model.save_pretrained(tmp_path)
        trunk, info = ADAPTModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        for name, weight in trunk.named_parameters():
            assert torch.equal(weight, model.adapt.get_parameter(name))


class TestRows:
    """Rows of a data set, by the feature extractor and by a plain Trainer."""

    # Arrow tables that are not streamed fail inside of `datasets`, in any DataLoader; StructureDataset reads them.
    FORMS = ["python", "numpy", "torch", "streamed", "arrow, streamed"]

    @staticmethod
    def _rows(folder, form):
        rows = load_dataset(folder, split="train", streaming="streamed" in form)
        return rows.with_format({"numpy": "numpy", "torch": "torch", "arrow, streamed": "arrow"}.get(form))

    def test_several_rows_at_once(self, springs):
        rows = load_dataset(springs, split="train")
        extract = ADAPTFeatureExtractor(cutoff=4.0)
        one_by_one, at_once = extract([rows[index] for index in range(3)]), extract(rows[:3])
        assert all(torch.equal(at_once[name], one_by_one[name]) for name in one_by_one)
        mapped = rows.select(range(3)).map(
            lambda batch: extract(batch), batched=True, remove_columns=rows.column_names
        )
        assert np.allclose(mapped["input_features"], one_by_one["input_features"])

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("remove_unused_columns", [True, False])
    def test_a_plain_trainer(self, make_force_model, springs, tmp_path, form, remove_unused_columns):
        model = make_force_model(architecture="pairwise", num_vector_channels=8)
        metrics = self._train(model, springs, tmp_path, "forces", form, remove_unused_columns)
        assert np.isfinite(metrics["eval_loss"])

    @pytest.mark.parametrize("target", ["energy", "energy_and_forces"])
    @pytest.mark.parametrize("architecture", ["pairwise", "mlp"])
    def test_a_plain_trainer_of_energies(self, make_energy_model, springs, tmp_path, target, architecture):
        if architecture == "mlp" and target != "energy":
            pytest.skip("it has no forces")
        model = make_energy_model(architecture=architecture, num_vector_channels=8)
        assert np.isfinite(self._train(model, springs, tmp_path, target, "python", True)["eval_loss"])

    def _train(self, model, folder, output, target, form, remove_unused_columns):
        collator = StructureCollator(ADAPTFeatureExtractor.for_model(model.config), target)
        arguments = TrainingArguments(
            str(output),
            max_steps=2,
            per_device_train_batch_size=2,
            remove_unused_columns=remove_unused_columns,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=self._rows(folder, form),
            eval_dataset=self._rows(folder, "python"),
            data_collator=collator,
        )
        trainer.train()
        return trainer.evaluate()


def test_energy_models_are_what_the_configuration_says():
    assert ADAPTForEnergy.config_class is ADAPTEnergyConfig and ADAPTForForces.config_class is ADAPTConfig
