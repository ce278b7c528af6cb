"""The command line: help, errors in one line, and paths; whole commands are in tests/unit/commands."""

import pytest
from command_line import one_line

from chinchilla import cli
from chinchilla.config import COMMANDS
from chinchilla.config.setting import settings_of
from chinchilla.core import paper
from chinchilla.plan.plan_file import load_plan

# ------------------------------------------------------------------ help


@pytest.mark.parametrize("words", ["", "--help", "-h", "help"])
def test_usage_lists_every_command_and_exit_code(say, words):
    result = say(words)
    assert result.code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.out
    for code in ("0 ok", "1 a run failed", "2 bad input", "3 refused", "75 stopped or unfinished"):
        assert code in result.out


@pytest.mark.parametrize("words", ["--version", "-V"])
def test_version(say, words):
    assert say(words).out.split()[0] == "chinchilla"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_lists_every_key(say, command):
    result = say(f"{command} --help")
    assert result.code == 0
    explained = {line.split()[0] for line in result.out.splitlines() if line.startswith("  ")}
    assert {setting.key for setting in settings_of(COMMANDS[command])} <= explained


def test_help_of_a_command_lists_the_named_options_and_the_chosen_one(say):
    out = say("plan --help").out
    grids = next(line for line in out.splitlines() if line.startswith("  grid="))
    assert grids.split() == ["grid=paper", "or", "demo", "gpu_small"]
    assert "cluster=slurm or debug demo local manual slurm_local torchrun" in " ".join(out.split())
    assert "chinchilla_70b" in say("train --help").out


def value_in_help(out: str, key: str) -> str:
    """The text in the last brackets of a setting's help."""
    text = out.partition(f"\n  {key} ")[2].partition("]\n")[0]
    return text.rpartition("[")[2]


def test_help_shows_the_values_that_the_command_will_use(say):
    """Of the chosen YAML files and of the words beside --help, not of the dataclasses."""
    out = say("sweep grid=demo recipe=demo --help").out
    assert value_in_help(out, "recipe.peak_lr") == "0.017"
    assert value_in_help(out, "recipe.batch_tokens") == "512 tokens"
    assert value_in_help(out, "recipe.schedule") == "cosine"
    assert value_in_help(out, "grid.horizon_tokens_per_param") == "4, 8, 16"
    out = say("sweep recipe=cooldown recipe.seed=3 --help").out
    assert value_in_help(out, "recipe.peak_lr") == "0.0002"
    assert value_in_help(out, "recipe.seed") == "3"
    assert value_in_help(out, "recipe.schedule") == "cooldown"
    assert value_in_help(say("score --help").out, "prediction") == "REQUIRED"
    one_line(say("sweep recipe=nothing --help"), 2, "no such recipe")


def test_help_of_predict_lists_rates_and_nothing_of_slurm(say):
    for command in ("predict", "design"):
        out = say(f"{command} --help").out
        assert "rates.mfu" in out
        assert "partition" not in out


