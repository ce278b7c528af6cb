"""The command line: help, composition, errors in one line, and whole commands."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest

from chinchilla import cli
from chinchilla.config import COMMANDS, GridConfig, ModelConfig, RecipeConfig
from chinchilla.config.compose import (
    GROUPS,
    _schemas,
    choices,
    compose,
    composed,
    config_dir,
    groups_of,
)
from chinchilla.core import paper
from chinchilla.core.errors import InputError
from chinchilla.core.shapes import named_shapes, shape_named
from chinchilla.fit.loss_law import named_law, six_nd_frontier
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.plan.grid import build_shape, plan_grid
from chinchilla.plan.records import Curve, RunResult, load_plan, save_plan

MODELS = choices("model")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """run("plan grid=paper") -> exit code, stdout, stderr; in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(words: str | list[str]) -> Result:
        capsys.readouterr()
        code = cli.main(words.split() if isinstance(words, str) else words)
        return Result(code, *capsys.readouterr())

    return run


def one_line(result: Result, code: int, *parts: str) -> None:
    """Check that the error is exactly one line, which contains every part."""
    assert result.code == code
    assert result.err.count("\n") == 1
    assert result.err.startswith("chinchilla: ")
    assert result.err.endswith("\n")
    assert "Traceback" not in result.err + result.out
    for part in parts:
        assert part in result.err


# ------------------------------------------------------------------ help


@pytest.mark.parametrize("words", ["", "--help", "-h", "help"])
def test_usage_lists_every_command_and_exit_code(run, words):
    result = run(words)
    assert result.code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.out
    for code in ("0 ok", "1 a run failed", "2 bad input", "3 refused", "75 requeue"):
        assert code in result.out


@pytest.mark.parametrize("words", ["--version", "-V"])
def test_version(run, words):
    assert run(words).out.split()[0] == "chinchilla"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_lists_every_key(run, command):
    result = run(f"{command} --help")
    assert result.code == 0
    explained = {line.split()[0] for line in result.out.splitlines() if line.startswith("  ")}
    from omegaconf import OmegaConf

    values, _ = composed(command, [])
    for key in leaves(OmegaConf.to_container(values)):
        assert key in explained


def leaves(value: dict, prefix: str = "") -> list[str]:
    found = []
    for name, inner in value.items():
        key = f"{prefix}{name}"
        found += leaves(inner, f"{key}.") if isinstance(inner, dict) else [key]
    return found


def test_help_of_a_command_lists_the_named_options_and_the_chosen_one(run):
    out = run("plan --help").out
    grids = next(line for line in out.splitlines() if line.startswith("  grid="))
    assert grids.split() == ["grid=paper", "or", "demo", "gpu_small"]
    assert "cluster=slurm or debug local slurm_local torchrun" in " ".join(out.split())
    assert "chinchilla_70b" in run("train --help").out


def value_in_help(out: str, key: str) -> str:
    """The text in the last brackets of a setting's help."""
    text = out.partition(f"\n  {key} ")[2].partition("]\n")[0]
    return text.rpartition("[")[2]


def test_help_shows_the_values_that_the_command_will_use(run):
    """Of the chosen YAML files and of the words beside --help, not of the dataclasses."""
    out = run("sweep --help").out
    assert value_in_help(out, "recipe.peak_lr") == "0.017"
    assert value_in_help(out, "recipe.batch_tokens") == "512 tokens"
    assert value_in_help(out, "recipe.schedule") == "cosine"
    assert value_in_help(out, "grid.horizon_tokens_per_param") == "4, 8, 16"
    out = run("sweep recipe=cooldown recipe.seed=3 --help").out
    assert value_in_help(out, "recipe.peak_lr") == "0.0002"
    assert value_in_help(out, "recipe.seed") == "3"
    assert value_in_help(out, "recipe.schedule") == "cooldown"
    assert value_in_help(run("score --help").out, "prediction") == "REQUIRED"
    one_line(run("sweep recipe=nothing --help"), 2, "no such recipe")


