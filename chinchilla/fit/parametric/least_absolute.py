"""Least absolute deviations to the last digit: sequential linear programming.

Besiroglu et al. (2024) published constants that minimise a Huber likelihood whose fitted scale is
so small that it is least absolute deviations. At such a minimum five residuals are zero, and no
smooth step ends there; a linear programme on the linearised residuals does, and the decrease that
it promises is the certificate. Takes Newton's answer at a small Huber width and finishes it.
"""

import numpy as np

from chinchilla.fit.parametric.newton import Problem, Solutions

TOLERANCE = 1e-12  # stop when the programme promises less than this share of the objective
MAX_PROGRAMMES = 60


def polish(problem: Problem, theta: np.ndarray, w: np.ndarray) -> Solutions:
    """Minimise sum_i w_i |ln L_hat_i - ln L_i| from one near start.

    Args:
        problem: the runs.
        theta: (5,) start, in centred coordinates.
        w: (n,) weights.

    Returns:
        One solution (k = 1); its f is the sum of absolute residuals.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, eye_array, hstack

    n = len(w)
    identity = eye_array(n)
    reach = 0.1  # trust region, in every parameter
    r = problem.residuals(theta)
    f, promised = float(w @ np.abs(r)), np.inf
    floor = 1e-11 * float(w.sum())  # an exact fit has no relative decrease to wait for
    for _ in range(MAX_PROGRAMMES):
        J = csr_array(problem.jacobian(theta))
        found = linprog(  # residuals as differences of two positive parts: r + J step = up - down
            np.concatenate([np.zeros(5), w, w]),
            A_eq=hstack([J, -identity, identity]),
            b_eq=-r,
            bounds=[(-reach, reach)] * 5 + [(0, None)] * (2 * n),
            method="highs",
        )
        if found.x is None:
            break
        promised = max(f - float(found.fun), 0.0)
        if promised <= floor + TOLERANCE * f:
            break
        trial = theta + found.x[:5]
        trial[2] = max(trial[2], problem.lowest_e)
        r_trial = problem.residuals(trial)
        f_trial = float(w @ np.abs(r_trial))
        if f_trial < f - 0.1 * promised:
            theta, r, f, reach = trial, r_trial, f_trial, 2 * reach
        else:
            reach /= 4
    converged = promised <= floor + TOLERANCE * f
    return Solutions(theta[None], np.array([f]), np.array([promised]), np.array([converged]))
