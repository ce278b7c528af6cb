"""`chinchilla fit minima=` and `chinchilla predict` on what it wrote: losses at minima alone."""

from dataclasses import asdict
from pathlib import Path

from chinchilla import config
from chinchilla.commands.shared import print_json
from chinchilla.core.errors import Refusal
from chinchilla.core.files import writable_dir
from chinchilla.fit.results import FILE, FitResults
from chinchilla.observations.read_table import read_csv

NEEDS_A_LAW = ("law", "target_loss", "inference_tokens", "unique_tokens", "preregister")


def fit(command: config.FitCommand) -> int:
    """Forecast the loss (and N_opt) from a table of minima, write frontier.json, print the answer."""
    from chinchilla.commands.show_answer import show_recommended
    from chinchilla.recommend.minima_table import fit_minima

    table = read_csv(Path(command.minima), "minima", command.columns)
    fits = fit_minima(table, asdict(command), command.duplicates)
    out_dir = writable_dir(Path(command.out_dir), "out_dir")
    fits.save(out_dir / FILE)
    if command.format == "json":
        print((out_dir / FILE).read_text(encoding="utf-8"), end="")
        return 0
    for note in fits.data["notes"]:
        print(f"note: {note}")
    print(f"wrote {out_dir / FILE}")
    show_recommended(fits)
    return 0


def predict(command: config.PredictCommand, fits: FitResults) -> int:
    """The recommended loss, and N and D where N was known, at each budget.

    Raises:
        Refusal: a question that needs a loss law of N and D.
    """
    from chinchilla.recommend.evaluate import default_budget, headline, recommendation

    if asked := [name for name in NEEDS_A_LAW if getattr(command, name)]:
        raise Refusal(
            f"frontier={command.frontier} was made from losses at minima alone (minima=), and "
            f"{', '.join(asked)} needs a loss law of N and D. Leave it out, or leave frontier out and give "
            "law=NAME."
        )
    budgets = command.budget_flops or [default_budget(fits)]
    answers = [recommendation(fits, C, command.force) for C in budgets]
    if command.format == "json":
        rows = [answer.to_dict() for answer in answers]
        return print_json({"recommended": rows[0], "recommendations": rows, "predictions": []})
    for answer in answers:
        print(headline(answer))
        for reason in answer.reasons:
            print(f"reason: {reason}")
    for note in fits.data["notes"]:
        print(f"note: {note}")
    return 0
