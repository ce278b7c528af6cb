"""Words of the command line: positional words, numbers with suffixes, named options in files."""

import json
import shlex
from pathlib import Path

import pytest
from command_line import one_line
from sweep_fakes import make_specs, make_sweep

from chinchilla.cli import main
from chinchilla.config import COMMANDS
from chinchilla.config.command_line.compose import compose
from chinchilla.config.command_line.words import groups_of, shell_word
from chinchilla.config.setting import settings_of
from chinchilla.core.errors import InputError

# ------------------------------------------------------------------ words without =


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a sweep, a table and two files whose names are settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a", "runs/b", "fits"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("runs/a/plan.jsonl", "table.csv", "run.json", "lr=3,final.csv", "it's [1].csv"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("status runs/a", {"sweep_dir": "runs/a"}),
        ("status runs/a watch=true", {"sweep_dir": "runs/a", "watch": True}),
        ("status watch=true runs/a", {"sweep_dir": "runs/a", "watch": True}),
        ("logs runs/a c1e17-n42m", {"sweep_dir": "runs/a", "run": "c1e17-n42m"}),
        ("retry runs/a c1e17-n42m c1e18-n9m", {"runs": ["c1e17-n42m", "c1e18-n9m"]}),
        ("sync runs/a to=tensorboard", {"sweep_dir": "runs/a", "to": "tensorboard"}),
        ("cancel runs/a", {"sweep_dir": "runs/a"}),
        ("fit table.csv", {"observations": "table.csv", "sweep_dir": ""}),
        ("fit runs/a", {"sweep_dir": "runs/a", "observations": ""}),
        ("diagnose fits", {"fits": "fits"}),  # a folder, though it is the name of a setting
        ("report runs/a", {"fits": "runs/a"}),
        ("predict runs/a 1e22", {"fits": "runs/a", "budget_flops": [1e22]}),
        ("predict 1e22 runs/a 20B", {"fits": "runs/a", "budget_flops": [1e22, 2e10]}),
        ("predict 1e22,1e23", {"fits": "", "budget_flops": [1e22, 1e23]}),
        ("design runs/a 1e24 spend=1e22", {"fits": "runs/a", "budget_flops": 1e24}),
        ("compare runs/a runs/b", {"fits": ["runs/a", "runs/b"]}),
        ("score p.json run.json", {"prediction": "p.json", "result": "run.json"}),
        ("score p.json runs/a", {"prediction": "p.json", "result": "runs/a"}),
        ("score p.json table.csv", {"prediction": "p.json", "observations": "table.csv"}),
        ("fetch hoffmann points.csv", {"points": "hoffmann", "out": "points.csv"}),
        ("reproduce table2 table.csv", {"table": "table2", "points": "table.csv"}),
        ("data tokenizer", {"action": "tokenizer"}),  # a choice, though it is the name of a group
        ("data overlap a.jsonl b.jsonl", {"against": ["a.jsonl", "b.jsonl"]}),
        ("flops 44m 20B", {"tokens": 2e10}),
    ],
)
def test_words_without_a_key_fill_the_settings_of_the_command(line, values):
    command, *words = line.split()
    settings = compose(command, words)
    assert {name: getattr(settings, name) for name in values} == values


@pytest.mark.parametrize("name", ["it's [1].csv", "./lr=3,final.csv", "$x", "'a'", "null", " b "])
@pytest.mark.usefixtures("folder")
def test_a_word_is_taken_literally(name):
    assert compose("fit", [name]).observations == name
    assert compose("compare", [name, "b"]).fits == [name, "b"]


@pytest.mark.usefixtures("folder")
def test_an_existing_file_with_an_equals_sign_is_a_word():
    Path("my runs [1] 100% =e.csv").touch()
    assert compose("fit", ["my runs [1] 100% =e.csv"]).observations == "my runs [1] 100% =e.csv"
    Path("seed=3").touch()
    assert compose("fit", ["table.csv", "seed=3"]).seed == 3  # a key of the command
    with pytest.raises(InputError, match="write 20B, without a space"):
        compose("flops", ["44m", "tokens=20 B"])


