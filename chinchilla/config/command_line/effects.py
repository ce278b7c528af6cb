"""Under which other settings a setting has an effect. Given without it on the command line, it is refused.

Values of named options (configs/, --config-dir) are not checked: one file serves several commands and uses. A
value that equals the default is accepted too, as it asks for nothing.

A condition is a tuple of clauses that must all hold. A clause is one test, or several joined by " or ":

    KEY            a value is given: not empty, 0 or false
    !KEY           none is given
    KEY=A|B        is one of these; KEY!=A is none of them
    KEY has A|B    a list with an element that matches one of these patterns
"""

import re
from collections.abc import Collection
from fnmatch import fnmatch
from typing import Any

from chinchilla.config.setting import Config, settings_of
from chinchilla.core.errors import InputError

Condition = tuple[str, ...]
# Of a group that several commands share: this command does not use the setting.
NEVER: Condition = ("",)
_SHAPES = "[0-9]*x[0-9]*"
_SHOWN = {_SHAPES: "WIDTHxLAYERS"}  # patterns in messages

_SLURM, _JOBS = ("cluster.kind=slurm",), ("cluster.kind=slurm|manual",)
_TRAINED = ("action!=overlap", "!tokenizer.model")

# Of settings that several commands share.
SHARED: dict[str, Condition] = {
    "recipe.max_lr_ratio": ("recipe.parametrization=standard",),
    "recipe.lr_base_width": ("recipe.lr_width_exponent or recipe.parametrization!=standard",),
    "recipe.cooldown_fraction": ("recipe.schedule=cooldown",),
    "recipe.warmup_steps": ("recipe.schedule=cooldown or recipe.warmup_fraction",),
    "recipe.warmup_fraction": ("recipe.schedule!=cooldown", "recipe.warmup_steps"),
    "recipe.batch_multiple_rows": ("recipe.lr_batch_rule!=none", "!recipe.batch_tokens"),
    "grid.kv_size": (f"grid.models has {_SHAPES} or grid.horizon_models has {_SHAPES}",),
    "grid.span": ("grid.sizes_per_budget",),
    "grid.expected_coefficient": ("grid.sizes_per_budget or grid.min_side",),
    "grid.expected_exponent": ("grid.sizes_per_budget or grid.min_side",),
    "cluster.n_workers": ("cluster.kind!=debug",),
    **dict.fromkeys(
        (
            "cluster.partition", "cluster.account", "cluster.qos", "cluster.constraint",
            "cluster.max_queued_jobs", "cluster.timeout_min", "cluster.cpus_per_task",
            "cluster.setup_lines", "cluster.sbatch", "cluster.srun", "cluster.python", "cluster.resources",
        ),
        _SLURM,
    ),
    "cluster.host_memory_gb": (
        *_SLURM, "!cluster.sbatch.mem-per-cpu", "!cluster.sbatch.mem-per-gpu",
    ),
    "cluster.nodes": _JOBS,
    "cluster.ranks_per_node": _JOBS,
    "cluster.gpus_per_node": (*_JOBS, "cluster.kind=slurm or recipe.precision=auto"),
    "runtime.wandb_project": ("runtime.wandb=offline|online",),
    "runtime.cuda_graphs": ("runtime.device!=cpu",),
    "runtime.shard_ranks": (
        *_JOBS, "cluster.ranks_per_node!=1 or cluster.nodes!=1 or cluster.resources",
    ),
}  # fmt: skip

_PROPOSES = ("hours", "total_flops", "price")
_NOT_PROPOSED = tuple(f"!{key}" for key in _PROPOSES)
_OF_GRID = ("!tokens", *_NOT_PROPOSED)
_PRECISION = (*_OF_GRID, "recipe.precision=auto")  # of which `plan` needs to know the device only

