"""Which run comes next: the order, the reuse of widths, and what fits into a job's time."""

import heapq
import time
from dataclasses import replace

import pytest
from sweep_fakes import make_specs

from chinchilla.plan.records import RunSpec
from chinchilla.sweep.schedule import MIN_SHARE, SIMILAR_C, JobTime, Throughput, in_order, job_time


def runs(*settings: tuple[int, float]) -> list[RunSpec]:
    """Runs by width and training FLOPs, as nearly as whole steps allow."""
    [base] = make_specs(1)
    made = []
    for i, (width, flops) in enumerate(settings):
        model = replace(base.model, d_model=width, ffw_size=4 * width, n_heads=width // 32)
        one = replace(base, model=model, steps=1, cosine_steps=1, seed=i)
        made.append(replace(one, steps=round(flops / one.C), cosine_steps=round(flops / one.C)))
    return made


# Order


def test_longest_runs_first_and_failed_runs_last():
    short, long, failed = make_specs(3)  # each longer than the one before
    ordered = in_order([short, failed, long], None, lambda s: int(s is failed))
    assert ordered == [long, short, failed]


def test_a_worker_prefers_its_width_among_runs_of_similar_length():
    long, same, other = runs((128, 1e12), (64, 0.85e12), (96, 0.1e12))
    assert SIMILAR_C < same.C / long.C < 1
    assert in_order([other, same, long], width=64) == [same, long, other]
    assert in_order([other, same, long], width=None) == [long, same, other]


def test_a_worker_changes_its_width_for_a_much_longer_run():
    long, same = runs((128, 1e12), (64, 0.75e12))
    assert same.C < SIMILAR_C * long.C
    assert in_order([same, long], width=64) == [long, same]


def test_failures_take_precedence_over_width():
    failed, fresh = runs((64, 0.9e12), (128, 1e12))
    assert in_order([failed, fresh], 64, lambda s: int(s is failed)) == [fresh, failed]


def simulate(specs: list[RunSpec], n_workers: int, keep: bool) -> tuple[float, int]:
    """When the last run ends, in FLOPs of one worker, and how often a worker changed its width."""
    left, width, changes = list(specs), dict.fromkeys(range(n_workers)), 0
    free = [(0.0, i) for i in range(n_workers)]
    while left:
        now, i = heapq.heappop(free)
        spec = in_order(left, width[i] if keep else None)[0]
        left.remove(spec)
        changes += width[i] != spec.model.d_model
        width[i] = spec.model.d_model
        heapq.heappush(free, (now + spec.C, i))
    return max(now for now, _ in free), changes


@pytest.mark.parametrize("n_workers", [1, 2, 3, 4, 8, 16])
def test_preferring_a_width_saves_changes_and_no_sweep_takes_longer(n_workers: int):
    """A sweep of 4 budgets x 10 widths, as isoFLOP grids are: runs of a budget are equally long."""
    specs = runs(*((w, C) for C in (1e13, 2e13, 4e13, 8e13) for w in range(64, 704, 64)))
    end, changes = simulate(specs, n_workers, keep=True)
    end_longest_first, changes_longest_first = simulate(specs, n_workers, keep=False)
    assert end <= 1.001 * end_longest_first
    assert changes < changes_longest_first
    most = max(sum(s.C for s in specs) / n_workers, max(s.C for s in specs))
    assert end <= most + max(s.C for s in specs)


# Time


def test_a_run_that_fits_is_started_and_one_that_fits_a_whole_job_is_not():
    job = JobTime(start=0, end=1000)
    assert job.fits(400, now=600)
    assert not job.fits(401, now=600)
    assert not job.fits(900, now=101)
    assert job.fits(900, now=100)


@pytest.mark.parametrize("needed", [901, 999, 5000])
def test_a_run_longer_than_a_job_is_started_but_not_in_the_last_tenth(needed: float):
    """What takes nearly a whole job counts: a job's first seconds pass before anything starts."""
    job = JobTime(start=0, end=1000)
    assert job.fits(needed, now=1000 * (1 - MIN_SHARE))
    assert not job.fits(needed, now=901)


def test_a_run_of_unknown_duration_is_started_while_there_is_time():
    job = JobTime(start=0, end=1000)
    assert job.fits(None, now=999)
    assert not job.fits(None, now=1000)
    assert not job.fits(0.0, now=1000)


def test_no_run_starves():
    """Whatever the lengths: jobs that keep coming finish everything, also what no job could hold."""
    left = {name: float(seconds) for name, seconds in enumerate([5000, 1000, 999, 700, 400, 30])}
    for _ in range(60):
        job, now = JobTime(0, 1000), 5.0  # it takes a while to start
        while any(job.fits(seconds, now) for seconds in left.values()):
            name = next(n for n, seconds in left.items() if job.fits(seconds, now))
            spent = min(left[name], 1000 - now)
            now += spent
            left[name] -= spent
            left = {n: seconds for n, seconds in left.items() if seconds}
    assert not left


def test_the_end_of_a_job_is_read_from_slurms_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    assert job_time() is None
    monkeypatch.setenv("SLURM_JOB_START_TIME", "10000")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "13600")
    assert job_time() == JobTime(10000, 13600 - 180)  # the warning comes three minutes before
    monkeypatch.setenv("SLURM_JOB_END_TIME", "10120")
    assert job_time() == JobTime(10000, 10120 - 30)
    monkeypatch.setenv("SLURM_JOB_END_TIME", "soon")
    assert job_time() is None


def test_a_given_deadline_takes_precedence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", "10120")
    end = time.time() + 60
    assert job_time(end).end == end


# Speed


def test_duration_uses_the_speed_of_the_nearest_measured_model():
    small, large, settings = runs((64, 1e12), (256, 2e12), (192, 1e12))
    pace = Throughput()
    assert pace.seconds(settings, 0, None) is None
    pace.add(small, small.steps, seconds=1.0)
    pace.add(large, large.steps // 2, seconds=2.0)
    assert pace.seconds(large, large.steps // 2, None) == pytest.approx(2.0, rel=0.02)
    assert pace.seconds(small, 0, None) == pytest.approx(1.0)
    assert pace.seconds(settings, 0, None) == pytest.approx(4.0 * settings.C / large.C, rel=0.02)


def test_without_measurements_the_runs_own_speed_is_used():
    [spec] = make_specs(1)
    spec = replace(spec, steps=100)
    pace = Throughput()
    assert pace.seconds(spec, 60, tokens_per_second=1024.0) == 40
    pace.add(spec, 10, seconds=1.0)
    assert pace.seconds(spec, 60, tokens_per_second=1024.0) == 4


def test_measurements_without_steps_or_time_are_ignored():
    [spec] = make_specs(1)
    pace = Throughput()
    pace.add(spec, 0, 1.0)
    assert pace.seconds(spec, 0, 0) is None