def test_a_named_option_may_be_a_word():
    assert compose("plan", ["demo", "recipe=demo"]).grid.name == "demo"
    assert compose("sweep", ["demo"]).grid.name == "demo"
    assert compose("train", ["57m"]).model.d_model == compose("train", ["model=57m"]).model.d_model


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("status runs/a sweep_dir=runs/b", "sweep_dir is given 2 times. Give it once."),
        ("status runs/a runs/b", "runs/b: `chinchilla status` accepts SWEEP_DIR. Omit"),
        ("fit table.csv run.json", "run.json: `chinchilla fit` accepts one table of runs or one"),
        ("predict fits 20 B", "20 B: write 20B"),
        ("flops 44m tokens=20 B", "tokens=20 B: write tokens=20B"),
        ("predict fits -1e22", "budget_flops=-1e+22 must be at least 1000"),
        (
            "plan demo grid.budgets=[1e10,abc]",
            "grid.budgets: abc is not a number. Give a list such as 1,2.",
        ),
        ("status watch", "'watch' is not key=value. Write watch=VALUE."),
        ("plan grid.spam", "'grid.spam' is not key=value. Did you mean grid.span?"),
        ("plan --multirun", "'--multirun' is not key=value."),
        ("plan papper", "grid=papper: there is no such grid. Did you mean paper?"),
        ("predict runs/a runs/b", "budget_flops=[runs/b] must be a list"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_word_that_fits_nowhere_is_refused(line, part):
    command, *words = line.split()
    with pytest.raises(InputError) as error:
        compose(command, words)
    assert part in str(error.value)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_words_of_a_command_are_settings_and_shown_in_its_usage(command, say):
    keys = [s.key for s in settings_of(COMMANDS[command])] + groups_of(command)
    words = COMMANDS[command].words
    assert words
    assert set("|".join(words).split("|")) <= set(keys)
    usage = say(f"{command} --help").out.splitlines()[0]
    assert usage.startswith(f"usage: chinchilla {command} ")
    for name in words:
        assert name.upper() in usage


def test_the_usage_line_shows_what_is_required_and_what_repeats(say):
    first = say("logs --help").out.splitlines()[0]
    assert first == "usage: chinchilla logs SWEEP_DIR [RUN] [key=value ...]"
    first = say("predict --help").out.splitlines()[0]
    assert first == "usage: chinchilla predict [FITS] [BUDGET_FLOPS ...] [key=value ...]"


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [("1B", 1e9), ("20B", 2e10), ("1.5T", 1.5e12), ("300M", 3e8), ("32k", 32_000), ("1e22", 1e22),
     ("1.1M", 1.1e6), ("2e3k", 2e6), (".5B", 5e8)],
)  # fmt: skip
def test_numbers_may_have_a_suffix(text, value):
    assert compose("train", ["44m", f"tokens={text}"]).tokens == value
    assert compose("predict", [f"budget_flops=[{text},1e20]"]).budget_flops == [value, 1e20]
    if value < 1e12:
        assert compose("sweep", [f"recipe.batch_tokens={text}"]).recipe.batch_tokens == value


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("tokens=5G", ["tokens=5G: G is not a suffix of numbers", "Use k, M, B or T"]),
        ("tokens=7b", ["Did you mean 7B?"]),
        ("tokens=32K", ["Did you mean 32k?"]),
        ("recipe.batch_tokens=1m", ["Did you mean 1M?"]),
        ("cluster.gpu_memory_gb=80GB", ["cluster.gpu_memory_gb=80GB: GB is not a suffix"]),
        ("recipe.batch_tokens=1.0005k", ["recipe.batch_tokens=1.0005", "whole number"]),
        ("recipe.seed=one", ["recipe.seed=one must be a whole number."]),
    ],
)
def test_an_unknown_suffix_is_refused_in_one_line(say, word, parts):
    one_line(say(["train", word]), 2, *parts)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("plan grid.seq_len={}", "grid.seq_len=9999"),
        ("plan grid.budgets=[{}]", "grid.budgets=9999"),
        ("predict runs/demo {}", "budget_flops=9999"),
        ("fit table.csv columns={{N:{}}}", "a number that cannot be used"),
        ("plan grid.name={}", "grid.name=9999"),
        ("plan grid={}", "grid=9999"),
        ("plan grid.seq_len=" + "[" * 3_000, "has 3,000 characters"),
        ("fit table.csv columns={{N:" + "[" * 3_000, "Check its brackets"),
    ],
    ids=["whole", "list", "word", "pairs", "name", "option", "brackets", "nested"],
)
def test_a_long_number_is_refused_in_one_short_line(say, line, part):
    said = say(line.format("9" * 6_000))
    one_line(said, 2, part)
    assert len(said.err) < 1_000


# ------------------------------------------------------------------ named options in files


