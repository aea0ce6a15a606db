"""Muon: descends along the orthogonal matrix nearest to the momentum.

So every direction of a matrix learns at one speed, rare ones too (Jordan et al., 2024, "Muon: an
optimizer for hidden layers in neural networks").
"""

import torch

# Coefficients of x -> a x + b x^3 + c x^5, which sends every singular value from (0, 1] near 1 in a
# few rounds. From the article above.
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


def orthogonal(matrix):
    """About U V^T of matrix = U S V^T: singular values end between 0.7 and 1.2."""
    a, b, c = QUINTIC
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()
    x = wide / (wide.norm() + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.t()
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide is matrix else x.t()


class Muon(torch.optim.Optimizer):
    """Steps of Nesterov momentum made orthogonal. Parameters of more than two dimensions are taken as
    matrices of their first one."""

    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.0):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:  # the decoder's, while the tower learns alone
                    continue
                kept = self.state[parameter]
                if not kept:
                    kept["mean"] = torch.zeros_like(parameter)
                mean = kept["mean"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(mean, group["momentum"]).flatten(1)
                rows, columns = ahead.shape
                # Outputs then move by as much as inputs are large, in r.m.s., however tall the matrix.
                scale = max(1, rows / columns) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(orthogonal(ahead).view_as(parameter), alpha=-group["lr"] * scale)
