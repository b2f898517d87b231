"""
Muon for the matrices of the layers: each step of their momentum is made orthogonal (Jordan et al.,
https://kellerjordan.github.io/posts/muon/; `torch.optim.Muon`). It does not suit embeddings, read-outs, biases and
norms, which learn by AdamW. The sizes of its steps are matched to AdamW's, so that one learning rate serves both (Liu
et al., arXiv:2502.16982).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..errors import InputError

_LEAST_SIDE = 8  # of a matrix: of thinner ones orthogonal rows say little


class MuonWithAdamW(torch.optim.Optimizer):
    """
    Both as one optimiser, with one state, for `Trainer`, its schedules and its checkpoints.

    Args:
        matrices (`list[nn.Parameter]`): Of shape `(n, m)`, which Muon moves.
        others (`list[nn.Parameter]`): Which AdamW moves.
        lr (`float`): Of both.
        weight_decay (`float`): Of the matrices; the others have none.
        betas (`tuple[float, float]`): Of AdamW.
        eps (`float`): Of AdamW.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
    ):
        muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=betas, eps=eps)
        self._both = (muon, adamw)
        super().__init__([group for optimiser in self._both for group in optimiser.param_groups], defaults={})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Of both. Their state and groups are this optimiser's own, also after a checkpoint has replaced them."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for optimiser, group in zip(self._both, self.param_groups, strict=True):
            optimiser.state, optimiser.param_groups = self.state, [group]
            optimiser.step()
        return loss


class MuonFactory:
    """Makes the optimiser of a model, as `Trainer` asks for one by `optimizer_cls_and_kwargs`."""

    def __call__(self, model: nn.Module, **options: Any) -> MuonWithAdamW:
        """
        The optimiser of a `model`, whose trunk's matrices behind the embeddings are Muon's, with its `options`. Raises
        [`InputError`] where there are none.
        """
        learned = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        matrices = {name for name, weight in learned if _is_of_a_layer(name) and _is_matrix(weight)}
        if not matrices:
            raise InputError(f"muon: no matrix of the layers has sides of {_LEAST_SIDE} or more; leave muon out")
        return MuonWithAdamW(
            [weight for name, weight in learned if name in matrices],
            [weight for name, weight in learned if name not in matrices],
            **options,
        )


def _is_of_a_layer(name: str) -> bool:
    return ".trunk." in name and "embedding" not in name


def _is_matrix(weight: nn.Parameter) -> bool:
    return weight.ndim == 2 and min(weight.shape) >= _LEAST_SIDE
