"""Least absolute deviations by sequential linear programming.

Besiroglu et al. (2024) published constants that minimise a Huber likelihood whose fitted scale is
so small that it equals least absolute deviations. At such a minimum five residuals are zero, which no
smooth step reaches. A linear program on the linearised residuals does, and the decrease that
it predicts is the certificate.
"""

import numpy as np

from chinchilla.fit.parametric.newton import Problem, Solutions

TOLERANCE = (
    1e-12  # converged when the program predicts a decrease below this share of the objective
)
MAX_PROGRAMS = 60


def polish(problem: Problem, theta: np.ndarray) -> Solutions:
    """Minimise sum_i |ln L_hat_i - ln L_i| from a start close to the minimum.

    Args:
        problem: the runs.
        theta: (5,) start: Newton's result at a small Huber width.

    Returns:
        One solution (k = 1); its f is the sum of absolute residuals.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, eye_array, hstack

    n = len(problem.y)
    identity = eye_array(n)
    radius = 0.1  # of the trust region, in every parameter
    r = problem.residuals(theta)
    f, predicted = float(np.abs(r).sum()), np.inf
    floor = 1e-11 * n  # for an exact fit, whose objective is rounding error
    for _ in range(MAX_PROGRAMS):
        J = csr_array(problem.jacobian(theta))
        program = linprog(  # r + J step = up - down, with up and down not negative
            np.append(np.zeros(5), np.ones(2 * n)),
            A_eq=hstack([J, -identity, identity]),
            b_eq=-r,
            bounds=[(-radius, radius)] * 5 + [(0, None)] * (2 * n),
            method="highs",
        )
        if program.x is None:
            break
        predicted = max(f - float(program.fun), 0.0)
        if predicted <= floor + TOLERANCE * f:
            break
        trial = theta + program.x[:5]
        trial[2] = max(trial[2], problem.lowest_e)
        r_trial = problem.residuals(trial)
        f_trial = float(np.abs(r_trial).sum())
        if f_trial < f - 0.1 * predicted:
            theta, r, f, radius = trial, r_trial, f_trial, 2 * radius
        else:
            radius /= 4
    converged = predicted <= floor + TOLERANCE * f
    return Solutions(theta[None], np.array([f]), np.array([predicted]), np.array([converged]))
