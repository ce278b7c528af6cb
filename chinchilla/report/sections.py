"""What the page says besides its tables and figures: answer, facts, warnings, conventions.

Records in, plain text out; the template escapes it. Standard library and NumPy.
"""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from chinchilla import __version__
from chinchilla.config import APPROACHES
from chinchilla.core.units import count, duration
from chinchilla.decide.warnings import gather
from chinchilla.diagnose.verdicts import Diagnostics
from chinchilla.fit.result import FitResult, PowerLaw
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.plan.records import RunResult
from chinchilla.recommend.evaluate import default_budget, recommendation
from chinchilla.recommend.evaluate import headline as recommended_line
from chinchilla.report.tables import PAPER_ROWS, Cell, Table, flops, name_of

FLOP_TEXT = {
    "with_head": "layers and output logits, forward plus backward, Appendix F; "
    "the embedding look-up is not counted",
    "paper": "Appendix F without embedding and logit terms, as Table A4 and the paper's budgets",
    "appendix_f": "Appendix F's text taken literally, embedding and logits included",
    "six_nd": "C = 6 N D",
}
PARAMS_TEXT = {
    "total": "every trained parameter, the tied embedding counted once",
    "non_embedding": "parameters without the embedding",
}
LOSS_TEXT = {
    "train": "training loss, mean over the last steps of a run",
    "validation": "validation loss after the last step, mean over the validation sets",
}


def headline(fits: FitResults) -> str:
    """The recommended answer at ten times the largest budget, in one sentence."""
    if fits.recommended is None:
        refused = (
            f" {len(fits.refused)} of {len(APPROACHES)} approaches refused." if fits.refused else ""
        )
        return f"These runs do not identify how a budget should be split.{refused}"
    return recommended_line(recommendation(fits, default_budget(fits)))


def reasons(fits: FitResults) -> list[str]:
    """Why the recommended answer was chosen."""
    if fits.recommended is None:
        return []
    r = recommendation(fits, default_budget(fits))
    return [text for text in r.reasons if text != r.disagreement]


def _short(law: PowerLaw) -> str:
    if law.p10 is None or law.p90 is None:
        return f"{law.exponent:.2f} (no interval)"
    return f"{law.exponent:.2f} [{law.p10:.2f}, {law.p90:.2f}]"


def agreement(fits: FitResults) -> str:
    """The exponents by each approach, and whether the paper's a lies inside the recommended one's interval."""
    approach = "" if fits.recommended is None else str(fits.recommended["approach"])
    if approach not in fits.fitted:
        return ""
    f, published = fits.fitted[approach], PAPER_ROWS[approach].a
    law, C = f.N_opt, [p.C for p in f.points]
    where = f"From {flops(min(C))} to {flops(max(C))} training FLOPs, " if C else ""
    text = (
        f"{where}N_opt grows as C^{_short(law)} and D_opt as C^{_short(f.D_opt)} by approach "
        f"{name_of(approach, f)}: 10x the compute, {10**law.exponent:.1f}x the parameters and "
        f"{10**f.D_opt.exponent:.1f}x the tokens. Brackets are 80% intervals of the exponents."
    )
    if law.p10 is not None and law.p90 is not None:
        where = "inside" if law.p10 <= published <= law.p90 else "outside"
        text += f" The paper's exponent of N_opt by this approach, {published:.2f}, lies {where} that interval."
    others = [
        f"{_short(o.N_opt)} ({name_of(a, o)})" for a, o in fits.fitted.items() if a != approach
    ]
    if others:
        text += f" Other approaches: {' and '.join(others)}."
    return text


def doubts(fits: FitResults, diagnostics: Diagnostics | None) -> list[str]:
    """What to know before acting on the headline: what a prediction at ten times the C would say."""
    found: list[str] = []
    if fits.recommended is not None:
        asked = [recommendation(fits, default_budget(fits))]
        said = gather(fits, asked, {"law": None, "decisions": []})
        found = [one.text for one in said if one.kind != "note"]
    if diagnostics is not None and diagnostics.count("warning"):
        found.append(f"Diagnostics: {diagnostics.summary} {diagnostics.first}")
    return found


