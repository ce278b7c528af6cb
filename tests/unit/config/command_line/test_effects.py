"""A setting of the command line that another one disables is refused, with both named."""

import copy

import pytest

from chinchilla.config import COMMANDS
from chinchilla.config.command_line.compose import compose
from chinchilla.config.command_line.effects import (
    _SHAPES,
    NEVER,
    OF_COMMAND,
    SHARED,
    _holds,
    _parts,
    check_effects,
    conditions,
)
from chinchilla.config.setting import settings_of
from chinchilla.core.errors import InputError

MINIMAL = {  # words without which a command cannot be composed
    "sweep": "", "worker": "s", "status": "s", "logs": "s", "retry": "s", "cancel": "s", "sync": "s",
    "fetch": "hoffmann o.csv", "fit": "t.csv", "diagnose": "f", "predict": "1e20", "design": "f 1e22",
    "score": "p.json r", "reproduce": "table2 p.csv", "report": "f", "compare": "a b",
}  # fmt: skip

# Settings that have an effect whatever the others are, or that their class checks together with others.
ALWAYS = {
    "model": "d_model ffw_size kv_size n_heads n_layers vocab_size seq_len positions",
    "recipe": "name lr_batch_rule peak_lr parametrization schedule final_lr_ratio batch_tokens optimizer "
    "weight_decay beta1 beta2 adam_eps grad_clip precision seed "
    "lr_width_exponent base_layers cosine_cycle",  # checked by RecipeConfig
    "grid": "name budgets models seq_len vocab_size positions flop_convention sizes_per_budget min_sizes "
    "min_side min_steps horizon_models horizon_tokens_per_param",
    "cluster": "kind threads_per_worker peak_flops mfu gpu_memory_gb price_per_device_hour",
    "runtime": "device micro_batch_tokens checkpoint_minutes keep_checkpoints log_every_steps "
    "validation_tokens validation_evals wandb tensorboard activation_checkpointing compile_blocks",
    "rates": "peak_flops mfu price_per_device_hour device_watts",
    "data": "action data_dir format",  # the settings of a corpus: checked by SourceConfig too
    "plan": "tokens hours total_flops price format",
    "sweep": "data_dir sweep_dir epochs dry_run max_gpu_hours format",
    "train": "data_dir out_dir budget_flops tokens flop_convention epochs format",
    "worker": "sweep_dir data_dir name threads min_params max_params run max_minutes parent",
    "status": "sweep_dir watch format",
    "logs": "sweep_dir run lines format",
    "retry": "sweep_dir runs diverged format",
    "cancel": "sweep_dir format",
    "sync": "sweep_dir to runs format",
    "fetch": "points out url timeout_s",
    "fit": "minima out_dir loss format",
    "diagnose": "fits sweep_dir budget_flops n_bootstrap format",
    "predict": "fits budget_flops law target_loss inference_tokens unique_tokens shapes preregister "
    "format vocab_size seq_len positions",
    "design": "fits budget_flops n_runs spend min_ratio max_ratio shapes format vocab_size seq_len positions",
    "score": "prediction result observations loss format",
    "reproduce": "table points curves out_dir drop_highest n_bootstrap flop_convention format",
    "report": "fits sweep_dir out_dir",
    "compare": "fits names out_dir format",
    "flops": "tokens format",
}  # fmt: skip
KEYS = [(command, s.key) for command, schema in COMMANDS.items() for s in settings_of(schema)]
CONDITIONAL = [(command, key) for command, key in KEYS if conditions(command, key)]


def test_every_setting_is_declared_to_have_an_effect_always_or_under_a_condition():
    """Fails for a new setting that is in neither list."""
    missing = []
    for command, key in KEYS:
        group, _, name = key.rpartition(".")
        if name not in ALWAYS.get(group or command, "").split() and not conditions(command, key):
            missing.append(f"{command}: {key}")
    assert not missing


def test_every_condition_names_settings_of_its_command():
    of_command = {command: {k for c, k in KEYS if c == command} for command in COMMANDS}
    groups = {key.partition(".")[0] for _, key in KEYS if "." in key}
    assert {*SHARED} <= {key for _, key in KEYS}
    for command, rules in OF_COMMAND.items():
        assert {*rules} <= of_command[command] | groups
    for command, key in CONDITIONAL:
        for clause in conditions(command, key):
            for test in filter(None, clause.split(" or ")):
                tested = _parts(test)[1]
                pair = tested.startswith("cluster.sbatch.")
                assert pair or tested in of_command[command], (key, tested)


