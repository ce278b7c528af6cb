"""Composing: commands agree on their defaults, and named options hold only what differs from them."""

import dataclasses

import pytest
from omegaconf import OmegaConf

from chinchilla.config import COMMANDS
from chinchilla.config.compose import choices, compose, composed, config_dir
from chinchilla.config.groups import ClusterConfig, GridConfig, RecipeConfig, RuntimeConfig
from chinchilla.core.errors import InputError

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
    assert plan.recipe == dataclasses.replace(RecipeConfig(), lr_width_exponent=0.2041)
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
    """A default has one place, `chinchilla/config/groups.py`."""
    for name in choices(group):
        values = OmegaConf.load(config_dir() / group / f"{name}.yaml")
        values.pop("kind", None)  # says which cluster it is
        repeated = [key for key, value in values.items() if getattr(defaults, key) == value]
        assert repeated == [], name


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("plan", ["recipe.seed=1.5"], r"^recipe\.seed=1\.5 must be a whole number\.$"),
        ("plan", ["grid.budgets=[1e12,many]"], r"must be a list such as \[1\.5,2\]\.$"),
        ("sweep", ["cluster.resources=5"], r"cluster\.resources=\[5\] must be a list such as \[{name"),
        ("fit", ["columns=5"], r"^columns=5 must be pairs, such as columns={A: B} or columns\.A=B\.$"),
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


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes_without_words(command):
    assert composed(command, [])[0] is not None