# ------------------------------------------------------------------ errors of one line


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("fitt", ["'fitt'", "Did you mean fit?", "Commands: data, plan"]),
        ("zzz", ["'zzz'. Commands"]),
        ("plan gird.span=2", ["plan has no key 'gird.span'", "Did you mean grid.span?"]),
        ("plan recipe.lr=0.1", ["no key 'recipe.lr'", "Did you mean recipe.peak_lr?"]),
        ("plan +grid.foo=3", ["no key '+grid.foo'"]),
        ("plan hydra.run.dir=x", ["no key 'hydra.run.dir'"]),
        ("plan grid.spam", ["'grid.spam' is not key=value", "Did you mean grid.span?"]),
        ("plan --multirun", ["'--multirun' is not key=value"]),
        ("plan grid=papper", ["no such grid", "Did you mean paper?", "Choices: demo, "]),
        ("train model=44mm", ["no such model", "Did you mean 44m?"]),
        ("plan grid.span=wide", ["grid.span=wide"]),
        ("plan cluster.mfu=7", ["cluster.mfu=7.0", "above 0 and at most 1"]),
        ("plan model=57m", ["give tokens="]),
        ("plan grid.sizes_per_budget=2.5", ["grid.sizes_per_budget=2.5", "whole number"]),
        ("plan grid.name=null", ["grid.name=null"]),
        ("flops model.d_model=[1", ["cannot be read as key=value"]),
        ("data corpus=text corpus.paths=[a=b", ["cannot be read as key=value", "quote the value"]),
        ("status", ["sweep_dir is missing"]),
        ("fit", ["sweep_dir=FOLDER", "observations=FILE.csv"]),
        ("report", ["fits is missing", "fits=FOLDER"]),
        ("data corpus=text", ["corpus.paths=FILE_OR_FOLDER, several"]),
        ("flops --config-dir", ["--config-dir=", "is not a folder"]),
        ("flops --config-dir nowhere", ["--config-dir=", "is not a folder"]),
    ],
)
def test_a_typing_error_gives_one_line_with_advice(say, words, parts):
    one_line(say(words), 2, *parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("plan grid.budgets=[1e20,inf]", ["grid.budgets=inf"]),
        ("plan recipe.weight_decay=nan", ["recipe.weight_decay=nan"]),
        ("plan recipe.batch_tokens=1000", ["seq_len=2048", "2048"]),
        ("plan grid.models=[45m]", ["'45m'", "Table A9"]),
        ("plan grid.flop_convention=6nd", ["choose one of with_head, paper"]),
        ("plan grid=demo recipe=demo", ["grid.vocab_size", "data_dir=FOLDER"]),
        ("flops model.positions=alibi", ["model.positions='alibi'"]),
        ("flops model.n_layers=0", ["model.n_layers=0"]),
        ("sweep data_dir=nowhere", ["data_dir", "nowhere"]),
        ("train data_dir=nowhere tokens=1e6", ["data_dir", "nowhere"]),
        ("status sweep_dir=nowhere", ["nowhere", "chinchilla sweep"]),
        ("fit sweep_dir=nowhere", ["nowhere", "chinchilla sweep"]),
        ("report sweep_dir=nowhere", ["nowhere", "chinchilla fit"]),
        ("predict budget_flops=1e20 fits=nowhere", ["nowhere", "chinchilla fit"]),
        ("fit observations=nowhere.csv out_dir=o", ["nowhere.csv", "No such file"]),
        ("fit observations=x=(1).csv out_dir=o", ["observations=x=(1).csv", "No such file"]),
        ("fit observations=it's.csv out_dir=o", ["observations=it's.csv"]),
    ],
)
def test_an_impossible_value_gives_one_line_with_its_key(say, words, parts):
    one_line(say(words), 2, *parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            "plan grid.budgets=[1e13] grid.min_steps=0 recipe.batch_tokens=2048",
            ["1e+13 FLOPs", "Add smaller models"],
        ),
        (
            "plan grid.budgets=[1e20] recipe.batch_tokens=268435456",
            ["budget 1e+20 FLOPs", "at least 100 are needed"],
        ),
        (  # the smallest model and nothing that judges it: only the step is too large
            "plan grid=demo recipe=paper grid.vocab_size=256 recipe.batch_tokens=1073741824"
            " grid.min_steps=1 grid.min_side=0",
            ["Lower recipe.batch_tokens"],
        ),
    ],
)
def test_plans_that_cannot_identify_an_optimum_are_refused(say, words, parts):
    result = say(words)
    one_line(result, 3, "refused: ", *parts)
    assert result.out == ""


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (
            "plan grid.models=44m,57m,74m recipe.batch_tokens=1073741824",
            ["3 sizes, at least 5 are needed", "none of the sizes 43.7m..73.8m are larger",
             "steps of 1073741824 tokens; at least 100 are needed"],
        ),
        (
            "plan grid.models=44m,57m,74m,90m grid.budgets=1e17,1e18",
            ["budgets 1e+17, 1e+18 FLOPs: 4 sizes", "are smaller; 2 are needed", "are larger; 2 are needed"],
        ),
    ],
)  # fmt: skip
def test_all_problems_of_a_plan_are_reported_a_line_each(say, words, messages):
    result = say(words)
    lines = result.err.splitlines()
    assert (result.code, len(lines)) == (3, len(messages)), result.err
    for message, line in zip(messages, lines, strict=True):
        assert line.startswith("chinchilla: refused: grid 'paper', ") or "budget" in line
        assert message in line


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (OSError(28, "No space left on device"), ["No space left on device. Free space"]),
        (OSError(21, "Is a directory", "a/runtime.json"), ["a/runtime.json", "Check the path"]),
        (OSError("odd"), ["odd."]),
    ],
)
def test_an_error_of_the_system_gives_one_line_with_advice(monkeypatch, say, error, parts):
    def fail(*args):
        raise error

    monkeypatch.setattr("chinchilla.cli._run", fail)
    one_line(say("status"), 2, *parts, "run the same command again.")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("plan out=file/plan.jsonl", "out=file"),
        ("data corpus=sotu data_dir=file/data", "data_dir=file/data"),
    ],
)
def test_a_path_that_cannot_be_written_gives_its_key(say, tmp_path, words, key):
    (tmp_path / "file").touch()
    one_line(say(words), 2, key, "not a writable folder")
    one_line(say(["plan", f"out={tmp_path}"]), 2, str(tmp_path), "Is a directory")