def put(config, key, value):
    *path, name = key.split(".")
    for part in path:
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    if isinstance(config, dict):
        config[name] = value
    else:
        setattr(config, name, value)


def make(config, command, test, holds):
    """Change a setting so that a test holds, or does not."""
    absent, key, operator, values = _parts(test)
    setting = {s.key: s for s in settings_of(COMMANDS[command])}.get(key)
    example = {int: 7, float: 7.5, str: "given", bool: True, list: ["given"], dict: {"a": "b"}}
    kind = setting.type if setting else str
    if operator == "has":
        name = "24x3" if values == [_SHAPES] else values[0]
        put(config, key, [name if holds else "44m"])
    elif operator:
        others = [c for c in (setting.choices or ("2",)) if c not in values]
        put(config, key, values[0] if holds == (operator == "=") else others[-1])
    else:
        put(config, key, example[kind] if holds != absent else kind())


@pytest.fixture(scope="module")
def composed():
    return {command: compose(command, MINIMAL.get(command, "").split()) for command in COMMANDS}


@pytest.mark.parametrize(
    ("command", "key", "clause"),
    [
        pytest.param(command, key, clause, id=f"{command} {key}: {clause or 'never'}")
        for command, key in CONDITIONAL
        for clause in conditions(command, key)
    ],
)
def test_a_given_setting_is_refused_where_its_condition_does_not_hold(
    composed, command, key, clause
):
    """Each clause alone: with all of them met the setting is accepted, without this one it is not."""
    config = copy.deepcopy(composed[command])
    setting = next(s for s in settings_of(COMMANDS[command]) if s.key == key)
    other = [c for c in setting.choices if c != setting.default] or [
        {int: 3, float: 3.5, str: "x", bool: not setting.default, list: ["x"], dict: {"x": "y"}}[
            setting.type
        ]
    ]
    put(config, key, [other[0]] if setting.type is list else other[0])
    never = conditions(command, key) == NEVER
    for each in () if never else conditions(command, key):
        if not any(_holds(config, test) for test in each.split(" or ")):
            make(config, command, each.split(" or ")[0], holds=True)
    if not never:
        check_effects(command, [key], config)
        for test in clause.split(" or "):
            make(config, command, test, holds=False)
    with pytest.raises(InputError) as error:
        check_effects(command, [key], config)
    [message] = error.value.args
    assert message.startswith(f"{key}=")
    assert " has no effect " in message
    assert ". Omit it" in message
    tested = [_parts(test)[1] for test in filter(None, clause.split(" or "))]
    assert not tested or any(f"{name}=" in message for name in tested)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sweep demo cluster.partition=gpu", "cluster.partition=gpu has no effect with cluster.kind=local."
         " Omit it, or give cluster=slurm."),
        ("sweep demo cluster.sbatch.gres=gpu:1", "cluster.sbatch={'gres': 'gpu:1'} has no effect with clu"),
        ("plan demo cluster.qos=x", "cluster.qos=x has no effect in `chinchilla plan`. Omit it."),
        ("plan model=57m", "model= has no effect without tokens=. Omit it, or give tokens=."),
        ("plan gpus=8", "gpus=8 has no effect without tokens= or hours=. Omit it, or give tokens= or hours=."),
        ("plan demo tokens=1B", "grid= has no effect with tokens=1e+09. Omit it, or omit tokens=."),
        ("predict 1e20 kv_size=64", "kv_size=64 has no effect with shapes=[]. Omit it, or add WIDTHxLAYERS to"),
        ("status s interval_seconds=1", "interval_seconds=1 has no effect without watch=true. Omit it, or"),
        ("data overlap a corpus=hub corpus.hub_name=x", "corpus= has no effect with action=overlap."),
    ],
)  # fmt: skip
def test_a_word_without_effect_is_refused_in_one_line(line, message):
    command, *words = line.split()
    with pytest.raises(InputError) as error:
        compose(command, words)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        "sweep demo recipe=demo cluster=slurm cluster.kind=local",  # n_workers of its file
        "sweep demo recipe=demo recipe.schedule=cooldown recipe.warmup_steps=5",  # its warmup_fraction
        "sweep demo cluster.timeout_min=240 recipe.cooldown_fraction=0.2",  # the defaults
        "predict 1e20 shapes=24x3 kv_size=64",
        "data corpus=text corpus.paths=a tokenizer.model=m",
    ],
)
def test_values_of_named_options_and_defaults_are_accepted(line):
    command, *words = line.split()
    compose(command, words)
