"""Every setting of every command: default, unit, bounds, choices and help (see `setting`).

`compose` fills these dataclasses from configs/ and the command line.
"""
# ruff: noqa: F401 (other modules import these names from here)

from chinchilla.config.compare import CompareCommand
from chinchilla.config.data import (
    CorpusConfig,
    DataCommand,
    SourceConfig,
    TokenizerConfig,
)
from chinchilla.config.execution import ClusterConfig, ResourceConfig, RuntimeConfig
from chinchilla.config.fit import APPROACHES, DiagnoseCommand, FitCommand, ReportCommand
from chinchilla.config.groups import GridConfig, ModelConfig, RecipeConfig
from chinchilla.config.predict import DesignCommand, PredictCommand, RatesConfig, ScoreCommand
from chinchilla.config.reproduce import FetchCommand, ReproduceCommand
from chinchilla.config.setting import Config
from chinchilla.config.sweep import (
    CancelCommand,
    LogsCommand,
    RetryCommand,
    StatusCommand,
    SyncCommand,
    WorkerCommand,
)
from chinchilla.config.train import FlopsCommand, PlanCommand, SweepCommand, TrainCommand

COMMANDS: dict[str, type[Config]] = {
    "data": DataCommand,
    "plan": PlanCommand,
    "sweep": SweepCommand,
    "train": TrainCommand,
    "worker": WorkerCommand,
    "status": StatusCommand,
    "logs": LogsCommand,
    "retry": RetryCommand,
    "cancel": CancelCommand,
    "sync": SyncCommand,
    "fetch": FetchCommand,
    "fit": FitCommand,
    "diagnose": DiagnoseCommand,
    "predict": PredictCommand,
    "design": DesignCommand,
    "score": ScoreCommand,
    "reproduce": ReproduceCommand,
    "report": ReportCommand,
    "compare": CompareCommand,
    "flops": FlopsCommand,
}
