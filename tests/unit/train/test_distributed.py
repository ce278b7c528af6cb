"""One run on several processes (gloo) has the losses of one process, also after stops and kills.

fp32 differs from one process only in the order of sums: each rank adds up its rows, then the ranks
are added. 2^-24 relative at each update; 24 updates of this large step make it 1e-6 nats, and these
tests allow ten times that. On the same number of ranks every bit is the same.
"""

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import ranks_world
import torch
from ranks_world import end, output_of, start, trained
from train_world import EVERY_UPDATE, make_runtime, make_spec, same_bits

from chinchilla.core.errors import InputError
from chinchilla.model import Transformer
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.train import train_run
from chinchilla.train.checkpoint import load_checkpoint
from chinchilla.train.distributed import join

NEAR = 1e-5  # nats; measured: 1e-6
BATCH = 8 * 16  # tokens: eight rows


@pytest.fixture(scope="module")
def spec(data_dir: Path) -> RunSpec:
    return make_spec(data_dir, batch_tokens=BATCH)


@pytest.fixture(scope="module")
def one(spec: RunSpec, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of one process."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    train_run(spec, run_dir, data_dir, make_runtime()).save(run_dir)
    return run_dir


@pytest.fixture(scope="module")
def four(spec: RunSpec, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of four processes."""
    run_dir = tmp_path_factory.mktemp("four") / "run"
    trained(4, spec, run_dir, data_dir)
    return run_dir


def assert_near(run_dir: Path, other: Path) -> None:
    a, b = Curve.load(run_dir), Curve.load(other)
    np.testing.assert_allclose(a.loss, b.loss, atol=NEAR, rtol=0)
    np.testing.assert_array_equal(a.validation_step, b.validation_step)
    np.testing.assert_allclose(a.validation_loss, b.validation_loss, atol=NEAR, rtol=0)
    one, two = RunResult.read(run_dir / "result.json"), RunResult.read(other / "result.json")
    assert one.final_loss == pytest.approx(two.final_loss, abs=NEAR)
    assert (one.n_params, one.n_params_non_embedding) == (two.n_params, two.n_params_non_embedding)
    assert (one.spec, one.validation_tokens, one.flops_spent) == (
        two.spec,
        two.validation_tokens,
        two.flops_spent,
    )


def assert_same_bits(run_dir: Path, other: Path) -> None:
    same_bits(
        RunResult.read(run_dir / "result.json"),
        run_dir,
        RunResult.read(other / "result.json"),
        other,
    )


# The losses


@pytest.mark.slow
def test_four_processes_give_the_losses_of_one(four: Path, one: Path):
    assert_near(four, one)
    assert Curve.load(four).loss[0] == Curve.load(one).loss[0], "the same rows and weights"
    assert RunResult.read(four / "result.json").device.startswith("4 x CPU")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "runtime"),
    [
        (2, {}),
        (2, {"micro_batch_tokens": 16}),
        (2, {"shard_ranks": 1}),
        (4, {"shard_ranks": 2}),
        (4, {"shard_ranks": 2, "micro_batch_tokens": 16, "activation_checkpointing": True}),
        (4, {"shard_ranks": 2, "micro_batch_tokens": 16, "compile_blocks": "always"}),
        (4, {"validation_tokens": 16}),  # fewer rows than ranks
    ],
)
def test_losses_do_not_depend_on_how_the_work_is_divided(
    spec: RunSpec, one: Path, data_dir: Path, tmp_path: Path, world: int, runtime: dict
):
    trained(world, spec, tmp_path / "run", data_dir, **runtime)
    if "validation_tokens" in runtime:
        one = tmp_path / "one"
        train_run(spec, one, data_dir, make_runtime(**runtime)).save(one)
    assert_near(tmp_path / "run", one)


@pytest.mark.slow
@pytest.mark.parametrize(("positions", "clip"), [("relative", 1.0), ("rope", 0.1), ("rope", 0.0)])
def test_positions_and_clipping_give_the_losses_of_one_process(
    data_dir: Path, tmp_path: Path, positions: str, clip: float
):
    spec = make_spec(data_dir, batch_tokens=BATCH, positions=positions, grad_clip=clip)
    train_run(spec, tmp_path / "one", data_dir, make_runtime()).save(tmp_path / "one")
    trained(2, spec, tmp_path / "two", data_dir)
    assert_near(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_bf16_on_ranks_is_bf16_on_one_process(data_dir: Path, tmp_path: Path):
    """With the same rows in a forward pass: each gradient is rounded to bf16 for those, then summed
    in fp32. The rounding of a weight may flip once on the way: 2^-9 of a small gradient."""
    spec = make_spec(data_dir, batch_tokens=BATCH, precision="bf16")
    micro = {"micro_batch_tokens": BATCH // 2}
    train_run(spec, tmp_path / "one", data_dir, make_runtime(**micro)).save(tmp_path / "one")
    trained(2, spec, tmp_path / "two", data_dir)
    losses = [Curve.load(tmp_path / name).loss for name in ("one", "two")]
    np.testing.assert_allclose(*losses, atol=2e-3, rtol=0)
    found, _ = load_checkpoint(tmp_path / "two" / "checkpoints", spec)
    state = [*found.weights.values(), *found.optimizer.values()]
    assert {t.dtype for t in state} == {torch.float32}


# Stopping and resuming


@pytest.mark.slow
def test_a_stop_on_one_rank_stops_all_at_the_same_step_and_they_resume_with_the_same_bits(
    spec: RunSpec, four: Path, data_dir: Path, tmp_path: Path
):
    run_dir = tmp_path / "run"
    trained(4, spec, run_dir, data_dir, stop_before=8)
    assert [p.name for p in (run_dir / "checkpoints").iterdir()] == ["step-00000007"]
    trained(4, spec, run_dir, data_dir)
    assert_same_bits(run_dir, four)
    assert (run_dir / "metrics.jsonl").read_text().count("\n") == 5


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(3, 2), (2, 1), (1, 2)])
def test_a_run_resumes_with_another_number_of_ranks(
    data_dir: Path, tmp_path: Path, before: int, after: int
):
    spec = make_spec(data_dir, batch_tokens=12 * 16)
    run_dir, alone = tmp_path / "run", tmp_path / "alone"
    train_run(spec, alone, data_dir, make_runtime()).save(alone)
    trained(before, spec, run_dir, data_dir, stop_before=13)
    half, _ = load_checkpoint(run_dir / "checkpoints", spec)
    trained(after, spec, run_dir, data_dir)
    assert_near(run_dir, alone)
    np.testing.assert_array_equal(Curve.load(run_dir).loss[:12], half.optimizer["losses"].numpy())


@pytest.mark.slow
def test_two_copies_of_two_shards_resume_with_the_same_bits_and_as_one_copy(
    spec: RunSpec, one: Path, data_dir: Path, tmp_path: Path
):
    copies = {"shard_ranks": 2, "micro_batch_tokens": 16}
    whole, resumed, other = (tmp_path / name for name in ("whole", "resumed", "other"))
    trained(4, spec, whole, data_dir, **copies)
    trained(4, spec, resumed, data_dir, **copies, stop_before=13)
    shutil.copytree(resumed, other)
    trained(4, spec, resumed, data_dir, **copies)
    assert_same_bits(resumed, whole)
    trained(2, spec, other, data_dir)
    assert_near(other, one)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank_ends_the_others_and_the_run_resumes_with_the_same_bits(
    spec: RunSpec, four: Path, data_dir: Path, tmp_path: Path, victim: int
):
    run_dir, out = tmp_path / "run", tmp_path / "output"
    eager = {"checkpoint_minutes": EVERY_UPDATE}
    processes = start(4, out, ranks_world.train, spec, run_dir, data_dir, eager)
    deadline = time.monotonic() + 60
    while not (run_dir / "checkpoints" / "step-00000003").exists():
        assert time.monotonic() < deadline, output_of(out)
        time.sleep(0.001)
    os.kill(processes[victim].pid, signal.SIGKILL)
    codes = end(processes, 30)
    assert codes[victim] == -signal.SIGKILL
    assert set(codes) == {-signal.SIGKILL, 1}, output_of(out)
    outputs = [(out / f"rank-{i}.txt").read_text() for i in range(4) if i != victim]
    gone = "rank 0 has ended" if victim == 0 else "rank 2 of 4 on .*: ended, or does not answer"
    for text in outputs:
        assert "PeerError" in text.strip().splitlines()[-1]
    if victim:
        assert "rank 2 of 4 on " in outputs[0].splitlines()[-1], gone
    trained(4, spec, run_dir, data_dir)
    assert_same_bits(run_dir, four)


def fail_in_an_update(spec: RunSpec, run_dir: Path, data_dir: Path) -> None:
    """Rank 1 raises an error in the middle of a step; the others do not."""
    ranks = join("cpu", seconds=60)
    passes = 0

    class Failing(Transformer):
        def forward(self, tokens, targets=None) -> torch.Tensor:
            nonlocal passes
            passes += 1
            if ranks.rank == 1 and passes == 5:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().forward(tokens, targets)

    from chinchilla.train import fsdp

    fsdp.Transformer = Failing
    try:
        train_run(spec, run_dir, data_dir, make_runtime(), group=ranks)
    except RuntimeError as error:
        assert ranks.broken
        print(f"{type(error).__name__}: {error}")
    else:
        raise AssertionError("it went well")
    ranks.close()


@pytest.mark.slow
def test_an_error_on_one_rank_ends_all_ranks_with_its_message(
    spec: RunSpec, data_dir: Path, tmp_path: Path
):
    began = time.monotonic()
    codes = end(start(4, tmp_path, fail_in_an_update, spec, tmp_path / "run", data_dir))
    assert codes == [0] * 4, output_of(tmp_path)
    assert time.monotonic() - began < 60
    for rank in range(4):
        last = (tmp_path / f"rank-{rank}.txt").read_text().splitlines()[-1]
        assert last.endswith("CUDA out of memory. Tried to allocate 2.00 GiB"), output_of(tmp_path)
        assert last.startswith("RuntimeError" if rank == 1 else "PeerError: rank 1 of 4 on ")


def test_copies_that_do_not_divide_the_ranks_are_refused():
    with pytest.raises(InputError, match=r"shard_ranks=3 does not divide the 4 ranks of a worker"):
        join("cpu", 3, settings={"WORLD_SIZE": "4"})