# ------------------------------------------------------------------ typing errors


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("fitt", ["no command 'fitt'", "Did you mean fit?", "Commands: data, plan"]),
        ("zzz", ["no command 'zzz'. Commands"]),
        ("plan gird.span=2", ["plan has no key 'gird.span'", "Did you mean grid.span?", "--help"]),
        ("plan sweep_dir=x", ["plan has no key 'sweep_dir'"]),
        ("plan =3", ["plan has no key ''"]),
        ("plan +grid.foo=3", ["plan has no key '+grid.foo'"]),
        ("plan hydra.run.dir=x", ["plan has no key 'hydra.run.dir'"]),
        ("plan grid.spam", ["'grid.spam' is not key=value", "Did you mean grid.span?"]),
        ("plan grid", ["'grid' is not key=value", "Write grid=VALUE"]),
        ("plan --multirun", ["'--multirun' is not key=value"]),
        ("plan grid=papper", ["no such grid", "Did you mean paper?", "Choices: demo, "]),
        ("train model=44mm", ["no such model", "Did you mean 44m?", "gopher_280b"]),
        ("flops model=null", ["model=null: there is no such model"]),
        ("flops model=", ["model=: there is no such model"]),
        ("flops experiment=x", ["no such experiment", "Choices: none"]),
        ("plan grid.span=wide", ["grid.span=wide", "'wide'", "could not be converted to Float"]),
        ("plan cluster.mfu=7", ["cluster.mfu=7.0", "above 0 and at most 1"]),
        ("plan model=57m", ["model= is for one model. Give tokens="]),
        ("plan tokens=1e30", ["steps=", "not a whole number from 1 to 2^62"]),
        ("plan grid.sizes_per_budget=2.5", ["grid.sizes_per_budget=2.5", "to Integer"]),
        ("plan recipe.seed=", ["recipe.seed=", "to Integer"]),
        ("plan grid.name=null", ["grid.name=null", "not Optional"]),
        ("flops ~model.d_model=512", ["~model.d_model", "Did you mean model.d_model?"]),
        ("predict budget_flops=a", ["budget_flops=[a]", "could not be converted to Float"]),
        ("flops model.d_model=[1", ["model.d_model=[1 cannot be read as key=value"]),
        ("data corpus=text corpus.paths=[a=b]", ["cannot be read as key=value", "quotes"]),
        ("predict", ["budget_flops is missing: give budget_flops=VALUE", "predict --help"]),
        ("status", ["sweep_dir is missing"]),
        ("fit", ["sweep_dir=FOLDER", "observations=FILE.csv"]),
        ("report", ["sweep_dir=FOLDER", "fits=FOLDER"]),
        ("fit observations=x.csv", ["out_dir is missing"]),
        ("data corpus=text", ["corpus.paths=[FILE_OR_FOLDER, ...]"]),
        ("flops --config-dir", ["--config-dir needs a folder"]),
        ("flops --config-dir nowhere", ["--config-dir needs a folder"]),
    ],
)  # fmt: skip
def test_a_typing_error_gives_one_line_with_advice(run, words, parts):
    one_line(run(words), 2, *parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("predict budget_flops=-1", ["budget_flops=-1.0 must be at least 1000"]),
        ("predict budget_flops=inf", ["budget_flops=inf"]),
        ("plan grid.budgets=[1e20,inf]", ["grid.budgets=inf"]),
        ("plan recipe.peak_lr=inf", ["recipe.peak_lr=inf"]),
        ("plan recipe.weight_decay=nan", ["recipe.weight_decay=nan"]),
        ("plan recipe.batch_tokens=1000", ["not a multiple of seq_len=2048", "nearest is 2048"]),
        ("plan grid.models=[45m]", ["'45m' is neither a row of Table A9"]),
        ("plan grid.flop_convention=6nd", ["choose one of with_head, paper"]),
        ("plan grid.expected_coefficient=-1", ["grid.expected_coefficient=-1.0 must be above 0"]),
        ("plan grid=demo recipe=demo", ["grid.vocab_size is not known", "data_dir=FOLDER"]),
        ("flops model.positions=alibi", ["model.positions='alibi'"]),
        ("flops model.n_layers=0", ["model.n_layers=0 is not a positive whole number"]),
        ("plan data_dir=nowhere", ["data_dir", "nowhere"]),
        ("sweep data_dir=nowhere", ["data_dir", "nowhere"]),
        ("train data_dir=nowhere tokens=1e6", ["data_dir", "nowhere"]),
        ("status sweep_dir=nowhere", ["nowhere", "chinchilla sweep"]),
        ("fit sweep_dir=nowhere", ["nowhere", "chinchilla sweep"]),
        ("report sweep_dir=nowhere", ["nowhere", "chinchilla fit"]),
        ("predict budget_flops=1e20 frontier=nowhere", ["nowhere", "chinchilla fit"]),
        ("fit observations=nowhere.csv out_dir=o", ["nowhere.csv", "No such file"]),
        ("fit observations=x=(1).csv out_dir=o", ["observations=x=(1).csv", "No such file"]),
        ("fit observations=it's.csv out_dir=o", ["observations=it's.csv"]),
    ],
)  # fmt: skip
def test_an_impossible_value_gives_one_line_with_its_key(run, words, parts):
    one_line(run(words), 2, *parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("plan grid.budgets=[1e13]", ["1e+13 FLOPs", "optimum is expected", "Add smaller models"]),
        (
            "plan grid.budgets=[1e20] recipe.batch_tokens=268435456",
            ["budget 1e+20 FLOPs", "steps of 268435456 tokens", "at least 100 are needed"],
        ),
        (  # the smallest model and nothing that judges it: only the step is too large
            "plan grid=demo recipe=paper grid.vocab_size=256 recipe.batch_tokens=1073741824"
            " grid.min_steps=1 grid.min_side=0",
            ["at least 1 are needed", "Lower recipe.batch_tokens"],
        ),
        ("plan grid.models=[44m,57m,74m]", ["3 sizes, at least 5 are needed"]),
    ],
)
def test_plans_that_cannot_identify_an_optimum_are_refused(run, words, parts):
    result = run(words)
    one_line(result, 3, "refused: ", *parts)
    assert result.out == ""


