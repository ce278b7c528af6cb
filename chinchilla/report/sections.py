"""Text of the page besides tables and figures: answer, warnings, facts, conventions, environment.

The functions turn records into plain text, which the template escapes. This module needs only the
standard library and NumPy.
"""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from chinchilla import __version__
from chinchilla.config import APPROACHES
from chinchilla.core.table import NONE, Cell, Table
from chinchilla.core.units import count, duration
from chinchilla.decide.warnings import fit_warnings
from chinchilla.diagnose.verdicts import Diagnostics
from chinchilla.fit.result import FitResult
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.plan.records import RunResult
from chinchilla.recommend.evaluate import default_budget, recommendation
from chinchilla.recommend.evaluate import headline as recommended_line
from chinchilla.report.tables import PAPER_ROWS, exponent, flops, name_of

CONVENTIONS: dict[str, dict[str, str]] = {  # record's field -> its value -> explanation
    "flop_convention": {
        "with_head": "layers and output logits, forward plus backward, Appendix F; "
        "the embedding look-up is not counted",
        "paper": "Appendix F without embedding and logit terms, as Table A4 and the paper's budgets",
        "appendix_f": "Appendix F's text taken literally, embedding and logits included",
        "six_nd": "C = 6 N D",
    },
    "n_convention": {
        "total": "every trained parameter, the tied embedding counted once",
        "non_embedding": "parameters without the embedding",
    },
    "loss_kind": {
        "train": "training loss, mean over the last steps of a run",
        "validation": "validation loss after the last step, mean over the validation sets",
    },
}


def answer(fits: FitResults, diagnostics: Diagnostics | None) -> dict[str, Any]:
    """The recommended answer at ten times the largest budget: headline, reasons, warnings.

    The warnings are those of `chinchilla predict` and of the diagnostics.
    """
    reasons: list[str] = []
    warnings: list[str] = []
    if fits.recommended is None:
        headline = "These runs do not identify how a budget should be split."
        if fits.refused:
            headline += f" {len(fits.refused)} of {len(APPROACHES)} approaches refused."
    else:
        r = recommendation(fits, default_budget(fits))
        headline = recommended_line(r)
        reasons = [text for text in r.reasons if text != r.disagreement]
        warnings = [one.text for one in fit_warnings(fits) if one.kind != "note"]
    if diagnostics is not None and diagnostics.count("warning"):
        warnings.append(f"Diagnostics: {diagnostics.summary} {diagnostics.first}")
    return {"headline": headline, "reasons": reasons, "warnings": warnings}


def agreement(fits: FitResults) -> str:
    """The exponents of each approach, and whether the recommended interval contains the paper's a."""
    approach = "" if fits.recommended is None else str(fits.recommended["approach"])
    if approach not in fits.fitted:
        return ""
    f, published = fits.fitted[approach], PAPER_ROWS[approach].a
    law, C = f.N_opt, [p.C for p in f.points]
    where = f"From {flops(min(C))} to {flops(max(C))} training FLOPs, " if C else ""
    text = (
        f"{where}N_opt grows as C^{exponent(law, 2)} and D_opt as C^{exponent(f.D_opt, 2)} by approach "
        f"{name_of(approach, f)}. 10x the compute: {10**law.exponent:.1f}x the parameters and "
        f"{10**f.D_opt.exponent:.1f}x the tokens. Brackets: 80% intervals of the exponents."
    )
    if law.p10 is not None and law.p90 is not None:
        side = "inside" if law.p10 <= published <= law.p90 else "outside"
        text += f" The paper's a by this approach, {published:.2f}, lies {side} the interval."
    others = [
        f"{exponent(o.N_opt, 2)} ({name_of(a, o)})" for a, o in fits.fitted.items() if a != approach
    ]
    return f"{text} Other approaches: {' and '.join(others)}." if others else text


def facts(results: Sequence[RunResult], finals: Observations | None) -> list[tuple[str, str]]:
    """The runs in numbers: (label, value)."""
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
        if len(repeating := finals.repeating()):
            facts.append(("epochs", f"up to {repeating.most_epochs()}, in {len(repeating)} runs"))
    if results:
        facts.append(("total FLOPs", flops(sum(r.flops_spent for r in results))))
        facts.append(("training time", duration(sum(r.train_seconds for r in results))))
    return facts


