"""Settings: every one has help, and every impossible value is refused by its key."""

import dataclasses

import pytest

from chinchilla import config
from chinchilla.config import (
    ClusterConfig,
    CorpusConfig,
    DataCommand,
    FitCommand,
    GridConfig,
    PredictCommand,
    RecipeConfig,
    ReportCommand,
    RuntimeConfig,
    TokenizerConfig,
)
from chinchilla.config.setting import settings_of
from chinchilla.core.errors import InputError

SCHEMAS = [c for c in vars(config).values() if isinstance(c, type) and dataclasses.is_dataclass(c)]
SETTINGS = [
    pytest.param(s, id=f"{schema.__name__}.{s.key}")
    for schema in SCHEMAS
    for s in settings_of(schema)
    if "." not in s.key
]


def test_every_dataclass_of_the_module_is_seen():
    assert {"RecipeConfig", "GridConfig", "FitCommand", "FlopsCommand"} <= {
        c.__name__ for c in SCHEMAS
    }


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_has_help(setting):
    assert len(setting.help) >= 4, f"{setting.key}: no help"


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda c: c.__name__)
def test_every_config_has_a_docstring(schema):
    assert not schema.__doc__.startswith(schema.__name__ + "(")  # what dataclass writes itself


def test_paper_defaults():
    recipe, tokenizer = RecipeConfig(), TokenizerConfig()
    assert (recipe.peak_lr, recipe.final_lr_ratio, recipe.warmup_steps) == (2e-4, 0.1, 1500)
    assert (recipe.cosine_cycle, recipe.batch_tokens, recipe.grad_clip) == (1.0, 524_288, 1.0)
    assert tokenizer.vocab_size == 32_000
    fit = FitCommand(sweep_dir="x")
    assert fit.huber_delta == 1e-3


GRID = {"budgets": [1e18], "models": ["44m"]}

