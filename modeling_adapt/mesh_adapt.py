"""
The sum over waves by a mesh, for many atoms: its time grows with their number, not with the square.

B-splines spread the charges over the points of a mesh; its Fourier transform at the waves, over that of the splines,
is their structure factors. With weights these go back the same way, and the splines and their slopes read potential
and field at the atoms (smooth particle mesh: Essmann et al., doi:10.1063/1.470117). All of it is in fractional
coordinates, so cells of any shape are alike.
"""

import math
from collections.abc import Iterator

import torch
from torch.nn.functional import pad

ORDER = 7  # of the splines
POINTS_FOR_A_WAVE = 5  # the shortest; with these two fields and their gradients are right to 1e-4
ATOMS_AT_ONCE = 1024


def mesh_sizes(numbers: torch.Tensor) -> list[int]:
    """Points along each lattice vector for waves `numbers` (B, K, 3), as if the next one were among them."""
    return [POINTS_FOR_A_WAVE * (most + 1) for most in numbers.abs().amax((0, 1)).int().tolist()]


def through_mesh(
    charges: torch.Tensor,
    fractions: torch.Tensor,
    numbers: torch.Tensor,
    weights: torch.Tensor,
    reciprocal: torch.Tensor | None,
) -> torch.Tensor:
    """
    The potential of charges at the atoms, and its field.

    Args:
        charges (`torch.Tensor` of shape `(B, N, C)`): 0 on padding.
        fractions (`torch.Tensor` of shape `(B, N, 3)`): Fractional coordinates of the atoms.
        numbers (`torch.Tensor` of shape `(B, K, 3)`): Waves per lattice vector, one of each G and -G.
        weights (`torch.Tensor` of shape `(B, K, C)`): Of both together; 0 in empty slots.
        reciprocal (`torch.Tensor` of shape `(B, 3, 3)`, *optional*):
            Gradients of the fractional coordinates, as rows; `None` where nobody reads the field.

    Returns:
        `torch.Tensor` of shape `(B, N, C or 4 C)`: The potential and, if asked for, x, y and z of the field.
    """
    sizes = mesh_sizes(numbers)
    mesh = _filtered(_spread(charges, fractions, sizes), numbers, weights)
    read = [_read(mesh, *stencil, with_slopes=reciprocal is not None) for stencil in _stencils(fractions, sizes)]
    potential, *slopes = torch.cat(read).unflatten(0, fractions.shape[:2]).unbind(2)
    if reciprocal is None:
        return potential
    along = zip(slopes, reciprocal.unbind(1), strict=True)
    field = -torch.stack([slope[:, :, None] * gradient[:, None, :, None] for slope, gradient in along]).sum(0)
    return torch.cat([potential, field.flatten(2)], dim=-1)