# Of the settings of one command; for a group, of its named option and of its settings that are not listed.
OF_COMMAND: dict[str, dict[str, Condition]] = {
    "plan": {
        "grid": _OF_GRID,
        "grid.vocab_size": ("!tokens",),
        "model": ("tokens",),
        "data_dir": ("!tokens",),
        "epochs": ("!tokens", "data_dir"),
        "out": _OF_GRID,
        "gpus": ("tokens or hours",),
        "save": (" or ".join(_PROPOSES),),
        "cluster.kind": ("!tokens",),
        "cluster.n_workers": _OF_GRID,
        "cluster.gpu_memory_gb": _NOT_PROPOSED,
        "cluster.gpus_per_node": _PRECISION,
        "cluster.resources": _PRECISION,
        **dict.fromkeys(
            (
                "cluster.threads_per_worker", "cluster.partition", "cluster.account", "cluster.qos",
                "cluster.constraint", "cluster.max_queued_jobs", "cluster.timeout_min", "cluster.nodes",
                "cluster.ranks_per_node", "cluster.cpus_per_task", "cluster.host_memory_gb",
                "cluster.setup_lines", "cluster.sbatch", "cluster.srun", "cluster.python",
            ),
            NEVER,
        ),
    },
    "train": {
        "cluster.n_workers": _SLURM,
        "cluster.peak_flops": NEVER,
        "cluster.mfu": NEVER,
        "cluster.gpu_memory_gb": NEVER,
        "cluster.price_per_device_hour": NEVER,
    },
    "data": {
        "corpus": ("action!=overlap",),
        "corpus.weight": NEVER,  # it is given for each of corpus.sources
        "tokenizer": ("action!=overlap",),
        "tokenizer.vocab_size": _TRAINED,
        "tokenizer.algorithm": _TRAINED,
        "tokenizer.train_mb": _TRAINED,
        "tokenizer.split_digits": _TRAINED,
        "tokenizer.normalization": _TRAINED,
        "validation_fraction": ("action!=overlap",),
        "shard_tokens": ("action=prepare",),
        "n_workers": ("action=prepare",),
        "against": ("action=overlap",),
        "ngram": ("action=overlap",),
        "column": ("action=overlap",),
    },
    "status": {"interval_seconds": ("watch",), "rows": ("format=text",)},
    "sync": {"wandb": ("to=wandb",), "wandb_project": ("to=wandb",)},
    "fit": {
        "sweep_dir": ("!minima",),
        "observations": ("!minima",),
        "curves": ("!minima", "approaches has envelope or !observations"),
        "approaches": ("!minima",),
        "n_bootstrap": ("!minima",),
        "seed": ("!minima", "n_bootstrap"),
        "objective": ("!minima", "approaches has isoflop|parametric"),
        "huber_delta": ("!minima", "approaches has isoflop|parametric", "objective=huber"),
        "envelope_schedule": ("!minima", "approaches has envelope"),
        "isoflop_profile": ("!minima", "approaches has isoflop"),
        "isoflop_window": ("!minima", "approaches has isoflop"),
        "tokens_per_param": ("!minima",),
        "best": ("!minima",),
        "flop_convention": ("!sweep_dir",),
        "n_convention": ("!sweep_dir",),
        "columns": ("!sweep_dir",),
        "duplicates": ("!sweep_dir", "!minima"),
    },
    "diagnose": {"seed": ("n_bootstrap",)},
    "reproduce": {"seed": ("n_bootstrap",)},
    "predict": {
        "repeated_runs": ("unique_tokens",),
        "preregister_file": ("preregister",),
        "kv_size": (f"shapes has {_SHAPES}",),
        "detail": ("format=text",),
    },
    "design": {"kv_size": (f"shapes has {_SHAPES}",)},
}  # fmt: skip


def conditions(command: str, key: str) -> Condition:
    """All clauses of a setting (or of a group's named option) in a command."""
    own, group = OF_COMMAND.get(command, {}), key.partition(".")[0]
    here = own.get(key, own.get(group, ()))
    return here if here == NEVER else (*here, *SHARED.get(key, ()))


def check_effects(command: str, given: Collection[str], config: Config) -> None:
    """Refuse settings of the command line that cannot have an effect.

    Args:
        command: name of the command.
        given: keys of the command line; those of a pair begin with the key of their setting.
        config: the composed settings.

    Raises:
        InputError: a message for each: its value, the setting that disables it, and what to do.
    """
    settings = {s.key: s for s in settings_of(type(config))}
    messages = []
    for key in given:
        name = key
        while name not in settings and "." in name:  # sbatch.gres -> sbatch
            name = name.rpartition(".")[0]
        value = _value(config, name)
        is_group = name not in settings
        if not is_group and value == settings[name].default:
            continue
        for clause in conditions(command, name):
            if not any(_holds(config, test) for test in clause.split(" or ")):
                shown = f"{name}=" if is_group else f"{name}={_typed(value)}"
                messages.append(f"{shown} has no effect {_reason(command, config, clause)}")
                break
    if messages:
        raise InputError(*messages)


_TEST = re.compile(r"(!?)([\w.-]+)(?: has (.*)|(!?=)(.*))?")


def _parts(test: str) -> tuple[bool, str, str, list[str]]:
    """Whether a test demands that nothing is given, its key, its operator and its values."""
    found = _TEST.fullmatch(test)
    assert found, test
    operator = "has" if found[3] else found[4] or ""
    return bool(found[1]), found[2], operator, (found[3] or found[5] or "").split("|")


def _holds(config: Any, test: str) -> bool:
    if not test:
        return False
    absent, key, operator, values = _parts(test)
    value = _value(config, key)
    if operator == "has":
        return any(fnmatch(str(one), pattern) for one in value for pattern in values)
    if operator:
        return (str(value) in values) == (operator == "=")
    return bool(value) != absent


def _value(config: Any, key: str) -> Any:
    """The value of a setting, or of a key of its pairs, which may be written with - or _."""
    for part in key.split("."):
        if isinstance(config, dict):
            config = {str(k).replace("_", "-"): v for k, v in config.items()}.get(part)
        else:
            config = getattr(config, part)
    return config


def _typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _reason(command: str, config: Config, clause: str) -> str:
    """What a clause that does not hold finds, and what to do: "with A=1. Omit it, or give A=2."."""
    if not clause:
        return f"in `chinchilla {command}`. Omit it."
    found: dict[str, None] = {}  # in order, each once
    missing, remedies = [], []
    for test in clause.split(" or "):
        absent, key, operator, values = _parts(test)
        value = _value(config, key)
        if not operator and not absent:
            missing.append(f"{key}={'true' if value is False else ''}")
            remedies.append(f"give {missing[-1]}")
            continue
        found[f"with {key}={_typed(value)}"] = None
        if operator == "has":
            names = " or ".join(_SHOWN.get(pattern, pattern) for pattern in values)
            remedies.append(f"add {names} to {key}")
        elif operator == "=":
            option = key.removesuffix(".kind")  # cluster=slurm rather than cluster.kind=slurm
            remedies.append("give " + " or ".join(f"{option}={one}" for one in values))
        else:
            remedies.append(f"give another {key}" if operator else f"omit {key}=")
    if missing:
        found[f"without {' or '.join(missing)}"] = None
    advice = " or ".join(remedies).replace(" or give ", " or ")
    return f"{' and '.join(found)}. Omit it, or {advice}."
