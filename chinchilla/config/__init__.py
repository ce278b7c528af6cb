"""Every knob, with its unit. Plain dataclasses; the comment behind a field is its help text.

Hydra fills these from `configs/` and the command line; `cli.py` turns them into objects once, and
nothing below it sees a DictConfig. Standard library only. Not frozen, no Literal, no tuples:
OmegaConf 2.3 could not merge them. A field without default must be given.
"""

from chinchilla.config.compare import CompareCommand
from chinchilla.config.data import (
    CorpusConfig,
    DataCommand,
    NearConfig,
    SourceConfig,
    TokenizerConfig,
)
from chinchilla.config.diagnose import DiagnoseCommand
from chinchilla.config.fetch import FetchCommand
from chinchilla.config.fit import APPROACHES, FitCommand, ReportCommand
from chinchilla.config.groups import (
    ClusterConfig,
    GridConfig,
    ModelConfig,
    RecipeConfig,
    ResourceConfig,
    RuntimeConfig,
)
from chinchilla.config.predict import DesignCommand, PredictCommand, RatesConfig, ScoreCommand
from chinchilla.config.reproduce import ReproduceCommand
from chinchilla.config.sweep import CancelCommand, LogsCommand, RetryCommand, StatusCommand
from chinchilla.config.sync import SyncCommand
from chinchilla.config.train import FlopsCommand, PlanCommand, SweepCommand, TrainCommand

__all__ = [
    "APPROACHES",
    "CancelCommand",
    "ClusterConfig",
    "CompareCommand",
    "CorpusConfig",
    "DataCommand",
    "DesignCommand",
    "DiagnoseCommand",
    "FetchCommand",
    "FitCommand",
    "FlopsCommand",
    "GridConfig",
    "LogsCommand",
    "ModelConfig",
    "NearConfig",
    "PlanCommand",
    "PredictCommand",
    "RatesConfig",
    "RecipeConfig",
    "ReportCommand",
    "ReproduceCommand",
    "ResourceConfig",
    "RetryCommand",
    "RuntimeConfig",
    "ScoreCommand",
    "SourceConfig",
    "StatusCommand",
    "SweepCommand",
    "SyncCommand",
    "TokenizerConfig",
    "TrainCommand",
]
