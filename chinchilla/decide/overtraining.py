"""Training beyond the optimum: the law of Gadre et al. (2024), arXiv 2403.08540, and its use.

    L(C, M) = E + (a * M^eta + b * M^-eta) * C^-eta,   M = D / N, C = 6 * N * D

It is L(N, D) with alpha = beta = 2*eta, written so that at a fixed M the loss falls as C^-eta: what
over-training costs is the same factor at every scale. Any fitted law answers the same question;
where alpha differs from beta the factor changes with C. NumPy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chinchilla.core.errors import FitError, InputError
from chinchilla.core.paper import OVER_TRAINING
from chinchilla.decide.allocation import Allocation, allocate
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.result import LossLaw


@dataclass(frozen=True)
class OverTrainingLaw:
    """L = E + (a * M^eta + b * M^-eta) * C^-eta, nats per token."""

    E: float
    a: float
    b: float
    eta: float

    def __call__(self, C: np.ndarray | float, M: np.ndarray | float) -> np.ndarray:
        """Loss at C training FLOPs and M tokens per parameter, broadcast."""
        C, M = np.asarray(C, float), np.asarray(M, float)
        return self.E + (self.a * M**self.eta + self.b * M**-self.eta) * C**-self.eta

    def loss_law(self) -> LossLaw:
        """The same law in N and D: alpha = beta = 2*eta, A = a / 6^eta, B = b / 6^eta."""
        six = 6**self.eta
        return LossLaw(self.E, self.a / six, self.b / six, 2 * self.eta, 2 * self.eta)

    @property
    def best_ratio(self) -> float:
        """Tokens per parameter at the optimum, the same at every C: (b / a)^(1 / (2*eta))."""
        return float((self.b / self.a) ** (1 / (2 * self.eta)))


def named_overtraining(name: str) -> OverTrainingLaw:
    """Gadre et al.'s law of one training set: c4, redpajama or refinedweb (loss on C4).

    Raises:
        InputError: no such training set.
    """
    if name not in OVER_TRAINING:
        raise InputError(f"training set {name!r}: choose one of {', '.join(OVER_TRAINING)}.")
    c = OVER_TRAINING[name]
    return OverTrainingLaw(c.E, c.a, c.b, c.eta)


def fit_overtraining(C: np.ndarray, M: np.ndarray, L: np.ndarray) -> OverTrainingLaw:
    """The law by least squares on the loss: E, a, b linear for each eta, eta on a zooming grid.

    The authors fit five runs: four sizes at M = 20 and the smallest at M = 320.

    Args:
        C: (n,) training FLOPs, 6*N*D.
        M: (n,) tokens per parameter.
        L: (n,) final loss, nats per token.

    Raises:
        FitError: under four runs, one M only, or no positive law fits.
    """
    C, M, L = (np.asarray(x, float) for x in (C, M, L))
    if len(C) < 4 or M.max() < 1.05 * M.min():
        raise FitError(
            f"{len(C)} runs at {M.min():.3g} to {M.max():.3g} tokens per parameter do not determine "
            "four constants: give at least four runs, at two or more tokens per parameter."
        )
    eta = np.linspace(0.01, 1.0, 400)
    for _ in range(8):
        solved = [_given_eta(C, M, L, x) for x in eta]
        at = int(np.argmin([misfit for misfit, _ in solved]))
        E, a, b = solved[at][1]
        best = float(eta[at])
        eta = np.linspace(eta[max(at - 1, 0)], eta[min(at + 1, len(eta) - 1)], 41)
    if min(E, a, b) <= 0:
        raise FitError(
            f"the best fit has E={E:.3g}, a={a:.3g}, b={b:.3g}: one is not positive, so these runs "
            "do not follow this law. Give runs further apart in C and in tokens per parameter."
        )
    return OverTrainingLaw(float(E), float(a), float(b), best)


def _given_eta(C: np.ndarray, M: np.ndarray, L: np.ndarray, eta: float) -> tuple[float, np.ndarray]:
    """Least squares for E, a, b at one eta: the misfit and the three."""
    X = np.stack([np.ones_like(C), (M / C) ** eta, (M * C) ** -eta], axis=1)
    size = np.linalg.norm(X, axis=0)
    solution = np.linalg.lstsq(X / size, L, rcond=None)[0]
    residual = X / size @ solution - L
    return float(residual @ residual), solution / size


@dataclass(frozen=True)
class OverTrained:
    """A model smaller than the optimum, trained on more tokens with the same FLOPs."""

    times: float  # tokens per parameter over those of the optimum
    N: float
    D: float
    L: float
    extra_loss: float  # nats per token above the optimum


def overtrain(
    law: LossLaw,
    C: float,
    times: Sequence[float] = (2, 5, 10, 30),
    cost: FlopsPerToken | None = None,
) -> list[OverTrained]:
    """What the same FLOPs reach at D/N = times * that of the optimum.

    The size is the optimum's over sqrt(times) under C = 6*N*D, and is solved for otherwise.
    """
    best = allocate(law, C, cost)
    rows = []
    for k in times:
        N, D = _at_ratio(C, k * best.D / best.N, best, cost)
        L = float(law(N, D))
        rows.append(OverTrained(k, N, D, L, L - best.L))
    return rows


def _at_ratio(
    C: float, ratio: float, near: Allocation, cost: FlopsPerToken | None
) -> tuple[float, float]:
    """N and D with D/N = ratio that cost C."""
    if cost is None:
        N = float(np.sqrt(C / (6 * ratio)))
        return N, ratio * N
    x = np.linspace(np.log(near.N) - 10, np.log(near.N) + 10, 8_001)
    log_C = cost.trend_and_slope(x)[0] + np.log(ratio) + x
    N = float(np.exp(np.interp(np.log(C), log_C, x)))
    return N, ratio * N


def downstream_error(name: str, L: np.ndarray | float) -> np.ndarray:
    """Mean error over Gadre et al.'s 17 tasks at loss L on C4: Err = eps - k * exp(-gamma * L).

    Args:
        name: training set: c4, redpajama or refinedweb.
        L: nats per token on C4's validation set, in the authors' tokenizer.
    """
    if name not in OVER_TRAINING:
        raise InputError(f"training set {name!r}: choose one of {', '.join(OVER_TRAINING)}.")
    c = OVER_TRAINING[name]
    return c.eps - c.k * np.exp(-c.gamma * np.asarray(L, float))