REFUSED = [
    (CorpusConfig, {"format": "xml"}, "corpus.format='xml': choose one of embedded, text"),
    (CorpusConfig, {"format": "hub"}, "needs corpus.hub_name"),
    (CorpusConfig, {"format": "text"}, "needs corpus.paths"),
    (CorpusConfig, {"format": "jsonl"}, "needs corpus.paths"),
    (CorpusConfig, {"format": "parquet"}, "needs corpus.paths"),
    (TokenizerConfig, {"algorithm": "wordpiece"}, "tokenizer.algorithm='wordpiece'"),
    (TokenizerConfig, {"train_mb": 0}, "tokenizer.train_mb=0 must be at least 0.001"),
    (TokenizerConfig, {"train_mb": 1e-7}, "tokenizer.train_mb=1e-07 must be at least 0.001"),
    (TokenizerConfig, {"vocab_size": 259}, "tokenizer.vocab_size=259 must be at least 260"),
    (RecipeConfig, {"peak_lr": 0}, "recipe.peak_lr=0 must be above 0"),
    (RecipeConfig, {"peak_lr": float("nan")}, "recipe.peak_lr=nan must be a number"),
    (RecipeConfig, {"batch_tokens": -1}, "recipe.batch_tokens=-1 must not be negative"),
    (RecipeConfig, {"lr_base_width": 0}, "recipe.lr_base_width=0 must be above 0"),
    (RecipeConfig, {"adam_eps": 0}, "recipe.adam_eps=0 must be above 0"),
    (RecipeConfig, {"precision": "fp16"}, "recipe.precision=.fp16.: choose one of auto, bf16, fp32, bf16_weights"),
    (RecipeConfig, {"optimizer": "sgd"}, "recipe.optimizer=.sgd.: choose one of adamw, adam"),
    (RecipeConfig, {"final_lr_ratio": 0}, "recipe.final_lr_ratio=0 must be above 0 and at most 1"),
    (RecipeConfig, {"final_lr_ratio": 1.1}, "recipe.final_lr_ratio=1.1 must be at least 0 and at most 1"),
    (RecipeConfig, {"warmup_fraction": 1}, "recipe.warmup_fraction=1 must be at least 0 and below 1"),
    (RecipeConfig, {"cosine_cycle": 0.9}, "recipe.cosine_cycle=0.9 must be at least 1"),
    (RecipeConfig, {"beta1": 1}, "recipe.beta1=1 must be at least 0 and below 1"),
    (RecipeConfig, {"beta2": -0.1}, "recipe.beta2=-0.1 must be at least 0 and below 1"),
    (RecipeConfig, {"warmup_steps": -1}, "recipe.warmup_steps=-1 must not be negative"),
    (RecipeConfig, {"weight_decay": -1}, "recipe.weight_decay=-1 must not be negative"),
    (RecipeConfig, {"grad_clip": -1}, "recipe.grad_clip=-1 must not be negative"),
    (GridConfig, {**GRID, "budgets": [1e18, 0]}, "grid.budgets=0 must be above 0"),
    (GridConfig, {**GRID, "span": 1}, "grid.span=1 must be above 1"),
    (GridConfig, {**GRID, "horizon_models": ["44m"]}, "Give both, or none"),
    (GridConfig, {**GRID, "horizon_models": ["44m"], "horizon_tokens_per_param": [0]}, "grid.horizon_tokens_per_param=0"),
    (GridConfig, {**GRID, "models": []}, "no models or no budgets"),
    (GridConfig, {**GRID, "budgets": []}, "no models or no budgets"),
    (ClusterConfig, {"kind": "pbs"}, "cluster.kind='pbs': choose one of debug, local, slurm"),
    (ClusterConfig, {"mfu": 0}, "cluster.mfu=0 must be above 0 and at most 1"),
    (ClusterConfig, {"peak_flops": -1}, "cluster.peak_flops=-1 must be above 0"),
    (ClusterConfig, {"timeout_min": 0}, "cluster.timeout_min=0 must be above 0"),
    (RuntimeConfig, {"wandb": "on"}, "runtime.wandb='on': choose one of disabled, offline, online"),
    (RuntimeConfig, {"log_every_steps": 0}, "runtime.log_every_steps=0 must be above 0"),
    (RuntimeConfig, {"validation_tokens": 0}, "runtime.validation_tokens=0 must be above 0"),
    (TokenizerConfig, {"vocab_size": 3 * 10**9}, "vocab_size=3000000000 .* at most 2,147,483,647"),
    (DataCommand, {"corpus": None, "shard_tokens": 0}, "shard_tokens=0 must be above 0"),
    (DataCommand, {"corpus": None, "shard_tokens": 10**23}, "shard_tokens=10+ must be .* at most 9,223,372,036,854,775,807"),
    (CorpusConfig, {"format": "embedded", "max_documents": 10**20}, "corpus.max_documents=10+ must be .* at most 9,223"),
    (DataCommand, {"corpus": None, "validation_fraction": 1}, r"validation_fraction=1 must be above 0 and below 1"),
    (FitCommand, {}, "give one of sweep_dir=FOLDER .* or observations=FILE.csv"),
    (FitCommand, {"sweep_dir": "a", "observations": "b"}, "give one of sweep_dir=FOLDER"),
    (FitCommand, {"sweep_dir": "a", "loss": "val"}, "loss='val': choose one of train, validation"),
    (FitCommand, {"sweep_dir": "a", "approaches": ["3"]}, "approaches='3': choose one of envelope"),
    (FitCommand, {"sweep_dir": "a", "huber_delta": 0}, "huber_delta=0 must be above 0"),
    (PredictCommand, {"budget_flops": [1e18, -1]}, "budget_flops=-1 must be at least 1000"),
    (ReportCommand, {}, "give fits=FOLDER"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "values", "why"),
    [pytest.param(*case, id=f"{case[0].__name__} {case[1]}"[:70]) for case in REFUSED],
)
def test_an_impossible_value_is_refused_by_its_key(schema, values, why):
    with pytest.raises(InputError, match=why):
        schema(**values)


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        (RecipeConfig, {"final_lr_ratio": 1, "warmup_fraction": 0, "beta1": 0, "grad_clip": 0}),
        (RecipeConfig, {"warmup_steps": 0, "weight_decay": 0, "cosine_cycle": 1}),
        (TokenizerConfig, {"vocab_size": 260}),
        (CorpusConfig, {"format": "embedded"}),
        (GridConfig, {**GRID, "span": 1.01}),
        (FitCommand, {"observations": "a.csv", "out_dir": "fits"}),
        (ReportCommand, {"fits": "fits"}),
    ],
)
def test_bounds_that_are_inclusive_are_accepted(schema, values):
    made = schema(**values)
    assert {name: getattr(made, name) for name in values} == values