def facts(results: Sequence[RunResult], finals: Observations | None) -> list[tuple[str, str]]:
    """A strip of what was run: (label, value)."""
    facts = []
    if results:
        states = Counter(r.status for r in results)
        facts.append(("runs", ", ".join(f"{n} {state}" for state, n in states.most_common())))
    elif finals is not None:
        facts.append(("runs", str(len(finals))))
    if finals is not None and len(finals):
        budgets = np.unique(finals.budget_flops[~np.isnan(finals.budget_flops)])
        facts.append(("budgets", str(len(budgets)) if len(budgets) else "none named"))
        for label, x, show in (
            ("N, parameters", finals.N, count),
            ("D, tokens", finals.D, count),
            ("C, FLOPs", finals.C, flops),
        ):
            facts.append((label, f"{show(float(x.min()))} to {show(float(x.max()))}"))
        if len(again := finals.repeating()):
            facts.append(("epochs", f"up to {again.most_epochs()}, in {len(again)} runs"))
    if results:
        facts.append(("FLOPs spent in all", flops(sum(r.flops_spent for r in results))))
        facts.append(("training time", duration(sum(r.train_seconds for r in results))))
    return facts


def notes(results: Sequence[RunResult], fits: FitResults) -> list[tuple[str, str]]:
    """What was done to the data, warnings of the fits, parts they could not use, runs not finished."""
    notes = [("Data", str(text)) for text in fits.data.get("notes", [])]
    said: dict[str, list[str]] = {}  # what several approaches say is said once
    for approach, f in fits.fitted.items():
        for text in [*f.warnings, *(f"not used: {text}" for text in f.refusals)]:
            said.setdefault(text[:1].upper() + text[1:], []).append(name_of(approach, f))
    notes += [("; ".join(who), text) for text, who in said.items()]
    lost = [r for r in results if r.status != "finished"]
    if lost:
        text = f"{len(lost)} of {len(results)} did not finish and are in no fit: "
        text += ", ".join(f"{r.spec.run_id} ({r.status})" for r in lost[:8])
        notes.append(("Runs", text + (f" and {len(lost) - 8} more." if len(lost) > 8 else ".")))
    return notes


def conventions(
    results: Sequence[RunResult], finals: Observations | None, frontiers: Mapping[str, FitResult]
) -> list[tuple[str, str]]:
    """How N, D, C and L were counted, in words."""
    if finals is not None:
        said = {
            "flop_convention": finals.flop_convention,
            "n_convention": finals.n_convention,
            "loss_kind": finals.loss_kind,
        }
    else:
        said = next((f.conventions for f in frontiers.values()), {})
    C, N, L = (
        _explained(said.get(key, "unknown"), texts)
        for key, texts in (
            ("flop_convention", FLOP_TEXT),
            ("n_convention", PARAMS_TEXT),
            ("loss_kind", LOSS_TEXT),
        )
    )
    D = "optimizer steps times tokens per batch, repeats included" if results else "as given"
    window = sorted({r.final_loss_steps for r in results if r.status == "finished"})
    if said.get("loss_kind") == "train" and window:
        steps = f"{window[0]}" if len(window) == 1 else f"{window[0]} to {window[-1]}"
        L += f"; window of {steps} steps"
    return [
        ("N, parameters", N),
        ("D, tokens", D),
        ("C, training FLOPs", C),
        ("L, nats per token", L),
    ]


def _explained(name: str, texts: Mapping[str, str]) -> str:
    if name == "unknown":
        return "not stated with the data"
    return f"{name}: {texts[name]}" if name in texts else name


def settings(frontiers: Mapping[str, FitResult]) -> Table:
    """Every choice that decided the numbers: a row per setting, a column per approach."""
    flat = {a: dict(_flatten(f.settings)) for a, f in frontiers.items()}
    keys = list(dict.fromkeys(key for settings in flat.values() for key in settings))
    rows = [
        [Cell(key), *(Cell(flat[a].get(key, "–"), None, "text") for a in frontiers)] for key in keys
    ]
    return Table(["Setting", *(name_of(a, f) for a, f in frontiers.items())], rows)


def environment(results: Sequence[RunResult], meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the caller says of itself, then what the runs say: devices, versions, commits."""
    rows = _flatten(meta)
    rows.append(("report: versions", _versions()))
    seen: dict[str, Counter[str]] = {}
    for r in results:
        facts = {"device": r.device, "git": r.git, **r.versions}
        for key, value in facts.items():
            seen.setdefault(f"runs: {key}", Counter())[value or "unknown"] += 1
    for key, values in seen.items():
        one = len(values) == 1
        text = ", ".join(v if one else f"{v} ({n} runs)" for v, n in sorted(values.items()))
        rows.append((key, text))
    return rows


def _versions() -> str:
    ours = f"chinchilla {__version__}, Python {platform.python_version()}, NumPy {np.__version__}"
    return f"{ours}, matplotlib {metadata.version('matplotlib')}"


def _flatten(value: Mapping[str, Any], head: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, x in value.items():
        if isinstance(x, Mapping):
            rows += _flatten(x, f"{head}{key}.")
        elif isinstance(x, list | tuple):
            rows.append((f"{head}{key}", ", ".join(map(str, x))))
        else:
            rows.append((f"{head}{key}", str(x)))
    return rows
