"""Files that must not bring a public page down, by name: their content, and what is said of them."""

import gzip
import pickle
import zipfile
from io import BytesIO, StringIO

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk


def _written(atoms: Atoms, kind: str) -> bytes:
    if kind in ("traj", "cif"):  # as bytes
        ase.io.write(file := BytesIO(), atoms, format=kind)
        return file.getvalue()
    ase.io.write(text := StringIO(), atoms, format=kind)
    return text.getvalue().encode()


def _silicon(repeat: int = 2) -> Atoms:
    return bulk("Si", cubic=True) * repeat


def _moved(place: float) -> Atoms:
    atoms = _silicon()
    atoms.positions[3] = place
    return atoms


def _in_cell(cell: object, count: int = 8) -> Atoms:
    places = np.random.default_rng(0).random((count, 3))
    return Atoms(["Si"] * count, places @ np.diag(cell) if np.ndim(cell) == 1 else places @ cell, cell=cell, pbc=True)


def _zipped() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("POSCAR", _written(_silicon(), "vasp"))
    return file.getvalue()


class _Harmful:
    def __reduce__(self) -> tuple:
        return print, ("a pickle was opened",)


def _cif(operations: int, sites: int) -> bytes:
    """Of so many operations and sites that ASE would compare places for hours, or fill all memory with them."""
    symmetry = "\n".join(f"'x+{one}/{operations},y,z'" for one in range(operations))
    places = "\n".join(f"Si{one} Si {one / 9000:.6f} 0.{one:06d} 0.3" for one in range(sites))
    return (
        "data_x\n_cell_length_a 50\n_cell_length_b 50\n_cell_length_c 50\n_cell_angle_alpha 90\n_cell_angle_beta 90\n"
        f"_cell_angle_gamma 90\nloop_\n_symmetry_equiv_pos_as_xyz\n{symmetry}\nloop_\n_atom_site_label\n"
        f"_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n{places}\n"
    ).encode()


_POSCAR = _written(_silicon(), "vasp")
_XYZ = _written(_silicon(), "extxyz")
_NO_NAME = "no POSCAR, CIF or extxyz file by its name"
_UNREADABLE = "ASE cannot read|has no structure|cannot be read"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty.cif": (b"", "the file is empty"),
    "noise.cif": (np.random.default_rng(1).bytes(20_000), _UNREADABLE),
    "noise.xyz": (np.random.default_rng(2).bytes(20_000), _UNREADABLE),
    "POSCAR_cut": (_POSCAR[: len(_POSCAR) // 2], _UNREADABLE),
    "many.vasp": (_POSCAR.replace(b" 64\n", b" 999999999\n"), "at most 1,000,000 are read"),
    "many.xyz": (_XYZ.replace(b"64\n", b"888888888\n", 1), "at most 1,000,000 are read"),
    "negative.vasp": (_POSCAR.replace(b" 64\n", b" -64\n"), f"{_UNREADABLE}|there are no atoms"),
    "nothing.xyz": (b'0\nLattice="9 0 0 0 9 0 0 0 9"\n', f"{_UNREADABLE}|there are no atoms"),
    "without-atoms.cif": (b"data_x\n_cell_length_a 5\n", _UNREADABLE),
    "nan.extxyz": (_written(_moved(np.nan), "extxyz"), "is not finite"),
    "infinite.extxyz": (_written(_moved(np.inf), "extxyz"), "is not finite"),
    "twice.extxyz": (_written(_moved(0.0), "extxyz"), "at the same place"),
    "molecule.xyz": (b"2\n\nSi 0 0 0\nSi 0 0 2.3\n", "not periodic in all three directions"),
    "large.extxyz": (_written(_silicon(5), "extxyz"), "1,000 atoms, and this page takes at most 600"),
    "heavy.extxyz": (b"#" * 1_100_000, "larger than 1 MB|exceeds"),
    "flat.extxyz": (_written(_in_cell([9, 9, 0]), "extxyz"), "Å³ for an atom"),
    "tiny.extxyz": (_written(_in_cell([0.01] * 3), "extxyz"), "Å thick"),
    "dense.extxyz": (_written(_in_cell([2.5] * 3), "extxyz"), "Å³ for an atom"),
    "skewed.extxyz": (_written(_in_cell([[9, 0, 0], [220, 9, 0], [0, 0, 9]]), "extxyz"), "too skewed"),
    "unknown.xyz": (_XYZ.replace(b"Si  ", b"Xq  "), _UNREADABLE),
    "germanium.extxyz": (_XYZ.replace(b"Si  ", b"Ge  "), "Ge"),
    "charged.extxyz": (_XYZ.replace(b"pbc=", b"charge=1 pbc="), "a charge of \\+1"),
    "endless.cif": (_cif(192, 1500), f"asks for too much memory|takes too long to read|{_UNREADABLE}"),
    "boundless.cif": (_cif(400, 9000), f"asks for too much memory|takes too long to read|{_UNREADABLE}"),
    "wide.vasp": (b"A" * 900_000, _UNREADABLE),
    "utf16.cif": ("data_x\n".encode("utf-16"), _UNREADABLE),
    "pickle.xyz": (pickle.dumps(_Harmful()), _UNREADABLE),
    "traj.extxyz": (_written(_silicon(), "traj"), _UNREADABLE),
    "page.cif": (b"<script>alert(1)</script>", _UNREADABLE),
    "program.py": (b"print('run')\n", _NO_NAME),
    "objects.json": (b'{"@module": "os"}', _NO_NAME),
    "archive.zip": (_zipped(), _NO_NAME),
    "packed.xyz.gz": (gzip.compress(_XYZ), _NO_NAME),
}