# ------------------------------------------------------------------ configs


GIVEN = {  # the values that only a person can give
    "diagnose": ["fits=f"],
    "status": ["sweep_dir=s"],
    "logs": ["sweep_dir=s"],
    "sync": ["sweep_dir=s"],
    "retry": ["sweep_dir=s"],
    "cancel": ["sweep_dir=s"],
    "fit": ["sweep_dir=s"],
    "report": ["sweep_dir=s"],
    "fetch": ["points=hoffmann", "out=x.csv"],
    "compare": ["sweep_dirs=[a,b]", "out_dir=c"],
    "predict": ["budget_flops=1e20"],
    "design": ["frontier=f", "budget_flops=1e20"],
    "score": ["prediction=p", "result=r"],
    "reproduce": ["table=table2", "points=x.csv"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command):
    """As far as it goes without the values that only a person can give."""
    settings = compose(command, GIVEN.get(command, []))
    assert type(settings) is COMMANDS[command]


def test_every_yaml_belongs_to_a_command_or_a_group():
    names = {str(p.relative_to(config_dir()).with_suffix("")) for p in config_dir().rglob("*.yaml")}
    groups = {f"{g}/{name}" for g in GROUPS if g != "model" for name in choices(g)}
    with_groups = {c for c in COMMANDS if groups_of(c) != ["experiment"]}
    assert names == with_groups | groups


NEEDED = {"text": ["corpus.paths=[a.txt]"], "jsonl": ["corpus.paths=[a.jsonl]"],
          "parquet": ["corpus.paths=[a.parquet]"]}  # fmt: skip


def combinations(command: str) -> list[list[str]]:
    """Words that between them choose every name of every group of a command, a name a group."""
    groups = {g: choices(g) for g in GROUPS if g in COMMANDS[command].__annotations__}
    groups = {g: names for g, names in groups.items() if g != "model" and names}
    n = max(map(len, groups.values()), default=0)
    return [[f"{g}={names[i % len(names)]}" for g, names in groups.items()] for i in range(n)]


@pytest.mark.parametrize(
    ("command", "words"),
    [(command, words) for command in COMMANDS for words in combinations(command)],
)
def test_every_named_choice_composes_with_every_command_that_has_its_group(command, words):
    chosen = dict(word.split("=") for word in words)
    needed = [*NEEDED.get(chosen.get("corpus"), []), *GIVEN.get(command, [])]
    settings = compose(command, [*words, *needed])
    for group, name in chosen.items():
        if hasattr(getattr(settings, group), "name"):
            assert getattr(settings, group).name == name


def test_there_are_fifty_two_models():
    assert len(MODELS) == len(set(MODELS)) == 52


@pytest.mark.parametrize("name", MODELS)
def test_every_model_name_gives_its_shape(name):
    from omegaconf import OmegaConf

    chosen = _schemas("train")["model"][f"{name}.yaml"].node
    model = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), chosen))
    model.positions = "relative"
    assert build_shape(model, paper.VOCAB_SIZE) == named_shapes()[name]


