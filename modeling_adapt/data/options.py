"""What the commands that make data sets can be told, and what they do untold. Nothing here takes time to import."""

from dataclasses import dataclass
from typing import NamedTuple

CELL_EDGE = 16.406184  # Å; the cubic 216-atom silicon cell of the published data
# Searched in this order; names that say "reference" come first, since a file may also hold a model's predictions.
FORCE_KEYS = ("REF_forces", "ref_forces", "DFT_forces", "dft_forces", "forces", "force")
RUN_ENERGY_KEYS = ("free_energy", "energy")  # VASP's forces are the gradient of the first; "energy" is E(sigma -> 0)
ENERGY_KEYS = ("REF_energy", "ref_energy", "DFT_energy", "dft_energy", "energy")
STRESS_KEYS = (
    *("REF_stress", "ref_stress", "DFT_stress", "dft_stress", "stress"),
    *("REF_virial", "ref_virial", "DFT_virial", "dft_virial", "virial", "REF_virials", "virials"),
)

ISOLATED = "IsolatedAtom"  # the config type of single atoms, whose energies are references and nothing to learn


class ReadingOptions(NamedTuple):
    """How files are read.

    Args:
        forces_key (`str`, *optional*):
            Array with the forces (eV/Å); by default the first of `FORCE_KEYS`, also among calculator results.
        energy_key (`str`, *optional*):
            Likewise for the energy (eV), which may be missing unless the key is given; of VASP runs the free energy,
            of which the forces are the gradient.
        stress_key (`str`, *optional*):
            Likewise for the stress, as a matrix or in Voigt's order (xx, yy, zz, yz, xz, xy): in eV/Å³, positive under
            tension as in ASE, or, where "virial" is in its name, the virial in eV, which is minus the stress times
            the volume. It may be missing unless the key is given; `"none"` leaves it out.
        group_key (`str`, *optional*):
            Key in `info` whose value names the trajectory; by default consecutive frames with the same atoms, moved by
            little, are one trajectory ([`same_trajectory`]).
        group_pattern (`str`, *optional*):
            Regular expression; what it matches of that value, or the first group in it, names the trajectory instead.
        host (`str`, defaults to `"auto"`):
            Of [`SiteSearch`], for the defect sites of frames that have no `info["defect_sites"]`.
        skip_broken (`bool`, *optional*):
            Leave out and note what cannot be used, instead of raising an error: a frame with bad data, and what
            follows the last frame that can be read. `None`: of the VASP runs that were found in a folder.
    """

    forces_key: str | None = None
    energy_key: str | None = None
    stress_key: str | None = None
    group_key: str | None = None
    group_pattern: str | None = None
    host: str = "auto"
    skip_broken: bool | None = None


# Kinds of generated structures; how each is made is in `defects/kinds.py`.
WITH_DEFECT = (
    *("vacancy", "interstitial_tetrahedral", "interstitial_hexagonal", "interstitial_split_110"),
    *("carbon_substitutional", "carbon_interstitial"),
    *("divacancy", "carbon_pair_substitutional", "carbon_pair_interstitial", "carbon_vacancy"),
    *("di_interstitial", "tri_interstitial", "pair_random"),
)
WITHOUT_DEFECT = ("bulk", "bulk_strained", "bulk_thermal", "surface")
ERHART_ALBE = "modeling_adapt.data.defects.labelling:erhart_albe"
SILICON_LATTICE_CONSTANT = 5.429  # Å; zero stress of the Erhart-Albe potential, which labels the generated data
_IONIC = "modeling_adapt.data.defects.ionic"
IONIC_DEFECTS = ("schottky_pair", "frenkel_pair", "vacancy_charged", "substitution_charged")
IONIC_WITHOUT_DEFECT = ("bulk", "bulk_strained", "bulk_thermal")


class GeneratedHost(NamedTuple):
    """
    What the generator makes of a crystal, where nothing else is asked for.

    Args:
        calculator (`str`): As `module:factory`.
        lattice_constant (`float`): In Å, of zero stress by that calculator.
        kinds (`tuple[str, ...]`): With a defect; all of them.
        others (`tuple[str, ...]`): That can be asked for too.
        structure (`str`, defaults to `"rocksalt"`): As `ase.build.bulk` calls it.
    """

    calculator: str
    lattice_constant: float
    kinds: tuple[str, ...]
    others: tuple[str, ...]
    structure: str = "rocksalt"


HOSTS = {
    "Si": GeneratedHost(ERHART_ALBE, SILICON_LATTICE_CONSTANT, WITH_DEFECT, WITHOUT_DEFECT, "diamond"),
    "MgO": GeneratedHost(f"{_IONIC}:magnesium_oxide", 4.1985, IONIC_DEFECTS, IONIC_WITHOUT_DEFECT),
    "NaCl": GeneratedHost(f"{_IONIC}:sodium_chloride", 5.5907, IONIC_DEFECTS[:3], IONIC_WITHOUT_DEFECT),
    "ZnS": GeneratedHost(
        f"{_IONIC}:zinc_sulfide", 5.4050, IONIC_DEFECTS[:3], IONIC_WITHOUT_DEFECT, structure="zincblende"
    ),
}


@dataclass(frozen=True)
class GenerationPlan:
    """All that decides what is generated, but for how much of it.

    Args:
        seed (`int`, defaults to `0`): Of everything random.
        host (`str`, defaults to `"Si"`): Of `HOSTS`.
        calculator (`str`, defaults to `ERHART_ALBE`): That labels, as `module:factory`.
        kinds (`tuple[str, ...]`, defaults to `WITH_DEFECT`): Of those of the host, taken in turn.
        lattice_constant (`float`, defaults to `SILICON_LATTICE_CONSTANT`): Of the host for this calculator, in Å.
        repeat (`int`, defaults to `3`): Cubic cells along each edge of the supercell; 3 gives 216 atoms, 2 gives 64.
        rattle (`float`, defaults to `0.04`): How far the starts are distorted, see [`distort`].
        strain (`float`, defaults to `0.0`): Likewise.
        frames (`int`, defaults to `10`): Rows per trajectory at most.
        steps (`int`, defaults to `60`): FIRE steps per relaxation at most.
        md_share (`float`, defaults to `0.2`):
            Share of the trajectories that are molecular dynamics and not relaxations.
        md_steps (`int`, defaults to `60`): Steps of a molecular dynamics run.
        temperature (`float`, defaults to `1000.0`):
            The highest of molecular dynamics, in K; each run has a random one from a quarter of it upwards.
    """

    seed: int = 0
    host: str = "Si"
    calculator: str = ERHART_ALBE
    kinds: tuple[str, ...] = WITH_DEFECT
    lattice_constant: float = SILICON_LATTICE_CONSTANT
    repeat: int = 3
    rattle: float = 0.04
    strain: float = 0.0
    frames: int = 10
    steps: int = 60
    md_share: float = 0.2
    md_steps: int = 60
    temperature: float = 1000.0
