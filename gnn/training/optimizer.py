"""The optimisers of a training: Adam, or Muon for matrices with Adam for all else."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gnn.training.config import TrainingConfig

#: Of the polynomial a s + b s³ + c s⁵ that takes singular values to about one (Jordan et al. 2024).
_QUINTIC = 3.4445, -4.7750, 2.0315
#: Root mean square of a step relative to the learning rate, as that of Adam is (Liu et al. 2025).
_SIZE = 0.2


def orthogonalized(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Return matrices with the same singular vectors, all singular values near one.

    Parameters
    ----------
    matrices : Tensor
        (B, m, n).
    iterations : int
        Of Newton and Schulz. After five, singular values above a hundredth of the norm are between
        0.7 and 1.2.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-30)
    a, b, c = _QUINTIC
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.AdamW):
    """Muon for the weights of linear layers, AdamW for all other parameters.

    The step of a matrix is its momentum, orthogonalised: all directions in which a layer maps
    change by the same amount, where Adam follows the few that the gradient is largest in. Steps
    are scaled to the size that Adam's have, so that one learning rate serves both.

    Parameters
    ----------
    model : nn.Module
        Whose parameters are optimised.
    lr : float
        Learning rate.
    weight_decay : float
        Decoupled, of all parameters.
    momentum : float
        Memory of the mean of gradients, of Nesterov's kind.

    References
    ----------
    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; Liu et al., Muon
    is scalable for LLM training, 2025.
    """

    def __init__(
        self, model: nn.Module, lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ):
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        matrices = [layer.weight for layer in layers if min(layer.weight.shape) > 1]
        chosen = {id(matrix) for matrix in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        own = {"params": matrices, "momentum": momentum}
        groups: list[dict[str, Any]] = [{"params": others}, own]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step by the gradients that the parameters have."""
        others, matrices = self.param_groups
        self.param_groups = [others]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = [others, matrices]
        self._step_of_matrices(**matrices)
        return loss

    def _step_of_matrices(
        self, params: list[Tensor], lr: float, momentum: float, weight_decay: float, **_: Any
    ) -> None:
        alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for matrix in params:
            if matrix.grad is not None:
                alike[matrix.shape].append(matrix)
        for shape, own in alike.items():
            gradients: list[Any] = [matrix.grad for matrix in own]
            means = [self._mean_of(matrix) for matrix in own]
            torch._foreach_lerp_(means, gradients, 1 - momentum)
            ahead = torch.stack(torch._foreach_lerp(gradients, means, momentum))
            size = _SIZE * max(shape) ** 0.5
            steps = (orthogonalized(ahead) * (-lr * size)).unbind()
            if weight_decay:
                torch._foreach_mul_(own, 1 - lr * weight_decay)
            torch._foreach_add_(own, steps)

    def _mean_of(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(matrix)
            state["step"] = torch.zeros(())  # Adam looks for one where a state is loaded
        mean: Tensor = state["mean"]
        return mean


def optimizer_of(model: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimiser that the settings name, its learning rate zero."""
    if settings.optimizer == "muon":
        return Muon(model, lr=0.0, weight_decay=settings.weight_decay)
    # of steps on the small tensors of these models, most is the cost of calls
    decay, parameters = settings.weight_decay, model.parameters()
    return torch.optim.AdamW(parameters, lr=0.0, weight_decay=decay, fused=True)