def notes(results: Sequence[RunResult], fits: FitResults) -> list[tuple[str, str]]:
    """Notes on the data, warnings and unused parts of the fits, unfinished runs: (about, text)."""
    notes = [("Data", str(text)) for text in fits.data.get("notes", [])]
    approaches: dict[str, list[str]] = {}  # by text: several approaches may share a warning
    for approach, f in fits.fitted.items():
        for text in [*f.warnings, *(f"not used: {text}" for text in f.refusals)]:
            approaches.setdefault(text[:1].upper() + text[1:], []).append(name_of(approach, f))
    notes += [("; ".join(names), text) for text, names in approaches.items()]
    unfinished = [r for r in results if r.status != "finished"]
    if unfinished:
        names = ", ".join(f"{r.spec.run_id} ({r.status})" for r in unfinished[:8])
        rest = f" and {len(unfinished) - 8} others" if len(unfinished) > 8 else ""
        text = (
            f"{len(unfinished)} of {len(results)} did not finish and are in no fit: {names}{rest}."
        )
        notes.append(("Runs", text))
    return notes


def conventions(
    results: Sequence[RunResult], finals: Observations | None, fitted: Mapping[str, FitResult]
) -> list[tuple[str, str]]:
    """How N, D, C and L were counted: (quantity, explanation)."""
    first = next(iter(fitted.values()), None)
    recorded: Mapping[str, Any] = first.conventions if first else {}
    if finals is not None:
        recorded = {key: getattr(finals, key) for key in CONVENTIONS}
    texts = {}
    for key, explained in CONVENTIONS.items():
        name = recorded.get(key, "unknown")
        texts[key] = f"{name}: {explained[name]}" if name in explained else name
        if name == "unknown":
            texts[key] = "not stated with the data"
    window = sorted({r.final_loss_steps for r in results if r.status == "finished"})
    if recorded.get("loss_kind") == "train" and window:
        steps = " to ".join(map(str, dict.fromkeys((window[0], window[-1]))))
        texts["loss_kind"] += f"; window of {steps} steps"
    D = "optimizer steps times tokens per batch, repeats included" if results else "as given"
    return [
        ("N, parameters", texts["n_convention"]),
        ("D, tokens", D),
        ("C, training FLOPs", texts["flop_convention"]),
        ("L, nats per token", texts["loss_kind"]),
    ]


def settings(fitted: Mapping[str, FitResult]) -> Table:
    """The settings of the fits: a row for each, a column for each approach."""
    flat = {a: dict(_flatten(f.settings)) for a, f in fitted.items()}
    keys = list(dict.fromkeys(key for values in flat.values() for key in values))
    rows = [
        [Cell(key), *(Cell(flat[a].get(key, NONE), None, "text") for a in fitted)] for key in keys
    ]
    columns = ["Setting", *(name_of(a, f) for a, f in fitted.items())]
    return Table(columns, rows, "Settings that decided the numbers, by approach.")


def environment(results: Sequence[RunResult], meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Provenance given by the caller, then devices, versions and commits of the runs."""
    rows = _flatten(meta)
    versions = (
        f"chinchilla {__version__}, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"matplotlib {metadata.version('matplotlib')}"
    )
    rows.append(("report: versions", versions))
    seen: dict[str, Counter[str]] = {}
    for r in results:
        for key, value in {"device": r.device, "git": r.git, **r.versions}.items():
            seen.setdefault(f"runs: {key}", Counter())[value or "unknown"] += 1
    for key, values in seen.items():
        counted = [f"{value} ({n} runs)" for value, n in sorted(values.items())]
        rows.append((key, ", ".join(values if len(values) == 1 else counted)))
    return rows


def _flatten(value: Mapping[str, Any], head: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, x in value.items():
        if isinstance(x, Mapping):
            rows += _flatten(x, f"{head}{key}.")
        else:
            text = ", ".join(map(str, x)) if isinstance(x, list | tuple) else str(x)
            rows.append((f"{head}{key}", text))
    return rows
