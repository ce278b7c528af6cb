"""What no fit can have found: checked of each new fit and of every frontier.json that is read."""

import math

from chinchilla.fit.result import FitResult

MAX_EXPONENT = 10.0  # of a power law or of a term of the loss law; what fits find is far below
# Mean distance in ln of points from their line: the line goes through the middle of the minima of
# approach 2, and near the optima of approach 3 where C is not 6*N*D.
OFF_LINE = {"isoflop": 1e-6, "parametric": 0.1}
# Approach 1's goes through the middles of the risers, and a staircase of few steps may lie off it on
# average by half a step or more. But it crosses it; the room is for steps that thinning took away.
OFF_STAIRCASE = 0.2


def impossible(f: FitResult, name: str) -> str:
    """What no fit can have found, in a few words; "" when all of it can be."""
    laws = [(key, getattr(f, key)) for key in ("N_opt", "D_opt")]
    shapes = [(f"{key}.samples", law.samples, (0, 2)) for key, law in laws]
    shapes.append(("law_samples", f.law_samples, (0, 5)))
    pairs = [(f"{key}.ci95", law.ci95) for key, law in laws]
    pairs += [("intervals.ci95", i.ci95) for i in f.intervals]
    positive = [(f"{key}.coefficient", law.coefficient) for key, law in laws]
    positive += [(f"points.{key}", getattr(p, key)) for p in f.points for key in "CNDL"]
    small = [(f"{key}.exponent", abs(law.exponent)) for key, law in laws]
    if f.law:
        positive += [(f"law.{key}", getattr(f.law, key)) for key in ("A", "B", "alpha", "beta")]
        small += [(f"law.{key}", getattr(f.law, key)) for key in ("alpha", "beta")]
        pairs += [(f"law.intervals.{key}", x) for key, x in f.law.intervals.items()]
    conventions = {"flop_convention", "n_convention", "loss_kind"}
    wrong = [
        *(f"{key} is not positive" for key, x in positive if not x > 0),
        *(f"{key} is above {MAX_EXPONENT:g}" for key, x in small if x > MAX_EXPONENT),
        *(f"{key} is no pair" for key, x in pairs if x is not None and len(x) != 2),
        *(
            f"{key} must be {n[1]} rows of equal length"
            for key, x, n in shapes
            if len(x) not in n or len({len(row) for row in x}) > 1
        ),
        *(f"{key} falls" for key, x in pairs if x is not None and len(x) == 2 and x[0] > x[1]),
        *(
            f"{key}.p10 is above p90"
            for key, law in laws
            if law.p10 is not None and law.p90 is not None and law.p10 > law.p90
        ),
        *(["law is not certified (certificate.converged)"] if f.law and not _certified(f) else []),
        *(["approach has another name"] if f.approach != name else []),
        *(["n_runs is not positive"] if f.n_runs < 1 else []),
        *(["law.E is negative"] if f.law and f.law.E < 0 else []),
        *(["law is missing"] if name == "parametric" and not f.law else []),
        *(["conventions lack a name"] if set(f.conventions) != conventions else []),
        *(
            ["settings lack the interval"]
            if not isinstance(f.settings.get("interval"), str)
            else []
        ),
    ]
    return wrong[0] if wrong else _contradiction(f)


def _certified(f: FitResult) -> bool:
    return f.certificate is not None and f.certificate.get("converged") is True


def _contradiction(f: FitResult) -> str:
    """What about an approach's points is neither its law's losses nor on or about its lines; or ""."""
    off = [float(f.law(p.N, p.D)) / p.L - 1 for p in f.points] if f.law else []
    if any(not abs(x) < 1e-6 for x in off):
        return "law and points contradict each other"
    for key, law in (("N_opt", f.N_opt), ("D_opt", f.D_opt)):
        at = [math.log(getattr(p, key[0]) / float(law(p.C))) for p in f.points]
        if not at:
            continue
        if f.approach == "envelope":
            about = min(at) < OFF_STAIRCASE and max(at) > -OFF_STAIRCASE
        else:
            about = abs(sum(at) / len(at)) < OFF_LINE[f.approach]
        if not about:
            return f"{key} and the points contradict each other"
    return ""
