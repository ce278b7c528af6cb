"""Every table that a command prints, in terminals of 60, 80 and 120 columns."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from data_corpora import documents, write_jsonl
from sweep_fakes import make_result, make_specs, make_sweep
from terminal import in_terminal, not_shown, tables_in

from chinchilla import recommend
from chinchilla.cli import main
from chinchilla.commands import design, propose
from chinchilla.data.prepare import pipeline
from chinchilla.fit.loss_law import named_law
from chinchilla.report import comparison, reproduce
from chinchilla.sweep.claims import acquire
from chinchilla.sweep.run_files import run_dir_of

WIDE, WIDTHS = 200, (120, 80, 60)
SIZE = "grid=demo recipe=demo cluster=demo"
COMMANDS = {  # words -> number of tables
    f"plan {SIZE} grid.vocab_size=512": 1,
    f"plan {SIZE} data_dir=data epochs=100": 2,
    "plan model=44m tokens=1e9": 2,
    "plan hours=10 gpus=8": 1,
    f"sweep {SIZE} data_dir=data epochs=100 dry_run=true sweep_dir=new": 3,
    "sweep grid=demo recipe=demo cluster=slurm data_dir=data epochs=100 dry_run=true sweep_dir=new "
    "cluster.resources=[{name:small,max_params:3e4},{name:the_rest}]": 3,
    "status sweep_dir=sweep": 1,
    "status sweep_dir=sweep rows=0": 1,
    "status sweep_dir=done watch=true": 1,
    "fit observations=fits/observations.csv out_dir=fits2 flop_convention=six_nd": 1,
    "diagnose fits=fits n_bootstrap=10": 0,
    "predict fits=fits budget_flops=[1e22,1e23] detail=true": 8,
    "predict law=muennighoff budget_flops=5.76e23 unique_tokens=1e11": 2,
    "design fits=fits budget_flops=1e22 n_runs=2": 1,
    "compare fits=[fits,code] out_dir=both": 3,
    "score prediction=prediction.json observations=came.csv": 1,
    "reproduce table2 points=fits/observations.csv n_bootstrap=20": 4,
    "data --config-dir . corpus=mine tokenizer.vocab_size=300 validation_fraction=0.3 data_dir=data": 1,
    "data tokenizer --config-dir . corpus=mine tokenizer.vocab_size=300 data_dir=pieces": 1,
    "data overlap data_dir=data against=[rare.jsonl]": 0,
    "flops model=44m tokens=1e9": 1,
}
EXPENSIVE = (  # computed once for all widths
    (recommend, "fit_and_recommend"),
    (design, "propose"),
    (propose, "expected_precision"),
    (reproduce, "reproduce"),
    (pipeline, "make_tokenizer"),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Fits of two laws, a prediction with a measured run, tokens of two sources, and two sweeps."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed, law in enumerate(("hoffmann", "besiroglu")):
            name = ("fits", "code")[seed]
            write_runs(folder / f"{name}.csv", law, seed)
            words = (
                f"fit observations={name}.csv out_dir={name} n_bootstrap=20 flop_convention=six_nd"
            )
            assert main(words.split()) == 0
        words = (
            "predict fits=fits budget_flops=1e22 preregister=true preregister_file=prediction.json"
        )
        assert main(words.split()) == 0
        N, D = 7e9, 1e22 / 6 / 7e9
        (folder / "came.csv").write_text(f"run_id,C,N,D,L\nthe_large_run,1e22,{N},{D},2.1\n")
        for seed, name in enumerate(("common", "rare")):
            write_jsonl(folder / f"{name}.jsonl", documents(60 - 40 * seed, seed))
        (folder / "corpus").mkdir()
        sources = [
            {
                "name": name,
                "weight": w,
                "format": "jsonl",
                "paths": [f"{name}.jsonl"],
                "licence": "CC0",
            }
            for name, w in (("rare", 1), ("common", 3))
        ]
        mixture = yaml.safe_dump({"name": "mine", "sources": sources})
        (folder / "corpus" / "mine.yaml").write_text(mixture)
        [words] = [words for words in COMMANDS if words.startswith("data --config-dir")]
        assert main(words.split()) == 0
        write_sweeps(folder)
    return folder


def write_runs(path: Path, law_name: str, seed: int) -> None:
    """28 runs on a law with .3% noise."""
    law, rng, lines = (
        named_law(law_name),
        np.random.default_rng(seed),
        ["run_id,budget_flops,C,N,D,L"],
    )
    for C in (6e18, 3e19, 1e20, 6e20):
        for factor in np.geomspace(1 / 5, 5, 7):
            N = 0.5 * C**0.4565 * factor
            L = float(law(N, C / (6 * N)) * np.exp(0.003 * rng.normal()))
            lines.append(f"r{len(lines)},{C},{C},{N},{C / (6 * N)},{L}")
    path.write_text("\n".join(lines) + "\n")


def write_sweeps(folder: Path) -> None:
    """A sweep of 1,000 runs, some in every state, and one that has ended."""
    [one] = make_specs(1)
    model = replace(one.model, positions="relative")
    specs = [
        replace(one, seed=i, peak_lr=1e-3 / (1 + i % 3), batch_tokens=1024 * (1 + i % 2))
        for i in range(1000)
    ]
    specs[7] = replace(specs[7], model=model)
    make_sweep(folder / "sweep", specs)
    run_dirs = [run_dir_of(folder / "sweep", s) for s in specs[:4]]
    for run_dir, spec, state in zip(
        run_dirs, specs, ("finished", "diverged", "failed"), strict=False
    ):
        run_dir.mkdir(parents=True)
        reason = "RuntimeError: the disk said no after 12 of 17 steps" * (state != "finished")
        make_result(spec, state, reason, tokens_per_second=123_456.0).save(run_dir)
    acquire(run_dirs[3], "node-17-3")
    progress = {"step": 10, "steps": 20, "loss": 4.0, "utc": "", "tokens_per_second": 10.0}
    (run_dirs[3] / "progress.json").write_text(json.dumps(progress))
    ended = [replace(one, sweep="done", seed=i) for i in range(3)]
    make_sweep(folder / "done", ended)
    for spec in ended:
        run_dir_of(folder / "done", spec).mkdir(parents=True)
        make_result(spec).save(run_dir_of(folder / "done", spec))


@pytest.fixture
def here(world, monkeypatch) -> None:
    monkeypatch.chdir(world)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TERM", "dumb")
    for module, name in EXPENSIVE:
        function, found = getattr(module, name), []

        def once(*args, function=function, found=found, **settings):
            if not found:
                found.append(function(*args, **settings))
            return found[0]

        monkeypatch.setattr(module, name, functools.wraps(function)(once))
    few = functools.partial(propose.expected_precision, n_sweeps=8)
    monkeypatch.setattr(propose, "expected_precision", few)
    monkeypatch.setattr(reproduce, "why_approach_3_differs", lambda *_: [])
    monkeypatch.setattr(comparison, "save_figure_of", lambda *_: None)


@pytest.mark.parametrize("words", COMMANDS)
def test_tables_fit_the_terminal_and_cut_nothing(words: str, here):
    """Shown columns have every word of a wide terminal, others are named, and so is each row."""
    wide = tables_in(in_terminal(words, WIDE))
    assert len(wide) == COMMANDS[words]
    for width in WIDTHS:
        text = in_terminal(words, width)
        lines = [line for line in text.split("\n") if not line.startswith("  chinchilla ")]
        assert max(map(len, lines)) <= width, text
        tables, named = tables_in(text), []
        assert len(tables) == len(wide), text
        for table, full in zip(tables, wide, strict=True):
            assert next(iter(table.items())) == next(iter(full.items())), "the names of the rows"
            assert {head: full[head] for head in table} == table
            named += [[head for head in full if head not in table]]
        assert [heads for heads in named if heads] == not_shown(text)
