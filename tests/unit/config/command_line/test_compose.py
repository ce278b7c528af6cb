"""Composition of settings: YAML options, words of the command line, options of the user."""

import subprocess
import sys

import pytest
from command_line import one_line
from omegaconf import OmegaConf

from chinchilla.config import COMMANDS, ModelConfig
from chinchilla.config.command_line.compose import _schemas, compose
from chinchilla.config.command_line.words import GROUPS, choices, config_dir, groups_of
from chinchilla.config.execution import ClusterConfig, RuntimeConfig
from chinchilla.config.groups import GridConfig, RecipeConfig
from chinchilla.core import paper
from chinchilla.core.errors import InputError
from chinchilla.core.shapes import named_shapes, shape_named
from chinchilla.plan.grid import build_shape

MODELS = choices("model")

GIVEN = {  # the values that only a person can give
    "diagnose": ["fits=f"],
    "status": ["sweep_dir=s"],
    "logs": ["sweep_dir=s"],
    "sync": ["sweep_dir=s"],
    "retry": ["sweep_dir=s"],
    "cancel": ["sweep_dir=s"],
    "fit": ["sweep_dir=s"],
    "report": ["sweep_dir=s"],
    "worker": ["s"],
    "fetch": ["points=hoffmann", "out=x.csv"],
    "compare": ["fits=[a,b]"],
    "predict": ["budget_flops=1e20"],
    "design": ["fits=f", "budget_flops=1e20"],
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
    with_groups = {c for c in COMMANDS if groups_of(c)}
    assert names == with_groups | groups


NEEDED = {"text": ["corpus.paths=[a.txt]"], "jsonl": ["corpus.paths=[a.jsonl]"],
          "parquet": ["corpus.paths=[a.parquet]"], "hub": ["corpus.hub_name=a/b"]}  # fmt: skip


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


def test_every_model_name_gives_its_shape():
    assert len(MODELS) == len(set(MODELS)) == 52
    schemas = _schemas("train")["model"]
    for name in MODELS:
        node = OmegaConf.merge(OmegaConf.structured(ModelConfig), schemas[f"{name}.yaml"].node)
        model = OmegaConf.to_object(node)
        model.positions = "relative"
        assert build_shape(model, paper.VOCAB_SIZE) == named_shapes()[name]


@pytest.mark.parametrize("command", ["train", "flops"])
@pytest.mark.parametrize("name", ["57m", "2.30b", "gopher_280b"])
def test_a_model_name_composes(command, name):
    model = compose(command, [f"model={name}", "model.seq_len=128"]).model
    assert (model.d_model, model.seq_len) == (named_shapes()[name].d_model, 128)


def test_a_whole_number_may_be_written_with_an_exponent():
    assert compose("flops", ["model.vocab_size=3.2e4"]).model.vocab_size == 32_000
    with pytest.raises(InputError, match=r"model.vocab_size=2.5e0.*whole number"):
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


def test_a_list_may_be_given_without_brackets():
    assert compose("predict", ["budget_flops=1e20,1e21"]).budget_flops == [1e20, 1e21]


def test_options_of_the_user_come_from_a_folder(tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "hot.yaml").write_text("peak_lr: 0.5\n")
    words = ["--config-dir", str(tmp_path), "recipe=hot"]
    assert compose("plan", words).recipe.peak_lr == 0.5
    with pytest.raises(InputError, match="no such recipe"):
        compose("plan", words[2:])


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("w", "weight: lots", ("corpus=w", "weight", "'lots'")),
        ("i", "max_documents: 1e3", ("corpus.max_documents must be a whole number",)),
        ("b", "format: 7.5", ("corpus.format='7.5'",)),
        ("p", "paths: /x", ("corpus=p", "is not a ListConfig, list")),
        ("n", "sources: [null]", ("corpus=n", "NoneType is not a subclass of SourceConfig")),
        ("s", "sources: [x]", ("corpus=s", "str is not a subclass of SourceConfig")),
        ("nan", "format: text\npaths: [/x]", ("/x does not exist",)),
        ("y", "paths: [1\n", ("y.yaml is not YAML",)),
    ],
)
def test_an_invalid_option_of_the_user_gives_the_reason(say, tmp_path, name, text, parts):
    """Also one whose name Hydra would read as a number."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / f"{name}.yaml").write_text(text)
    words = ["--config-dir", str(tmp_path), f"corpus={name}", f"data_dir={tmp_path / 'd'}"]
    one_line(say(["data", *words]), 2, *parts)


@pytest.mark.parametrize("name", ["it's", "a\\", "a\\b", "\\'\\\\", "a b=c"])
def test_an_option_of_the_user_may_have_any_name(tmp_path, name):
    folder = tmp_path / "peter's"
    (folder / "corpus").mkdir(parents=True)
    (folder / "corpus" / f"{name}.yaml").write_text("format: embedded\nmax_documents: 7")
    settings = compose("data", ["--config-dir", str(folder), f"corpus={name}"])
    assert settings.corpus.max_documents == 7


@pytest.mark.parametrize("name", ["-a", "it's", "a\\b", "n" * 200])
def test_a_recipe_of_the_user_may_have_any_name(tmp_path, name):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / f"{name}.yaml").write_text("peak_lr: 0.5\n")
    words = ["--config-dir", str(tmp_path), f"recipe={name}", "recipe.batch_tokens=65536"]
    recipe = compose("plan", words).recipe
    assert recipe.peak_lr == 0.5
    assert len(recipe.name.encode()) <= 100


# ------------------------------------------------------------------ defaults

DEVICE = ("peak_flops", "mfu", "gpu_memory_gb", "price_per_device_hour")


@pytest.mark.parametrize("words", [[], ["grid=first"]], ids=["no words", "a grid of the user"])
def test_plan_sweep_and_train_have_the_same_defaults(tmp_path, words):
    """Planning and training a grid differ only in the kind of cluster, not in recipe or device."""
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "first.yaml").write_text("name: first\nbudgets: [1e17]\nmodels: [256x4]\n")
    mine = [f"--config-dir={tmp_path}"]
    plan, sweep = (compose(command, [*mine, *words]) for command in ("plan", "sweep"))
    train = compose("train", [])
    assert plan.grid == sweep.grid
    assert plan.recipe == sweep.recipe == train.recipe
    assert plan.recipe == RecipeConfig(name="paper", lr_width_exponent=0.2041)
    assert sweep.runtime == train.runtime == RuntimeConfig()
    for cluster in (plan.cluster, sweep.cluster, train.cluster):
        assert [getattr(cluster, name) for name in DEVICE] == [
            getattr(ClusterConfig(), name) for name in DEVICE
        ]


@pytest.mark.parametrize(
    ("group", "defaults"),
    [
        ("recipe", RecipeConfig()),
        ("runtime", RuntimeConfig()),
        ("cluster", ClusterConfig()),
        ("grid", GridConfig(budgets=[1.0], models=["44m"])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_named_options_hold_no_defaults(group, defaults):
    """A default has one place, `chinchilla/config/`."""
    for name in choices(group):
        values = OmegaConf.load(config_dir() / group / f"{name}.yaml")
        values.pop("kind", None)  # says which cluster it is
        repeated = [key for key, value in values.items() if getattr(defaults, key) == value]
        assert repeated == [], name


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("plan", ["recipe.seed=1.5"], r"^recipe\.seed=1\.5 must be a whole number\.$"),
        ("plan", ["grid.budgets=[1e12,many]"], r"many is not a number\. Give a list such as"),
        ("sweep", ["cluster.resources=5"], r"cluster\.resources=\[5\] must be a list such as 'cluster\.resources=\[{name"),
        ("fit", ["columns=5"], r"^columns=5 must be pairs, such as columns\.A=B or 'columns={A: B}'\.$"),
        ("status", ["watch=maybe", "sweep_dir=a"], r"^watch=maybe must be true or false\.$"),
        ("status", [], r"^sweep_dir is missing: give sweep_dir=VALUE\."),
        ("plan", ["grid.budgets=[1"], r"cannot be read as key=value\. Check its brackets"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_with_what_is_expected(command, words, message):
    with pytest.raises(InputError, match=message):
        compose(command, words)


def test_an_unknown_key_in_a_named_option_is_refused_with_the_nearest(tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("peak_rl: 1e-3\n")
    with pytest.raises(
        InputError,
        match=r"^recipe=mine: there is no setting recipe.peak_rl. Did you mean recipe.peak_lr",
    ):
        compose("plan", [f"--config-dir={tmp_path}", "recipe=mine"])