@pytest.mark.parametrize("command", ["train", "flops"])
@pytest.mark.parametrize("name", ["57m", "2.30b", "gopher_280b"])
def test_a_model_name_composes(command, name):
    model = compose(command, [f"model={name}", "model.seq_len=128"]).model
    assert (model.d_model, model.seq_len) == (named_shapes()[name].d_model, 128)


def test_a_whole_number_may_be_written_with_an_exponent():
    assert compose("flops", ["model.vocab_size=3.2e4"]).model.vocab_size == 32_000
    with pytest.raises(InputError, match=r"model.vocab_size=2.5e0.*to Integer"):
        compose("flops", ["model.vocab_size=2.5e0"])


@pytest.mark.parametrize("named", [[], ["model=57m"]])
def test_another_width_changes_feed_forward_and_heads(named):
    words = [*named, "model.d_model=384", "model.n_layers=6"]
    shape = build_shape(compose("flops", words).model, paper.VOCAB_SIZE)
    assert shape == shape_named("384x6", paper.VOCAB_SIZE, paper.SEQ_LEN, 64, "rope")


USES_HYDRA = """
from hydra.core.config_store import ConfigStore
from chinchilla import cli
from chinchilla.core.errors import InputError

cli.compose("flops", ["model=57m", "tokens=5"])  # Hydra's plugins are in the store from here on
ConfigStore.instance().store(name="another", node={"key": 1})
before = ConfigStore.instance().repo
cli.compose("flops", ["model=57m", "tokens=5"])
try:
    cli.compose("flops", ["model=57m", "tokens=five"])
except InputError:
    print("refused")
assert ConfigStore.instance().repo is before
assert {"another.yaml", "hydra"} <= before.keys()
assert {"config.yaml", "launcher", "sweeper"} <= before["hydra"].keys()
assert "flops_schema.yaml" not in before
"""


