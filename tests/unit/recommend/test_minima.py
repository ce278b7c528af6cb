"""`chinchilla fit minima=`: a forecast from losses at minima alone, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from public_data import public

from chinchilla import cli
from chinchilla.fit.results import FitResults
from chinchilla.observations.read_table import read_csv, read_frame
from chinchilla.recommend.evaluate import recommendation
from chinchilla.recommend.minima import fit_minima

E, G = 1.69, 0.154  # of the loss at the minima below, and N_opt = .1 * C^.5
C = np.geomspace(1e18, 3e20, 6)
K = 1.6 * C[0] ** G


def losses(C: np.ndarray, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    error = noise * np.random.default_rng(seed).normal(size=np.shape(C))
    return (E + K * C**-G) * np.exp(error)


def table(**columns):
    return read_frame({name: np.asarray(x, float) for name, x in columns.items()})


@pytest.fixture
def say(tmp_path, monkeypatch, capsys):
    """say(words) -> exit code, stdout, stderr, in a folder with the table minima.csv."""
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{c!r},{n!r},{x!r}\n" for c, n, x in zip(C.tolist(), N_opt(C).tolist(), losses(C).tolist(), strict=True))  # fmt: skip
    (tmp_path / "minima.csv").write_text(f"FLOPs,Params,val_loss\n{rows}")
    (tmp_path / "losses.csv").write_text("C,L\n1e18,3.522\n1e19,3.154\n1e20,2.848\n3e20,2.725\n")

    def run(words: str):
        capsys.readouterr()
        return cli.main(words.split()), *capsys.readouterr()

    return run


def N_opt(C):
    return 0.1 * np.asarray(C) ** 0.5


def test_minima_on_a_law_give_it_back():
    """Noise-free minima on E + K*C^-g and k*C^a: loss, N and D = C/(6*N) at 10 and 300 times."""
    fits = fit_minima(table(C=C, N=N_opt(C), L=losses(C)))
    for times in (10, 300):
        told = recommendation(fits, times * C[-1])
        assert told.L == pytest.approx(losses(times * C[-1]), rel=2e-5)
        assert told.N == pytest.approx(N_opt(times * C[-1]), rel=1e-6)
        assert told.D == pytest.approx(times * C[-1] / (6 * told.N), rel=1e-9)
        assert told.approach == "minima"


def test_published_minima_predict_two_later_runs():
    """Six of Marin's minima forecast its runs 3.3 and 333 times beyond them, inside intervals of 2%."""
    path = public("marin_moe_minima.csv")
    told = read_csv(path, "minima")
    six = [i for i, x in enumerate(told.columns["L"]) if float(x) > 2.7]
    fits = fit_minima(table(**{k: [float(told.columns[k][i]) for i in six] for k in "CL"}))
    assert fits.data["n_runs"] == 6
    for budget, measured, error in ((1e21, 2.599, 1e-3), (1e23, 2.234, 5e-3)):
        answer = recommendation(fits, budget)
        assert answer.L == pytest.approx(measured, rel=error)
        low, high = answer.L_interval80
        assert low < measured < high
        assert high - low < 0.02 * measured
        assert answer.N is None
        assert answer.D is None


@pytest.mark.slow  # 1.6 s
def test_intervals_cover_the_loss_of_the_law_that_minima_were_drawn_from():
    """100 draws of six minima, noise .05 to .3%: the 80% interval holds 70 to 95 at 10 and 300 times."""
    noise = np.exp(np.random.default_rng(0).uniform(np.log(5e-4), np.log(3e-3), 100))
    held = {10: 0, 300: 0}
    for seed in range(100):
        fits = fit_minima(table(C=C, L=losses(C, noise[seed], seed)))
        for times in held:
            low, high = recommendation(fits, times * C[-1]).L_interval80
            held[times] += low <= losses(times * C[-1]) <= high
    assert 70 <= held[10] <= 95
    assert 70 <= held[300] <= 95


def test_fit_prints_the_answer_and_predict_repeats_it_from_the_file(say):
    code, out, err = say("fit minima=minima.csv out_dir=fits")
    assert (code, err) == (0, "")
    assert "\nC = 3e+21 FLOPs: N 5.48B (" in out
    assert "by losses at minima" in out
    assert "wrote fits/frontier.json" in out
    fits = FitResults.load(Path("fits"))
    assert not fits.fitted
    assert fits.of_minima
    assert fits.data["C"] == pytest.approx([1e18, 3e20])
    assert [fits.data[k] for k in ("n_runs", "N", "D", "tokens_per_param")] == [6, None, None, None]
    code, again, _ = say("predict fits=fits budget_flops=3e21")
    assert code == 0
    assert again.splitlines()[0] in out.splitlines()


