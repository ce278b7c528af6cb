"""Settings: bounds, choices, help and defaults from the metadata of a dataclass field."""

from dataclasses import dataclass, field

import pytest
from omegaconf import OmegaConf

from chinchilla.config.checks import require_name
from chinchilla.config.command_line.compose import compose
from chinchilla.config.setting import REQUIRED, Config, setting, settings_of
from chinchilla.core.errors import InputError


@dataclass(kw_only=True)
class Inner(Config, prefix="inner."):
    """A group."""

    rate: float = setting(0.5, "A rate.", above=0, at_most=1, hint="Give 0.4 for 40%.")
    names: list[str] = setting(["a"], "Names.", choices=("a", "b"))


@dataclass(kw_only=True)
class Outer(Config):
    """A command."""

    inner: Inner = field(default_factory=Inner)
    path: str = setting(REQUIRED, "A path.")
    budget: float = setting(0.0, "A budget.", unit="FLOPs", at_least=1e3, optional=True)
    kind: str = setting("", "A kind.", choices=("x", "y"), optional=True)
    seed: int = setting(0, "A seed.")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inner(rate=0), r"^inner\.rate=0 must be above 0 and at most 1\. Give 0\.4 for 40%\.$"),
        (lambda: Inner(rate=1.5), "inner.rate=1.5 must be above 0 and at most 1"),
        (lambda: Inner(rate=float("nan")), "inner.rate=nan must be above 0"),
        (lambda: Inner(names=["a", "c"]), "inner.names='c': choose one of a, b"),
        (lambda: Outer(path="p", budget=1.0), "budget=1.0 must be at least 1000"),
        (lambda: Outer(path="p", budget=float("inf")), "budget=inf is not a finite number"),
        (lambda: Outer(path="p", kind="z"), "kind='z': choose one of x, y"),
        (lambda: Outer(path="p", seed=1.5), "seed=1.5 must be a whole number"),
    ],
)  # fmt: skip
def test_a_value_out_of_bounds_is_refused_by_its_key(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_optional_settings_accept_values_that_mean_not_set():
    outer = Outer(path="p", budget=0, kind="")
    assert (outer.budget, outer.kind) == (0, "")


def test_list_defaults_are_not_shared():
    first = Inner()
    first.names.append("b")
    assert Inner().names == ["a"]


def test_omegaconf_reads_them_as_structured_configs():
    config = OmegaConf.merge(OmegaConf.structured(Outer), {"path": "p", "inner": {"rate": 0.25}})
    outer = OmegaConf.to_object(config)
    assert isinstance(outer, Outer)
    assert (outer.path, outer.inner.rate, outer.inner.names) == ("p", 0.25, ["a"])
    assert OmegaConf.is_missing(OmegaConf.structured(Outer), "path")


def test_settings_are_listed_with_their_full_keys():
    listed = {s.key: s for s in settings_of(Outer)}
    assert [*listed] == ["inner.rate", "inner.names", "path", "budget", "kind", "seed"]
    assert listed["inner.names"].help == "Names. One of a, b."
    assert (listed["inner.names"].type, listed["inner.names"].element) == (list, str)
    assert (listed["budget"].type, listed["budget"].unit) == (float, "FLOPs")


@pytest.mark.parametrize(
    "name",
    ["", "..", ".hidden", "a/b", "../a", "/tmp/a", "a\\b", "-rf", " a", "a\n", "a\x1b[2J", "a\u202eb", "n" * 101],
    ids=ascii,
)  # fmt: skip
def test_a_name_that_is_not_one_component_of_a_path_is_refused(name: str):
    with pytest.raises(InputError, match="Use letters, digits, _ and -") as error:
        require_name("grid.name", name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["demo", "my sweep", "größe-2.1_b", "n" * 100])
def test_other_names_are_accepted(name: str):
    require_name("grid.name", name)


@pytest.mark.parametrize(
    "line",
    ["plan demo recipe.name=../x", "plan demo recipe.name=a\u202eb", "sweep demo grid.name=../../etc/x", "plan demo grid.name=.git", "worker s name=../x",
     "sweep demo runtime.wandb=online runtime.wandb_project=../x", "sync s wandb_project=a/b"],
)  # fmt: skip
def test_every_name_is_checked(line: str):
    command, *words = line.split()
    with pytest.raises(InputError, match="Use letters, digits, _ and -"):
        compose(command, words)