def test_hydras_store_is_restored_for_other_users_in_the_process():
    """In an interpreter of its own: plugins register once, whatever other tests did before."""
    done = subprocess.run(
        [sys.executable, "-c", USES_HYDRA], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


def test_names_that_yaml_would_read_as_numbers_stay_names():
    assert compose("data", ["corpus=wikipedia"]).corpus.hub_config == "20231101.en"


@pytest.mark.parametrize("words", ["flops --cfg", "flops --cfg job"])
def test_cfg_prints_the_composed_settings(run, words):
    result = run(f"{words} model=57m tokens=5")
    assert result.code == 0
    assert "d_model: 576" in result.out
    assert "tokens: 5" in result.out


def test_cfg_shows_missing_values_as_missing(run):
    assert "budget_flops: ???" in run("design --cfg").out


def test_a_list_may_be_given_without_brackets(run):
    rows = json.loads(run("predict budget_flops=1e20,1e21 format=json").out)["predictions"]
    assert {row["C"] for row in rows} == {1e20, 1e21}


def test_options_of_the_user_come_from_a_folder(run, tmp_path):
    (tmp_path / "mine" / "recipe").mkdir(parents=True)
    (tmp_path / "mine" / "recipe" / "hot.yaml").write_text("peak_lr: 0.5\n")
    result = run("plan --config-dir mine recipe=hot --cfg")
    assert "peak_lr: 0.5" in result.out
    one_line(run("plan recipe=hot --cfg"), 2, "no such recipe")


def test_one_command_after_another_in_one_process(run):
    assert run("flops model=57m --cfg").code == 0
    one_line(run("plan grid.span=wide"), 2)
    assert "d_model: 512" in run("flops --cfg").out


# ------------------------------------------------------------------ flops and plan


def test_flops_of_chinchilla(run):
    result = run("flops model=chinchilla_70b model.positions=relative tokens=1.4e12 format=json")
    record = json.loads(result.out)
    assert record["n_params"] == 70_061_956_352
    assert record["training_flops"]["six_nd"] == pytest.approx(5.885e23, rel=1e-4)
    assert set(record["training_flops_per_token"]) == {"paper", "with_head", "appendix_f", "six_nd"}


def test_flops_as_text_names_every_convention(run):
    result = run("flops model.positions=relative")
    assert "43,720,448" in result.out
    for name in ("paper", "with_head", "appendix_f", "six_nd"):
        assert name in result.out
    assert "0.9638" in result.out  # Appendix F over 6N, as the paper counts it


def test_the_papers_grid_is_planned_written_and_priced(run, tmp_path):
    result = run("plan grid=paper")
    assert result.code == 0
    assert result.err == ""
    specs = load_plan(tmp_path / "plan.jsonl")
    assert len(specs) == 81
    assert {s.budget_flops for s in specs} == set(paper.ISOFLOP_BUDGETS)
    assert "81 runs" in result.out
    assert "device-hours" in result.out


def test_a_plan_as_json_holds_the_runs_and_their_cost(run, tmp_path):
    result = run("plan grid=paper out=sub/p.jsonl format=json")
    record = json.loads(result.out)
    specs = load_plan(tmp_path / "sub" / "p.jsonl")
    assert [run["run_id"] for run in record["runs"]] == [s.run_id for s in specs]
    assert record["cost"]["flops"] == pytest.approx(sum(s.C for s in specs))


def test_a_plan_may_be_printed_without_a_file(run, tmp_path):
    assert run("plan out=").code == 0
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ a CSV of runs, to the report

FIT = "fit observations=runs.csv out_dir=fits n_bootstrap=20 flop_convention=six_nd"
LAW = named_law("hoffmann")


@pytest.fixture
def law_csv(tmp_path):
    """The nine budgets with nine sizes each, losses by the published law, C = 6ND."""
    (log_k, a), _, _ = six_nd_frontier(LAW)
    lines = ["run_id,budget_flops,C,N,D,L"]
    for C in paper.ISOFLOP_BUDGETS:
        for i, factor in enumerate(np.geomspace(1 / 4, 4, 9)):
            N = float(np.exp(log_k) * C**a * factor)
            D = C / (6 * N)
            lines.append(f"c{C:.0e}-{i},{C!r},{C!r},{N!r},{D!r},{float(LAW(N, D))!r}")
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "runs.csv"


def test_fits_of_runs_drawn_from_a_law_recover_it(run, law_csv, tmp_path):
    result = run(f"{FIT} format=json")
    assert (result.code, result.err) == (0, "")
    record = json.loads(result.out)["approaches"]
    assert set(record) == {"envelope", "isoflop", "parametric"}
    assert {f["status"] for f in record.values()} == {"fitted"}
    exponents = {name: f["N_opt"]["exponent"] for name, f in record.items()}
    assert exponents["parametric"] == pytest.approx(0.45653, abs=1e-5)
    # A parabola's minimum is exact only for alpha = beta; the same offset at all budgets.
    assert exponents["isoflop"] == pytest.approx(0.45653, abs=1e-3)
    law = record["parametric"]["law"]
    for name in ("E", "A", "B", "alpha", "beta"):
        assert law[name] == pytest.approx(getattr(LAW, name), rel=1e-4)
    assert (tmp_path / "fits" / "frontier.json").read_text() == result.out
    assert (tmp_path / "fits" / "observations.csv").exists()


def test_predict_and_report_read_a_fit(run, law_csv, tmp_path):
    result = run(FIT)
    assert result.code == 0
    assert "wrote" in result.out
    result = run("predict budget_flops=5.76e23 frontier=fits format=json")
    rows = json.loads(result.out)["predictions"]
    by = {row["by"]: row for row in rows}
    assert by["this data, parametric"]["N"] == pytest.approx(40.36e9, rel=1e-3)
    assert by["this data, parametric"]["D"] == pytest.approx(2.379e12, rel=1e-3)
    assert not any(name.startswith(("law", "paper", "Kaplan")) for name in by)  # 44 times too far
    out = run("predict budget_flops=5.76e23 frontier=fits").out
    assert "note: not shown, over 10x outside the compute of their runs: paper approach 1, " in out
    assert all(f"│ {name} " in out for name in ("envelope", "isoflop", "parametric"))
    result = run("report fits=fits")
    assert (result.code, result.err) == (0, "")
    page = (tmp_path / "fits" / "report" / "report.html").read_text()
    assert "<svg" in page or "data:image" in page


def test_predictions_without_fits_are_the_published_ones(run):
    words = "predict budget_flops=[1e22,5.76e23]"
    rows = json.loads(run(f"{words} format=json").out)["predictions"]
    N = {(row["C"], row["by"]): row["N"] for row in rows}
    assert N[1e22, "law besiroglu"] < N[5.76e23, "law besiroglu"]
    assert N[5.76e23, "law besiroglu"] == pytest.approx(72.25e9, rel=2e-4)
    assert N[1e22, "law hoffmann"] == pytest.approx(6.343e9, rel=2e-4)
    assert N[1e22, "paper, approach 2 (line through Table A3)"] == pytest.approx(8.686e9, rel=2e-3)
    assert len(rows) == 7 + 1
    assert run(words).out.count("note: not shown, over 10x") == 1


def test_a_refused_approach_leaves_no_older_result(run, law_csv, tmp_path):
    run(FIT)
    lines = law_csv.read_text().splitlines()
    law_csv.write_text(
        "\n".join(
            [
                lines[0],
                *(f"{i},,{x.split(',', 2)[2]}" for i, x in enumerate(lines[1:]) if i % 9 in (2, 6)),
            ]
        )
    )  # no budget is named, and two sizes of one C show none
    record = json.loads(run(f"{FIT} approaches=isoflop,parametric format=json").out)
    assert {name: f["status"] for name, f in record["approaches"].items()} == {
        "isoflop": "refused",
        "parametric": "fitted",
    }
    assert "no run names one" in record["approaches"]["isoflop"]["reason"]


def test_a_fit_with_all_approaches_refused_exits_3_with_the_reasons(run, tmp_path):
    (tmp_path / "runs.csv").write_text(
        "run_id,budget_flops,C,N,D,L\na,,6e17,1e8,1e9,3.1\nb,,1.2e18,1e8,2e9,3\n"
    )
    result = run(FIT)
    assert result.code == 3
    assert "Traceback" not in result.out + result.err
    result = run(f"{FIT} format=json")
    assert result.code == 3
    record = json.loads(result.out)["approaches"]
    assert set(record) == {"envelope", "isoflop", "parametric"}
    assert {f["status"] for f in record.values()} == {"refused"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["found none", "run_id,budget_flops,C,N,D,L"]),
        ("run_id,C,N,D\na,1,2,3\n", ["no column L (found run_id, C, N, D)"]),
        ("run_id,budget_flops,C,N,D,L\n", ["no runs, only a header"]),
        ("run_id,budget_flops,C,N,D,L\na,,1,2,3,nan\n", ["line 2: L=nan"]),
        ("run_id,budget_flops,C,N,D,L\na,,1,2,x,3\n", ["line 2: D='x' is not a number"]),
        ("run_id,budget_flops,C,N,D,L\na,,1,2,3,4\na,,1,2,3,5\n", ["line 3: the same run as line 2"]),
        ("a\nb,\x00\x01\n", ["contains NUL bytes"]),
    ],
)  # fmt: skip
def test_a_malformed_csv_gives_one_line(run, tmp_path, text, parts):
    (tmp_path / "runs.csv").write_text(text)
    one_line(run(FIT), 2, "runs.csv", *parts)
    assert not (tmp_path / "fits").exists()


