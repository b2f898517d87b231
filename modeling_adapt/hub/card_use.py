"""The code in a model card. It runs as printed: the test suite runs it."""

from collections.abc import Sequence

_EXAMPLE = """\
import json

from huggingface_hub import hf_hub_download

with open(hf_hub_download("{repository}", "example.json"{revision})) as file:
    example = json.load(file)  # a structure, with the {answers} that the model gives
"""
_PIPELINE = """\
from transformers import pipeline

pipe = pipeline(model="{repository}"{revision}, trust_remote_code=True)
print(pipe(example)["forces"])  # (number of atoms, 3) in eV/Å; takes ase.Atoms, files and lists of them too
"""
_AUTO = """\
from transformers import AutoFeatureExtractor, AutoModel

model = AutoModel.from_pretrained("{repository}"{subfolder}{revision}, trust_remote_code=True).eval()
extract = AutoFeatureExtractor.from_pretrained("{repository}"{subfolder}{revision}, trust_remote_code=True)
print(model(**extract(example)).{answer})
"""
_CALCULATOR = """\
from ase import Atoms

from modeling_adapt.simulation.calculator import ADAPTCalculator

atoms = Atoms(example["atomic_numbers"], example["positions"], cell=example["cell"], pbc=example["pbc"])
atoms.calc = ADAPTCalculator.from_pretrained("{repository}"{energy}{revision})
print(atoms.get_forces())
"""


def use(repository: str, models: Sequence[tuple[str, str]], revision: str | None) -> list[str]:
    """
    Args:
        models: subfolder and kind (forces, pooled, mlp) of each model.
        revision: tag or branch that the code names.
    """
    kind = models[0][1]
    names = {"repository": repository, "revision": "" if revision is None else f', revision="{revision}"'}
    answers = {"forces": "forces", "pooled": "energy and the forces", "mlp": "energy"}
    parts = ["## Use", "With `pip install torch transformers`; the model brings its code along:"]
    parts.append(_block(_EXAMPLE, **names, answers=answers[kind]))
    if kind != "mlp":
        parts.append(_block(_PIPELINE, **names))
    for subfolder, one in models:
        where = f', subfolder="{subfolder}"' if subfolder else ""
        answer = {"forces": "forces", "pooled": "energy", "mlp": "energy"}[one]
        parts.append(_block(_AUTO, **names, subfolder=where, answer=answer))
    if kind != "mlp":
        second = f', energy_model="{repository}", energy_subfolder="{models[-1][0]}"'
        both = kind == "forces" and len(models) > 1
        parts += [
            "With the package `adapt-force-field` installed, as an ASE calculator, which warns outside the trained "
            "region, without running code from here:",
            _block(_CALCULATOR, **names, energy=second if both else ""),
        ]
    if revision is None:
        parts.append('`revision="..."` (a tag or the hash of a commit) keeps what you load as it is today.')
    return parts


def _block(template: str, **values: str) -> str:
    return f"```python\n{template.format(**values).rstrip()}\n```"