@pytest.fixture
def mine(tmp_path):
    """mine/grid/first.yaml, and a grid in another kind of place."""
    (tmp_path / "mine" / "grid").mkdir(parents=True)
    text = "name: first\nbudgets: [1e17]\nmodels: [256x4]\n"
    for name in ("mine/grid/first.yaml", "mine/grid/demo.yaml", "second.yaml"):
        (tmp_path / name).write_text(text)
    return tmp_path / "mine"


def test_a_missing_config_dir_is_suggested(say, mine):
    one_line(
        say("plan grid=first"),
        2,
        "grid=first: there is no such grid.",
        "mine/grid/first.yaml exists: add --config-dir mine, or give grid=mine/grid/first.yaml.",
    )


@pytest.mark.parametrize("words", ["grid=mine/grid/first.yaml", "mine/grid/first.yaml"])
def test_a_named_option_may_be_the_path_of_its_file(say, mine, words):
    said = say(f"plan {words} --help")
    assert said.code == 0
    assert "grid=first" in said.out


def test_a_link_to_a_device_is_refused_as_a_device(say, mine):
    (mine / "grid" / "zero.yaml").symlink_to("/dev/zero")
    one_line(say("plan mine/grid/zero.yaml"), 2, "grid/zero.yaml cannot be read (it is a device")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("grid=second.yaml", "grid=second.yaml must have the form FOLDER/grid/NAME.yaml."),
        ("grid=mine/grid/furst.yaml", "Did you mean mine/grid/first.yaml?"),
        ("grid=mine/grid/demo.yaml", "grid=demo is the name of two options: "),
        ("--config-dir mine grid=demo", "and one of the package. Rename the file."),
        ("--config-dir mina grid=first", "--config-dir=mina is not a folder. Did you mean mine?"),
    ],
)
def test_a_file_that_is_no_named_option_is_refused_with_what_to_do(say, mine, words, part):
    assert part in say(f"plan {words}").err
    assert "Traceback" not in say(f"plan {words}").err


# ------------------------------------------------------------------ several problems


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        (
            "plan gird=3 grid.span=wide recipe.peak_lr=-1 cluster.mfu=7 grid.vocab_size=x",
            ["no key 'gird'", "grid.span=wide must", "recipe.peak_lr=-1.0 must", "cluster.mfu=7.0 must",
             "grid.vocab_size=x must"],
        ),
        ("sweep grid=papper recipe=papper", ["grid=papper", "recipe=papper"]),
        ("train recipe.beta1=2 recipe.beta2=3 epochs=-1", ["beta1=2.0", "beta2=3.0", "epochs=-1.0"]),
        ("design", ["fits is missing", "budget_flops is missing"]),
        ("status rows=-1 runs/a interval_seconds=x", ["rows=-1", "interval_seconds=x"]),
        ("score p.json loss=x format=y", ["loss='x'", "format='y'"]),
        ("fit format=xml", ["format='xml'"]),  # and nothing of files, which are another check
        ("plan tokens=1B hours=1 save=x", ["exclude each other"]),
        ("plan gpus=8 model=57m", ["gpus=8 has no effect", "model= has no effect"]),
        ("predict 1e22 law=x budget_flops=1e2", ["budget_flops is given 2 times", "law='x'"]),
    ],
)  # fmt: skip
def test_all_problems_of_the_settings_are_reported_a_line_each(say, line, messages):
    result = say(line)
    assert result.code == 2
    lines = result.err.splitlines()
    assert len(lines) == len(messages), result.err
    for message in messages:
        assert sum(message in each for each in lines) == 1
    assert all(each.startswith("chinchilla: ") for each in lines)


# ------------------------------------------------------------------ printed commands

NAMES = ["plain", "sp ace", "it's", "'quoted'", "a=b,[c]", " lead", "tail ", "$HOME", "ümlaut", "a;b&c", "{x}", 'back\\slash"', "-x", "7"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("relative", [False, True])
def test_a_folder_in_a_printed_command_is_read_as_that_folder(
    tmp_path: Path, name: str, relative: bool, capsys, monkeypatch: pytest.MonkeyPatch
):
    make_sweep(tmp_path / name, make_specs(2))
    monkeypatch.chdir(tmp_path)
    word = shell_word(name if relative else tmp_path / name)
    assert main(["status", *shlex.split(word), "format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["waiting"] == 2


def test_plain_folders_are_not_quoted():
    assert shell_word("/tmp/a-b_c.d") == "/tmp/a-b_c.d"
    assert shell_word("/tmp/sp ace") == "'/tmp/sp ace'"