def test_losses_without_sizes_are_answered_by_a_loss_alone(say):
    _, out, _ = say("fit minima=losses.csv out_dir=fits")
    assert "\nC = 3e+21 FLOPs: loss 2.49" in out
    code, out, _ = say("predict fits=fits/frontier.json budget_flops=[1e21,1e22] format=json")
    told = json.loads(out)
    assert code == 0
    assert told["recommended"]["N"] is None
    assert told["recommended"]["D"] is None
    first, second = told["recommendations"]
    assert first["L"] > second["L"]
    assert first == told["recommended"]
    assert second["L_interval80"][0] < second["L"] < second["L_interval80"][1]


@pytest.mark.parametrize(
    "words",
    [
        "diagnose fits=fits",
        "design fits=fits budget_flops=1e22 spend=1e20",
        "report fits=fits",
        "compare fits=[fits,others] out_dir=compared",
        "predict fits=fits target_loss=2.5",
        "predict fits=fits budget_flops=1e21 preregister=true",
    ],
)
def test_commands_that_need_runs_or_a_law_say_why_they_have_none(say, words):
    for out_dir in ("fits", "others"):
        assert say(f"fit minima=losses.csv out_dir={out_dir}")[0] == 0
    code, out, err = say(words)
    assert (code, out) == (3, "")
    assert "losses at minima alone" in err
    assert len(err.splitlines()) == 1


def test_score_refuses_a_frontier_of_minima_in_one_line(say):
    say("fit minima=losses.csv out_dir=fits")
    code, _, err = say("score prediction=fits/frontier.json observations=losses.csv")
    assert code == 2
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("other", ["observations=minima.csv", "sweep_dir=s", "curves=minima.csv", "best=true"])  # fmt: skip
def test_minima_cannot_be_combined_with_other_inputs(say, other):
    code, _, err = say(f"fit minima=minima.csv out_dir=fits {other}")
    assert code == 2
    assert other.partition("=")[0] in err
    assert len(err.splitlines()) == 1


BAD = {  # what is wrong -> the table, parts of the answer
    "two at one C": ("C,L\n1e18,3.5\n1e19,3.1\n1.001e19,3.0\n1e20,2.8\n", ["lines 3 and 4", "two minima"]),
    "a copy": ("C,L\n1e18,3.5\n1e19,3.1\n1e20,2.8\n1e19,3.1\n", ["lines 3 and 5", "two minima"]),
    "too few": ("C,L\n1e18,3.5\n1e19,3.1\n", ["2 minima", "at least 3"]),
    "rising": ("C,L\n1e18,2.8\n1e19,3.1\n1e20,3.5\n", ["does not fall with C"]),
    "NaN": ("C,L\n1e18,3.5\n1e19,nan\n1e20,2.8\n", ["line 3", "L=nan"]),
    "empty size": ("C,N,L\n1e18,1e8,3.5\n1e19,,3.1\n1e20,1e9,2.8\n", ["line 3", "N=''"]),
    "perplexity": ("C,L\n1e18,35\n1e19,30\n1e20,20\n", ["perplexity"]),
    "no loss": ("C,N\n1e18,1e8\n1e19,2e8\n1e20,4e8\n", ["no column L", "columns C,L"]),
    "no rows": ("C,L\n", ["0 minima"]),
    "shrinking sizes": ("C,N,L\n1e18,3e9,3.5\n1e19,2e9,3.1\n1e20,1e9,2.8\n", ["N_opt grows as C^-0.2"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_refused_in_one_line(say, tmp_path, name):
    text, parts = BAD[name]
    (tmp_path / "bad.csv").write_text(text)
    code, out, err = say("fit minima=bad.csv out_dir=fits")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    for part in parts:
        assert part in err
    assert not (tmp_path / "fits").exists()


def test_names_units_and_suffixes_are_read_as_in_any_table(tmp_path):
    """A budget column stands for C, and sizes have suffixes."""
    path = tmp_path / "minima.csv"
    path.write_text("budget,Params,Loss\n1e20,1B,2.85\n1e18,80M,3.52\n1e19,300M,3.15\n")
    fits = fit_minima(read_csv(path, "minima"))
    assert fits.data["n_runs"] == 3
    assert recommendation(fits, 1e21).N == pytest.approx(3.6e9, rel=0.1)


def test_a_loss_that_rises_in_between_is_a_note():
    L = losses(C)
    L[3] = L[2] * 1.001
    fits = fit_minima(table(C=C, L=L))
    assert any("does not fall from C" in note for note in fits.data["notes"])