# ------------------------------------------------------------------ places


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (FIT.replace("out_dir=fits", "out_dir=runs.csv/fits"), "out_dir=runs.csv/fits"),
        ("plan out=runs.csv/plan.jsonl", "out=runs.csv"),
        ("data data_dir=runs.csv/data", "data_dir=runs.csv/data"),
    ],
)
def test_a_path_that_cannot_be_written_gives_its_key(run, law_csv, words, key):
    one_line(run(words), 2, key, "not a writable folder")


def test_a_folder_given_as_a_file_gives_one_line(run, tmp_path):
    one_line(run(["plan", f"out={tmp_path}"]), 2, str(tmp_path), "Is a directory")


def test_paths_may_hold_spaces_equals_and_brackets(run, law_csv, tmp_path):
    odd = tmp_path / "a b=c (1)"
    odd.mkdir()
    law_csv.rename(odd / "r.csv")
    result = run(["fit", f"observations={odd}/r.csv", f"out_dir={odd}/fits", "n_bootstrap=0",
                "approaches=parametric"])  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert (odd / "fits" / "frontier.json").exists()


# ------------------------------------------------------------------ a sweep's folder


@pytest.fixture
def sweep_dir(tmp_path):
    """A planned sweep of five tiny runs, all finished, losses by the law."""
    grid = GridConfig(
        name="tiny", budgets=[2e11], models=["16x2", "24x2", "32x2", "48x2", "64x3"], kv_size=16,
        seq_len=128, vocab_size=512, min_side=0,
    )  # fmt: skip
    recipe = RecipeConfig(batch_tokens=1024)
    specs = plan_grid(grid, recipe, vocab_size=0, data_id="d", precision="fp32")
    folder = tmp_path / "sweep"
    folder.mkdir()
    save_plan(specs, folder / "plan.jsonl")
    for spec in specs:
        run_dir = folder / "runs" / spec.run_id
        run_dir.mkdir(parents=True)
        final = float(LAW(spec.N, spec.D))
        RunResult(
            spec=spec, status="finished", reason="", final_loss=final, final_loss_se=0.01,
            final_loss_steps=10, validation_loss={"validation": final + 0.1},
            validation_tokens={"validation": 1000}, bits_per_byte={"validation": 1.0}, n_params=spec.N,
            n_params_non_embedding=1, steps_done=spec.steps, flops_spent=spec.C, train_seconds=1.0,
            tokens_per_second=1.0, mfu=None, peak_memory_bytes=1, device="cpu", versions={},
            git="", started_utc="2026-01-01T00:00:00Z", finished_utc="2026-01-01T00:00:01Z",
        ).save(run_dir)  # fmt: skip
        loss = final + 3.0 / np.sqrt(np.arange(1, spec.steps + 1))
        Curve(np.arange(spec.steps), loss).save(run_dir)
    return folder