def _spread(charges: torch.Tensor, fractions: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Charges on the points of meshes (B, *sizes, C)."""
    batch_size, _, channels = charges.shape
    mesh = charges.new_zeros(batch_size * math.prod(sizes), channels)
    some_charges = charges.flatten(0, 1).split(ATOMS_AT_ONCE)
    for some, (points, splines, _) in zip(some_charges, _stencils(fractions, sizes), strict=True):
        first, second, third = splines.unbind(1)
        shares = first[:, :, None, None] * second[:, None, :, None] * third[:, None, None]
        mesh.index_add_(0, points.flatten(), (shares.flatten(1)[..., None] @ some[:, None]).flatten(0, 1))
    return mesh.view(batch_size, *sizes, channels)


def _filtered(mesh: torch.Tensor, numbers: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """
    From charges on a mesh to their potential (B x points, C), over the squares of the splines. A mesh has far more
    waves than are asked for, so its Fourier transform is a product with a matrix along one axis after the other.
    """
    _, *sizes, channels = mesh.shape
    numbers = torch.where(numbers[..., :1] < 0, -numbers, numbers)  # of G and -G the one with 0 or more in front
    weights = weights / torch.sinc(numbers / mesh.new_tensor(sizes)).prod(-1, keepdim=True) ** (2 * ORDER)
    first, second, third = (_phases(size, mesh) for size in sizes)
    half = first[len(first) // 2 :]
    half = torch.cat([half.real, -half.imag])

    waves = torch.complex(*(half @ mesh.flatten(2)).chunk(2, dim=1))
    waves = second.conj() @ waves.unflatten(2, (sizes[1], -1))
    waves = third.conj() @ waves.unflatten(3, (sizes[2], -1))
    waves = waves * _in_a_box(weights, numbers, waves.shape)
    waves = second.mT @ (third.mT @ waves).flatten(3)
    return (half.mT @ torch.cat([waves.real, waves.imag], dim=1).flatten(2)).view(-1, channels)


def _phases(size: int, mesh: torch.Tensor) -> torch.Tensor:
    """exp(2πi k j / size) of waves k, as many below 0 as above, at the points j along an axis."""
    most = size // POINTS_FOR_A_WAVE - 1
    waves = torch.arange(-most, most + 1, device=mesh.device)
    turns = (waves[:, None] * torch.arange(size, device=mesh.device) % size).double() / size
    return torch.polar(torch.ones_like(turns), 2 * math.pi * turns).to(mesh.dtype.to_complex())


def _in_a_box(weights: torch.Tensor, numbers: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Weights (B, K, C) at the waves of a transform, 0 at others."""
    first, second, third = numbers.long().unbind(-1)
    rows = torch.arange(len(weights), device=weights.device)[:, None] * shape[1] + first
    rows = (rows * shape[2] + shape[2] // 2 + second) * shape[3] + shape[3] // 2 + third
    box = weights.new_zeros(math.prod(shape[:4]), shape[4])
    return box.index_add(0, rows.flatten(), weights.flatten(0, 1)).view(shape)


def _read(
    mesh: torch.Tensor, points: torch.Tensor, splines: torch.Tensor, slopes: torch.Tensor, *, with_slopes: bool
) -> torch.Tensor:
    """What a mesh (B x points, C) holds at atoms, and its derivatives by their fractions: (M, 1 or 4, C)."""
    along = torch.stack([splines, slopes] if with_slopes else [splines], dim=2)
    read = mesh.index_select(0, points.flatten()).view(len(points), ORDER, -1)
    read = along[:, 0] @ read
    read = along[:, None, 1] @ read.unflatten(2, (ORDER, -1))
    read = along[:, None, 2] @ read.unflatten(3, (ORDER, -1)).flatten(1, 2)
    # Of the values and slopes along each axis: values along all, and slopes along the first, second or third alone.
    return read.flatten(1, 2)[:, [0, 4, 2, 1] if with_slopes else [0]]


def _stencils(fractions: torch.Tensor, sizes: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """
    Of some atoms at a time: the points around them (M, ORDER³), in a flattened mesh (B x points), and the splines
    there along each axis and their slopes by fractions (M, 3, ORDER).
    """
    batch_size, num_atoms, _ = fractions.shape
    structures = torch.arange(batch_size, device=fractions.device).repeat_interleave(num_atoms)
    size = fractions.new_tensor(sizes)
    in_parts = (tensor.split(ATOMS_AT_ONCE) for tensor in (structures, fractions.flatten(0, 1)))
    for structure, some in zip(*in_parts, strict=True):
        places = (some - some.floor()) * size
        below = places.detach().floor()
        splines, slopes = _splines(places - below)
        around = below.long()[..., None] - torch.arange(ORDER, device=some.device)
        points = structure[:, None]
        for along, of_axis in zip(around.unbind(1), sizes, strict=True):
            points = (points[..., None] * of_axis + (along % of_axis)[:, None]).flatten(1)
        yield points, splines, slopes * size[:, None]


def _splines(offsets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """B-splines (..., ORDER) at the point `offsets` below and at those before it, and their slopes."""
    splines = left = right = torch.ones_like(offsets)[..., None]
    for order in range(2, ORDER + 1):
        left, right = pad(splines, (0, 1)), pad(splines, (1, 0))
        along = offsets[..., None] + torch.arange(order, device=offsets.device)
        splines = (along * left + (order - along) * right) / (order - 1)
    return splines, left - right


__all__ = ["mesh_sizes", "through_mesh"]
