"""The nine element descriptors of an atom token, hydrogen to radon.

The published data was evidently built from the element table of Magpie [1] as matminer [2] distributes it: all nine
descriptors of Si, Ni, Br and Ir agree to the last digit. Magpie is therefore the source for every element, so that
published weights meet the numbers they were trained on, also where better values exist (electron affinity of C: 153.9
in Magpie, 121.8 kJ/mol measured; of the lanthanides after La: one estimate, 50). Column by column:

* group, period: IUPAC; the lanthanides La to Lu are in group 3;
* Pauling electronegativity: Allred [3]; for Pm, Eu, Tb and Yb the mean of both neighbours;
* covalent radius in pm: Cordero et al. [4] (C sp3; Mn, Fe, Co low spin);
* valence electrons: all electrons outside the core of the preceding noble gas, d and f electrons included;
* first ionisation energy in eV: CRC Handbook of Chemistry and Physics;
* electron affinity in kJ/mol: Wolfram ElementData;
* atomic radius in Å: Slater [5], the calculated radius [6, 7] for Ar;
* molar volume in cm3/mol: pymatgen [8].

Where Magpie has no value:

* electronegativity of He, Ne, Ar [9] and Rn [10]: Allen's scale, which is fitted to Pauling's;
* atomic radius of He, Ne, Kr, Xe, At, Rn: the calculated radius [6, 7], as for Ar;
* ionisation energy of At: measured by Rothe et al. [11];
* molar volume of At: the solid predicted by Hermann, Hoffmann and Ashcroft [12].

No zero stands for "unknown": the only zeros are the electron affinities of `ZERO_AFFINITY`, for reasons given there.

1. Ward et al., npj Comput. Mater. 2, 16028 (2016), doi:10.1038/npjcompumats.2016.28
2. Ward et al., Comput. Mater. Sci. 152, 60 (2018), doi:10.1016/j.commatsci.2018.05.018
3. Allred, J. Inorg. Nucl. Chem. 17, 215 (1961), doi:10.1016/0022-1902(61)80142-5
4. Cordero et al., Dalton Trans. 2832 (2008), doi:10.1039/b801115j
5. Slater, J. Chem. Phys. 41, 3199 (1964), doi:10.1063/1.1725697
6. Clementi and Raimondi, J. Chem. Phys. 38, 2686 (1963), doi:10.1063/1.1733573
7. Clementi, Raimondi and Reinhardt, J. Chem. Phys. 47, 1300 (1967), doi:10.1063/1.1712084
8. Ong et al., Comput. Mater. Sci. 68, 314 (2013), doi:10.1016/j.commatsci.2012.10.028
9. Allen, J. Am. Chem. Soc. 111, 9003 (1989), doi:10.1021/ja00207a003
10. Mann, Meek and Allen, J. Am. Chem. Soc. 122, 2780 (2000), doi:10.1021/ja992866e
11. Rothe et al., Nat. Commun. 4, 1835 (2013), doi:10.1038/ncomms2819
12. Hermann, Hoffmann and Ashcroft, Phys. Rev. Lett. 111, 116404 (2013), doi:10.1103/PhysRevLett.111.116404

This file travels inside checkpoints and imports numpy only.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

DESCRIPTOR_NAMES: tuple[str, ...] = (
    "group",
    "period",
    "pauling_electronegativity",
    "covalent_radius_pm",
    "valence_electrons",
    "first_ionization_energy_ev",
    "electron_affinity_kj_mol",
    "atomic_radius_ang",
    "molar_volume_cm3_mol",
)

# fmt: off
_TABLE = (
    #  group period  EN   r_cov n_val  I_1     E_ea    r_at  V_m
    ("H",   1, 1, 2.20,   31,  1, 13.598443,   72.8,  0.25, 11.42),  # 1
    ("He", 18, 1, 4.16,   28,  2, 24.587387,    0.0,  0.31, 21.00),  # 2
    ("Li",  1, 2, 0.98,  128,  1,  5.391719,   59.6,  1.45, 13.02),  # 3
    ("Be",  2, 2, 1.57,   96,  2,  9.3227,      0.0,  1.05,  4.85),  # 4
    ("B",  13, 2, 2.04,   84,  3,  8.29802,    26.7,  0.85,  4.39),  # 5
    ("C",  14, 2, 2.55,   76,  4, 11.2603,    153.9,  0.70,  5.29),  # 6
    ("N",  15, 2, 3.04,   71,  5, 14.5341,      7.0,  0.65, 13.54),  # 7
    ("O",  16, 2, 3.44,   66,  6, 13.61805,   141.0,  0.60, 17.36),  # 8
    ("F",  17, 2, 3.98,   57,  7, 17.4228,    328.0,  0.50, 11.20),  # 9
    ("Ne", 18, 2, 4.787,  58,  8, 21.56454,     0.0,  0.38, 13.23),  # 10
    ("Na",  1, 3, 0.93,  166,  1,  5.139076,   52.8,  1.80, 23.78),  # 11
    ("Mg",  2, 3, 1.31,  141,  2,  7.646235,    0.0,  1.50, 14.00),  # 12
    ("Al", 13, 3, 1.61,  121,  3,  5.985768,   42.5,  1.25, 10.00),  # 13
    ("Si", 14, 3, 1.90,  111,  4,  8.15168,   133.6,  1.10, 12.06),  # 14
    ("P",  15, 3, 2.19,  107,  5, 10.48669,    72.0,  1.00, 17.02),  # 15
    ("S",  16, 3, 2.58,  105,  6, 10.36001,   200.0,  1.00, 15.53),  # 16
    ("Cl", 17, 3, 3.16,  102,  7, 12.96763,   349.0,  1.00, 17.39),  # 17
    ("Ar", 18, 3, 3.242, 106,  8, 15.75961,     0.0,  0.71, 22.56),  # 18
    ("K",   1, 4, 0.82,  203,  1,  4.3406633,  48.4,  2.20, 45.94),  # 19
    ("Ca",  2, 4, 1.00,  176,  2,  6.11316,     2.37, 1.80, 26.20),  # 20
    ("Sc",  3, 4, 1.36,  170,  3,  6.56149,    18.1,  1.60, 15.00),  # 21
    ("Ti",  4, 4, 1.54,  160,  4,  6.82812,     7.6,  1.40, 10.64),  # 22
    ("V",   5, 4, 1.63,  153,  5,  6.74619,    50.6,  1.35,  8.32),  # 23
    ("Cr",  6, 4, 1.66,  139,  6,  6.76651,    64.3,  1.40,  7.23),  # 24
    ("Mn",  7, 4, 1.55,  139,  7,  7.43402,     0.0,  1.40,  7.35),  # 25
    ("Fe",  8, 4, 1.83,  132,  8,  7.9024,     15.7,  1.40,  7.09),  # 26
    ("Co",  9, 4, 1.88,  126,  9,  7.88101,    63.7,  1.35,  6.67),  # 27
    ("Ni", 10, 4, 1.91,  124, 10,  7.6398,    112.0,  1.35,  6.59),  # 28
    ("Cu", 11, 4, 1.90,  132, 11,  7.72638,   118.4,  1.35,  7.11),  # 29
    ("Zn", 12, 4, 1.65,  122, 12,  9.394199,    0.0,  1.35,  9.16),  # 30
    ("Ga", 13, 4, 1.81,  122, 13,  5.999301,   28.9,  1.30, 11.80),  # 31
    ("Ge", 14, 4, 2.01,  120, 14,  7.89943,   119.0,  1.25, 13.63),  # 32
    ("As", 15, 4, 2.18,  119, 15,  9.7886,     78.0,  1.15, 12.95),  # 33
    ("Se", 16, 4, 2.55,  120, 16,  9.75239,   195.0,  1.15, 16.42),  # 34
    ("Br", 17, 4, 2.96,  120, 17, 11.8138,    324.6,  1.15, 19.78),  # 35
    ("Kr", 18, 4, 3.00,  116, 18, 13.99961,     0.0,  0.88, 27.99),  # 36
    ("Rb",  1, 5, 0.82,  220,  1,  4.177128,   46.9,  2.35, 55.76),  # 37
    ("Sr",  2, 5, 0.95,  195,  2,  5.69485,     5.03, 2.00, 33.94),  # 38
    ("Y",   3, 5, 1.22,  190,  3,  6.2173,     29.6,  1.80, 19.88),  # 39
    ("Zr",  4, 5, 1.33,  175,  4,  6.6339,     41.1,  1.55, 14.02),  # 40
    ("Nb",  5, 5, 1.60,  164,  5,  6.75885,    86.1,  1.45, 10.83),  # 41
    ("Mo",  6, 5, 2.16,  154,  6,  7.09243,    71.9,  1.45,  9.38),  # 42
    ("Tc",  7, 5, 1.90,  147,  7,  7.28,       53.0,  1.35,  8.63),  # 43
    ("Ru",  8, 5, 2.20,  146,  8,  7.3605,    101.3,  1.30,  8.17),  # 44
    ("Rh",  9, 5, 2.28,  142,  9,  7.4589,    109.7,  1.35,  8.28),  # 45
    ("Pd", 10, 5, 2.20,  139, 10,  8.3369,     53.7,  1.40,  8.56),  # 46
    ("Ag", 11, 5, 1.93,  145, 11,  7.57623,   125.6,  1.60, 10.27),  # 47
    ("Cd", 12, 5, 1.69,  144, 12,  8.99382,     0.0,  1.55, 13.00),  # 48
    ("In", 13, 5, 1.78,  142, 13,  5.78636,    28.9,  1.55, 15.76),  # 49
    ("Sn", 14, 5, 1.96,  139, 14,  7.34392,   107.3,  1.45, 16.29),  # 50
    ("Sb", 15, 5, 2.05,  139, 15,  8.60839,   103.2,  1.45, 18.19),  # 51
    ("Te", 16, 5, 2.10,  138, 16,  9.0096,    190.2,  1.40, 20.46),  # 52
    ("I",  17, 5, 2.66,  139, 17, 10.45126,   295.2,  1.40, 25.72),  # 53
    ("Xe", 18, 5, 2.60,  140, 18, 12.12984,     0.0,  1.08, 35.92),  # 54
    ("Cs",  1, 6, 0.79,  244,  1,  3.893905,   45.5,  2.60, 70.94),  # 55
    ("Ba",  2, 6, 0.89,  215,  2,  5.211664,   13.95, 2.15, 38.16),  # 56
    ("La",  3, 6, 1.10,  207,  3,  5.5769,     48.0,  1.95, 22.39),  # 57
    ("Ce",  3, 6, 1.12,  204,  4,  5.5387,     50.0,  1.85, 20.69),  # 58
    ("Pr",  3, 6, 1.13,  203,  5,  5.473,      50.0,  1.85, 20.80),  # 59
    ("Nd",  3, 6, 1.14,  201,  6,  5.525,      50.0,  1.85, 20.59),  # 60
    ("Pm",  3, 6, 1.155, 199,  7,  5.582,      50.0,  1.85, 20.23),  # 61
    ("Sm",  3, 6, 1.17,  198,  8,  5.6437,     50.0,  1.85, 19.98),  # 62
    ("Eu",  3, 6, 1.185, 198,  9,  5.67038,    50.0,  1.85, 28.97),  # 63
    ("Gd",  3, 6, 1.20,  196, 10,  6.1498,     50.0,  1.80, 19.90),  # 64
    ("Tb",  3, 6, 1.21,  194, 11,  5.8638,     50.0,  1.75, 19.30),  # 65
    ("Dy",  3, 6, 1.22,  192, 12,  5.9389,     50.0,  1.75, 19.01),  # 66
    ("Ho",  3, 6, 1.23,  192, 13,  6.0215,     50.0,  1.75, 18.74),  # 67
    ("Er",  3, 6, 1.24,  189, 14,  6.1077,     50.0,  1.75, 18.46),  # 68
    ("Tm",  3, 6, 1.25,  190, 15,  6.18431,    50.0,  1.75, 19.10),  # 69
    ("Yb",  3, 6, 1.26,  187, 16,  6.25416,    50.0,  1.75, 24.84),  # 70
    ("Lu",  3, 6, 1.27,  187, 17,  5.42586,    50.0,  1.75, 17.78),  # 71
    ("Hf",  4, 6, 1.30,  175, 18,  6.82507,     0.0,  1.55, 13.44),  # 72
    ("Ta",  5, 6, 1.50,  170, 19,  7.54957,    31.0,  1.45, 10.85),  # 73
    ("W",   6, 6, 2.36,  162, 20,  7.86403,    78.6,  1.35,  9.47),  # 74
    ("Re",  7, 6, 1.90,  151, 21,  7.83352,    14.5,  1.35,  8.86),  # 75
    ("Os",  8, 6, 2.20,  144, 22,  8.43823,   106.1,  1.30,  8.42),  # 76
    ("Ir",  9, 6, 2.20,  141, 23,  8.96702,   151.0,  1.35,  8.52),  # 77
    ("Pt", 10, 6, 2.28,  136, 24,  8.9588,    205.3,  1.35,  9.09),  # 78
    ("Au", 11, 6, 2.54,  136, 25,  9.22553,   222.8,  1.35, 10.21),  # 79
    ("Hg", 12, 6, 2.00,  132, 26, 10.4375,      0.0,  1.50, 14.09),  # 80
    ("Tl", 13, 6, 1.62,  145, 27,  6.108194,   19.2,  1.90, 17.22),  # 81
    ("Pb", 14, 6, 2.33,  146, 28,  7.41663,    35.1,  1.80, 18.26),  # 82
    ("Bi", 15, 6, 2.02,  148, 29,  7.2855,     91.2,  1.60, 21.31),  # 83
    ("Po", 16, 6, 2.00,  140, 30,  8.414,     183.3,  1.90, 22.97),  # 84
    ("At", 17, 6, 2.20,  150, 31,  9.31751,   270.1,  1.27, 23.60),  # 85
    ("Rn", 18, 6, 2.60,  150, 32, 10.7485,      0.0,  1.20, 50.50),  # 86
)
# fmt: on

SYMBOLS: tuple[str, ...] = ("X", *(row[0] for row in _TABLE))
"""Chemical symbols; the index is the atomic number, and 0 is the padding "X"."""

DESCRIPTORS: NDArray[np.float64] = np.array([[0.0] * len(DESCRIPTOR_NAMES), *(row[1:] for row in _TABLE)])
"""(87, 9) descriptors; the row is the atomic number, and row 0 (padding) is zero. Read-only."""
DESCRIPTORS.setflags(write=False)

ZERO_AFFINITY: frozenset[str] = frozenset(
    # A closed subshell, or a half-filled one (Mn): the atom binds no further electron.
    ("He", "Be", "Ne", "Mg", "Ar", "Mn", "Zn", "Kr", "Cd", "Xe", "Hg", "Rn")
    # Bound by 17 kJ/mol only, measured after Magpie was made; zero is what published weights know.
    + ("Hf",)
)
"""Elements whose electron affinity is zero in the table."""

# Named in error messages only.
_HEAVIER = "Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og".split()


def descriptors(atomic_numbers: ArrayLike) -> NDArray[np.float64]:
    """Looks up the descriptors of atoms.

    Args:
        atomic_numbers (`ArrayLike` of shape `(...)`): Integers, 1 (H) to 86 (Rn).

    Returns:
        `np.ndarray` of shape `(..., 9)`: Float64, in the order and units of `DESCRIPTOR_NAMES`.

    Raises:
        `ValueError`: An element that the table does not have, naming it and its first atom; numbers that are no
            integers.
    """
    numbers = np.asarray(atomic_numbers)
    if numbers.size == 0:
        return np.empty((*numbers.shape, len(DESCRIPTOR_NAMES)))
    if numbers.dtype.kind not in "iu":
        raise ValueError(f"atomic numbers must be integers, not {numbers.dtype}")
    unknown = (numbers < 1) | (numbers >= len(DESCRIPTORS))
    if unknown.any():
        index = tuple(np.argwhere(unknown)[0])
        atom = ", ".join(map(str, index)) or "0"
        raise ValueError(f"atom {atom}: {_no_descriptors(int(numbers[index]))}; known are H (1) to Rn (86)")
    return DESCRIPTORS[numbers]


def _no_descriptors(number: int) -> str:
    symbols = (*SYMBOLS, *_HEAVIER)
    if 1 <= number < len(symbols):
        return f"no descriptors for element {symbols[number]} (atomic number {number})"
    return f"{number} is not the atomic number of an element"