def test_fit_of_a_sweep_writes_into_its_folder(run, sweep_dir):
    result = run("fit sweep_dir=sweep n_bootstrap=20 format=json")
    record = json.loads(result.out)["approaches"]
    assert set(record) == {"envelope", "isoflop", "parametric"}
    assert result.code == (0 if any(f["status"] == "fitted" for f in record.values()) else 3)
    header, *rows = (sweep_dir / "fits" / "observations.csv").read_text().splitlines()
    assert header.startswith("run_id,budget_flops,C,N,D,L")
    assert len(rows) == 5


def test_a_report_refuses_fits_of_other_runs(run, sweep_dir):
    """Fits of a run that this sweep does not have, and of another final loss of one it has."""
    for path in sweep_dir.glob("runs/*"):  # so tiny that the law's losses are over 15 nats
        result = RunResult.load(path)
        replace(result, final_loss=result.final_loss / 5).save(path)
    run("fit sweep_dir=sweep n_bootstrap=20")
    other = sweep_dir.parent / "other"
    other.mkdir()
    rows = (sweep_dir / "fits" / "observations.csv").read_text().splitlines()
    wider = rows[-1].split(",")
    wider[0], wider[3] = "wider", "1e6"  # run_id and N
    (other / "observations.csv").write_text("\n".join([*rows, ",".join(wider)]) + "\n")
    table = Observations.from_csv(other / "observations.csv")
    replace(FitResults.load(sweep_dir / "fits"), runs=table).save(other)
    result = run("report sweep_dir=sweep fits=other out_dir=page")
    one_line(
        result, 2, "fits=other was fitted to 6 runs, and 1 of them (wider) are not runs of sweep"
    )
    spec = load_plan(sweep_dir / "plan.jsonl")[1]
    result = RunResult.load(sweep_dir / "runs" / spec.run_id)
    changed = replace(result, final_loss=result.final_loss + 0.01)
    changed.save(sweep_dir / "runs" / spec.run_id)
    result = run("report sweep_dir=sweep out_dir=page")
    one_line(
        result, 2, f"fitted to 5 runs, and 1 of them ({spec.run_id}) are not runs of sweep_dir"
    )
    assert not (sweep_dir.parent / "page").exists()


def test_status_as_json_counts_the_finished(run, sweep_dir):
    next(sweep_dir.glob("runs/*/result.json")).unlink()
    record = json.loads(run("status sweep_dir=sweep format=json").out)
    assert (record["done"], record["fraction"]) == (4, pytest.approx(0.8, abs=0.15))


@pytest.mark.parametrize("command", ["status", "fit"])
def test_a_sweep_planned_by_another_version_gives_one_line(run, sweep_dir, command):
    specs = load_plan(sweep_dir / "plan.jsonl")
    save_plan([replace(s, schema=1) for s in specs], sweep_dir / "plan.jsonl")
    one_line(
        run(f"{command} sweep_dir=sweep"), 2, "plan.jsonl line 1", "schema 1", "reads schema 3"
    )


def test_results_of_another_version_give_one_line(run, sweep_dir):
    spec = load_plan(sweep_dir / "plan.jsonl")[0]
    run_dir = sweep_dir / "runs" / spec.run_id
    replace(RunResult.load(run_dir), schema=1).save(run_dir)
    one_line(run("fit sweep_dir=sweep"), 2, "result.json", "schema 1")


