"""V-optimal choice of runs with a law that may be wrong.

The loss of a run at x is modelled as f(x; theta) + delta(x) + noise: the law near its fit, with a weak
normal prior on theta; a Gaussian process delta for the misfit of the law, so that runs far from the
target carry less information and neighbouring runs share their error (universal kriging; Sacks et al.
1989); and independent noise. Everything is normal, so the variance of a target after one more run does
not depend on its loss. The best next run reduces the summed variance of the targets most (V-optimal).
With delta = 0 this is the usual V-optimal design, which prefers extreme runs because it trusts the law
everywhere.
"""

import copy

import numpy as np

LENGTH = 1.0  # correlation length of delta, in the scaled coordinates of the places
MISFIT = 0.5  # share of the residual variance attributed to delta, the rest to noise


def kernel(Z: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, k) correlation of delta at (n, d) and (k, d) coordinates."""
    square = (Z**2).sum(1)[:, None] + (others**2).sum(1) - 2 * Z @ others.T
    return np.exp(-np.maximum(square, 0.0) / (2 * LENGTH**2))


class Posterior:
    """Normal distribution of the targets and of the losses of possible runs.

    Attributes:
        target: (t,) variance of each target.
        variance: (n,) variance of the expected loss at each place.
        cross: (t, n) covariance of targets and losses.
    """

    def __init__(
        self,
        J: np.ndarray,
        Z: np.ndarray,
        target_J: np.ndarray,
        target_delta: np.ndarray,
        target_own: np.ndarray,
        noise: float | np.ndarray,
        misfit: float,
        growth: np.ndarray,
    ) -> None:
        """The prior, before any run is measured.

        Args:
            J: (n, p) derivatives of the loss by theta, each times the prior standard deviation.
            Z: (n, d) coordinates of the places, of scale 1.
            target_J: (t, p) derivatives of the targets, scaled alike.
            target_delta: (t, n) covariance of each target's dependence on delta with delta at the places,
                for a delta of variance 1.
            target_own: (t,) variance of that dependence.
            noise: variance of one run's noise, for all places or (n,).
            misfit: variance of delta where growth is 1.
            growth: (n,) standard deviation of delta at the places, relative to that at the targets.
        """
        self._J, self._Z, self._misfit, self._growth = J, Z, misfit, growth
        self._noise = np.broadcast_to(np.asarray(noise, float), len(J))
        self._factors = np.zeros((0, len(J)))
        self.variance = np.einsum("ij,ij->i", J, J) + misfit * growth**2
        self.cross = target_J @ J.T + misfit * target_delta
        self.target = np.einsum("ij,ij->i", target_J, target_J) + misfit * target_own

    def at(self, which: np.ndarray) -> "Posterior":
        """This distribution at the places `which` only, to be measured independently of this one."""
        part = copy.copy(self)
        part._J, part._Z, part._growth = self._J[which], self._Z[which], self._growth[which]
        part._noise, part._factors = self._noise[which], self._factors[:, which]
        part.variance, part.cross = self.variance[which], self.cross[:, which]
        return part

    def measure(self, which: np.ndarray) -> None:
        """Condition on runs at these places; a place may be measured again."""
        covariance = self._J @ self._J[which].T
        growth = self._growth[:, None] * self._growth[which]
        covariance += self._misfit * growth * kernel(self._Z, self._Z[which])
        covariance -= self._factors.T @ self._factors[:, which]
        own = covariance[which]
        rounding = 1e-12 * float(np.diag(own).max())
        lower = np.linalg.cholesky(own + np.diag(self._noise[which] + rounding))
        both = np.vstack([covariance, self.cross[:, which]]).T  # (k, n + t)
        factors, of_targets = np.split(np.linalg.solve(lower, both), [len(self._J)], axis=1)
        self.variance = np.maximum(self.variance - (factors**2).sum(0), 0.0)
        self.cross = self.cross - of_targets.T @ factors
        self.target = self.target - (of_targets**2).sum(0)
        self._factors = np.vstack([self._factors, factors])

    def gain(self) -> np.ndarray:
        """(n,) reduction of the summed variance of the targets by one run at each place."""
        return np.asarray((self.cross**2).sum(0) / (self.variance + self._noise))