# ------------------------------------------------------------------ flops and plan


def test_flops_of_chinchilla_by_every_convention(say):
    words = "flops model=chinchilla_70b model.positions=relative tokens=1.4e12"
    record = say(f"{words} format=json").json
    assert record["n_params"] == 70_061_956_352
    assert record["training_flops"]["six_nd"] == pytest.approx(5.885e23, rel=1e-4)
    assert set(record["training_flops_per_token"]) == {"paper", "with_head", "appendix_f", "six_nd"}
    out = say("flops model.positions=relative").out
    assert "43,720,448" in out
    assert "0.9638" in out  # Appendix F over 6N, as the paper counts it
    assert all(name in out for name in record["training_flops_per_token"])


def test_the_papers_grid_is_planned_written_and_priced(say, tmp_path):
    result = say("plan grid=paper out=plan.jsonl")
    assert (result.code, result.err) == (0, "")
    specs = load_plan(tmp_path / "plan.jsonl")
    assert len(specs) == 81
    assert {s.budget_flops for s in specs} == set(paper.ISOFLOP_BUDGETS)
    assert "81 runs" in result.out
    assert "device-hours" in result.out


def test_a_plan_as_json_holds_the_runs_and_their_cost(say, tmp_path):
    record = say("plan grid=paper out=sub/p.jsonl format=json").json
    specs = load_plan(tmp_path / "sub" / "p.jsonl")
    assert [run["run_id"] for run in record["runs"]] == [s.run_id for s in specs]
    assert record["cost"]["flops"] == pytest.approx(sum(s.C for s in specs))


def test_a_plan_may_be_printed_without_a_file(say, tmp_path):
    assert say("plan out=").code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_plan_does_not_overwrite_that_of_another_grid(tmp_path):
    out = tmp_path / "r\u00e9p \u65e5" / "plan.jsonl"  # letters of any alphabet
    demo = ["plan", "grid=demo", "grid.vocab_size=512", "recipe=demo", f"out={out}"]
    assert cli.main(demo) == 0
    assert cli.main(demo) == 0  # the same grid again is no loss
    before = out.read_text()
    assert cli.main(["plan", "grid=paper", f"out={out}"]) == 2
    assert out.read_text() == before


def test_one_command_after_another_in_one_process(say):
    assert say("flops model=57m").code == 0
    one_line(say("plan grid.span=wide"), 2)
    assert value_in_help(say("flops --help").out, "model.d_model") == "512"