def test_a_damaged_curve_gives_one_line(run, sweep_dir):
    spec = load_plan(sweep_dir / "plan.jsonl")[0]
    (sweep_dir / "runs" / spec.run_id / "curve.npz").write_bytes(b"PK\x03\x04")
    one_line(run("fit sweep_dir=sweep"), 2, "training curve", "curve.npz")


def test_a_sweep_without_finished_runs_gives_one_line(run, sweep_dir):
    for result in sweep_dir.glob("runs/*/result.json"):
        result.unlink()
    one_line(run("fit sweep_dir=sweep"), 2, "no run has finished yet", "chinchilla status")


def test_fits_of_another_version_give_one_line(run, law_csv, tmp_path):
    run(FIT)
    record = json.loads((tmp_path / "fits" / "frontier.json").read_text())
    (tmp_path / "fits" / "frontier.json").write_text(json.dumps({**record, "schema": 1}))
    for words in ("predict budget_flops=1e20 frontier=fits", "report fits=fits"):
        one_line(run(words), 2, "frontier.json")


def test_a_plan_does_not_overwrite_that_of_another_grid(tmp_path):
    out = tmp_path / "plan.jsonl"
    demo = ["plan", "grid=demo", "grid.vocab_size=512", "recipe=demo", f"out={out}"]
    assert cli.main(demo) == 0
    assert cli.main(demo) == 0  # the same grid again is no loss
    before = out.read_text()
    assert cli.main(["plan", "grid=paper", f"out={out}"]) == 2
    assert out.read_text() == before


def test_an_option_that_is_not_yaml_gives_one_line(capsys, tmp_path):
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "bad.yaml").write_text("name: x\nbudgets: [1e17\n")
    assert cli.main(["plan", f"--config-dir={tmp_path}", "grid=bad"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("chinchilla: a named option is not YAML")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("w", "weight: lots", ("corpus=w", "weight", "'lots'")),
        ("i", "max_documents: 1e3", ("max_documents: Value '1000.0'", "converted to Integer")),
        ("b", "gopher: 7.5", ("corpus.gopher: Value '7.5' is not a valid bool",)),
        ("p", "paths: /x", ("corpus=p", "is not a ListConfig, list")),
        ("n", "sources: [null]", ("corpus=n", "NoneType is not a subclass of SourceConfig")),
        ("s", "sources: [x]", ("corpus=s", "str is not a subclass of SourceConfig")),
        ("nan", "format: text\npaths: [/x]", ("/x does not exist",)),
        ("inf", "format: text\npaths: [/x]", ("/x does not exist",)),
    ],
)
def test_an_invalid_option_of_the_user_gives_the_reason(capsys, tmp_path, name, text, parts):
    """Also one whose name Hydra would read as a number."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / f"{name}.yaml").write_text(text)
    words = ["--config-dir", str(tmp_path), f"corpus={name}", f"data_dir={tmp_path / 'd'}"]
    assert cli.main(["data", *words]) == 2
    result = capsys.readouterr().err
    assert result.count("\n") == 1
    for part in parts:
        assert part in result


@pytest.mark.parametrize("name", ["it's", "a\\", "a\\b", "\\'\\\\", "a b=c"])
def test_an_option_of_the_user_may_have_any_name(tmp_path, name):
    folder = tmp_path / "peter's"
    (folder / "corpus").mkdir(parents=True)
    (folder / "corpus" / f"{name}.yaml").write_text("format: embedded\nmax_documents: 7")
    settings = compose("data", ["--config-dir", str(folder), f"corpus={name}"])
    assert settings.corpus.max_documents == 7


def test_paths_may_have_letters_of_any_alphabet(tmp_path):
    out = tmp_path / "r\u00e9p \u65e5" / "plan.jsonl"
    assert cli.main(["plan", "grid=demo", "grid.vocab_size=512", "recipe=demo", f"out={out}"]) == 0
    assert out.exists()


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (OSError(28, "No space left on device"), ["No space left on device. Free space"]),
        (OSError(21, "Is a directory", "a/runtime.json"), ["a/runtime.json", "move the folder"]),
        (OSError("odd"), ["odd."]),
    ],
)
def test_an_error_of_the_system_gives_one_line_with_advice(
    monkeypatch: pytest.MonkeyPatch, capsys, error: OSError, parts: list[str]
):
    def fail(*args):
        raise error

    monkeypatch.setattr("chinchilla.cli._run", fail)
    assert cli.main(["status"]) == 2
    result = capsys.readouterr().err
    assert result.count("\n") == 1
    for part in (*parts, "run the same command again."):
        assert part in result
