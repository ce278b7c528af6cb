"""The command train: one run."""

import dataclasses
from pathlib import Path

from chinchilla import config
from chinchilla.commands.data import show_use
from chinchilla.commands.plan import check_plan, chosen_precision, open_tokens
from chinchilla.commands.shared import print_json
from chinchilla.core.errors import EXIT_FAILED, EXIT_OK
from chinchilla.core.files.writing import writable_dir
from chinchilla.core.terminal import print_message
from chinchilla.plan.grid import build_shape, plan_run
from chinchilla.plan.records import RunResult
from chinchilla.sweep.run_files import has_result


def train(command: config.TrainCommand) -> int:
    """Train one model, and no other run of its folder; a finished run is not trained again.

    The exit code of a run that diverged is 1. In a sweep, a diverged run is a result, and the code is 0.
    """
    from chinchilla.sweep.launch import launch

    tokens = open_tokens(command.data_dir, "model.vocab_size", command.model.vocab_size)
    spec = plan_run(
        build_shape(command.model, tokens.vocab_size),
        command.recipe,
        flop_convention=command.flop_convention,
        data_id=tokens.data_id,
        precision=chosen_precision(command.recipe, command.cluster, command.runtime.device),
        budget_flops=command.budget_flops or None,
        tokens=command.tokens or None,
        sweep=Path(command.out_dir).name,
    )
    use = check_plan(command, [spec], tokens)
    out_dir = writable_dir(Path(command.out_dir), "out_dir")

    run_dir = out_dir / "runs" / spec.run_id
    trained_here = command.cluster.kind in ("debug", "local")
    if trained_here and not has_result(run_dir):
        from chinchilla.train.preflight import check_memory

        check_memory(spec, command.runtime)

    def announce() -> None:
        if command.format == "text":
            show_use(use, command.epochs)

    code = launch(command, [spec], out_dir, Path(command.data_dir), announce=announce)
    if code or not has_result(run_dir):
        return code
    result = RunResult.load(run_dir)
    code = EXIT_FAILED if result.status == "diverged" else EXIT_OK
    if command.format == "json":
        print_json(dataclasses.asdict(result))
        return code
    loss = result.reason
    if result.final_loss is not None:
        se = "" if result.final_loss_se is None else f" ± {result.final_loss_se:.4f}"
        loss = f"final loss {result.final_loss:.4f}{se} nats/token"
    validation = ", ".join(f"{k} {v:.4f}" for k, v in result.validation_loss.items())
    print_message(
        f"{spec.run_id} (recipe={spec.recipe}): {result.status}, {loss}; {validation or 'no validation loss'}. "
        f"{run_dir / 'result.json'}"
    )
    return code
