"""`chinchilla fit` of CSVs: results, and errors of one line."""

import json
import time
from functools import partial

import numpy as np
import pytest
from command_line import Result, one_line
from special_files import put_special

from chinchilla.commands.progress import late_lines
from chinchilla.fit.loss_law import named_law
from chinchilla.observations.table import Observations

LAW = named_law("hoffmann")
HEADER = "run_id,budget_flops,C,N,D,L"
LAST = "r9,,6e20,1e10,1e10,2.5"


def good() -> list[str]:
    """A CSV's lines: header and eight runs of four sizes on the published law."""
    rows = []
    for N in (1e8, 3e8, 1e9, 3e9):
        for ratio in (10, 40):
            D = ratio * N
            rows.append(f"r{len(rows)},,{6 * N * D!r},{N!r},{D!r},{float(LAW(N, D))!r}")
    return [HEADER, *rows]


@pytest.fixture
def fit(say, tmp_path):
    """fit(lines or bytes, words...) -> Result of `chinchilla fit`; None keeps the file."""

    def run(content, *words: str) -> Result:
        if content is not None:
            raw = content if isinstance(content, bytes) else ("\n".join(content) + "\n").encode()
            (tmp_path / "runs.csv").write_bytes(raw)
        n = [] if any("n_bootstrap=" in word for word in words) else ["n_bootstrap=0"]
        return say(["fit", "observations=runs.csv", "out_dir=fits", *n, *words])

    return run


def with_last(**changes) -> list[str]:
    """The good lines and one more run, some of its values changed; it stands on line 10."""
    row = dict(zip(HEADER.split(","), LAST.split(","), strict=True)) | changes
    return [*good(), ",".join(row.values())]


def without(column: str) -> list[str]:
    i = HEADER.split(",").index(column)
    return [",".join(v for k, v in enumerate(line.split(",")) if k != i) for line in good()]


def scaled(**by: float) -> list[str]:
    """The good lines with whole columns in another unit."""
    lines = [HEADER]
    for line in good()[1:]:
        row = dict(zip(HEADER.split(","), line.split(","), strict=True))
        lines.append(
            ",".join({**row, **{k: repr(float(row[k]) * f) for k, f in by.items()}}.values())
        )
    return lines


BAD = {  # what is wrong -> the lines or bytes, parts of the answer; more in tests/unit/observations
    "empty value": (with_last(N=""), ["line 10: N=''"]),
    "zero": (with_last(L="0"), ["line 10: L=0"]),
    "1e400": (with_last(C="1e400"), ["line 10: C=1e400"]),
    "word": (with_last(L="diverged"), ["line 10: L='diverged'"]),
    "unknown unit": (with_last(D="1.4 zillion"), ["line 10: D='1.4 zillion'"]),
    "one row in thousands": (with_last(D="1e7"), ["line 10: 6*N*D/C is 0.001", "thousands"]),
    "thousands": (with_last(N='"1,000"'), ["N='1,000'", "thousands separators"]),
    "bare thousands": (with_last(N="1,000"), ["line 10: more values than the 6 columns"]),
    "no name": (with_last(run_id=""), ["line 10: run_id is empty"]),
    "short row": ([*good(), "r9,,6e20"], ["line 10: fewer values than the 6 columns"]),
    "open quote": (
        [*good(), '"r9,,6e20,1e10,1e10,2.5'],
        ["from line 10 on", "Check for an unclosed quote"],
    ),
    "no C": (without("C"), ["no column C", "With flop_convention=six_nd, C is computed"]),
    "no L": (without("L"), ["no column L (found run_id, budget_flops, C, N, D)"]),
    "column twice": ([f"{HEADER},L", *(f"{x},3" for x in good()[1:])], ["column L", "twice"]),
    "alias beside": ([f"{HEADER},loss", *(f"{x},3" for x in good()[1:])], ["L and loss"]),
    "one name": (with_last(run_id="r0", C="6e17", N="1e8", D="1e9"), ["line 10", "line 2", "seed"]),
    "N in millions": (scaled(N=1e-6), ["N looks like millions", "such as 70e9"]),
    "C in PFLOP/s-days": (scaled(C=1 / 8.64e19), ["C looks like PFLOP/s-days"]),
    "perplexity": (scaled(L=10.0), ["nats per token", "perplexity"]),
    "header only": ([HEADER], ["only a header"]),
    "empty file": (b"", ["found none", "C,N,D,L"]),
    "unknown convention": (
        [f"{HEADER},flop_convention", *(f"{x},6nd" for x in good()[1:])],
        ["line 2: flop_convention='6nd'", "with_head"],
    ),
    "mixed conventions": (
        [f"{HEADER},n_convention", f"{good()[1]},total", f"{good()[2]},non_embedding"],
        ["line 3: n_convention=non_embedding", "total"],
    ),
    "JSON": (b'{"N": [1e8]}\n', ["no column C, N, D, L"]),
    "Latin-1": ("\n".join(good()).encode() + b"\n# caf\xe9\n", ["is not a text file in UTF-8"]),
    "spreadsheet": (
        b"PK\x03\x04\x14\x00",
        ["is not a text file in UTF-8. Export the table as CSV"],
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_wrong_csv_is_refused_in_one_line(fit, tmp_path, kind):
    content, parts = BAD[kind]
    result = fit(content)
    one_line(result, 2, "runs.csv", *parts)
    assert result.out == ""
    assert not (tmp_path / "fits").exists()


def test_a_missing_file_and_a_folder_are_refused_in_one_line(fit, tmp_path):
    advice = "Give the path of a CSV file.\n"
    assert f"runs.csv cannot be read (No such file or directory). {advice}" in fit(None)[2]
    (tmp_path / "runs.csv").mkdir()
    assert f"runs.csv cannot be read (Is a directory). {advice}" in fit(None)[2]


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("tokens_per_param=[200,2]", "tokens_per_param=[200.0, 2.0]"),
        ("tokens_per_param=[2]", "the smallest and the largest D/N"),
        ("tokens_per_param=[1000,2000]", "10 to 40 tokens per parameter"),
        ("n_convention=all", "choose one of unknown, total, non_embedding"),
        ("sweep_dir=s", "give one of sweep_dir=FOLDER"),
        ("curves=runs.csv", "no two rows share a run_id"),
        ("curves=none.csv", "curves=none.csv cannot be read"),
        ("out_dir=other", "out_dir is given 2 times"),
        ("n_bootstrap=1000000000", "n_bootstrap=1000000000"),
    ],
)
def test_a_setting_that_does_not_fit_the_csv_is_refused_in_one_line(fit, word, part):
    one_line(fit(good(), word), 2, part)


def test_fits_of_another_version_are_not_replaced(fit, tmp_path):
    (tmp_path / "fits").mkdir()
    path = tmp_path / "fits" / "frontier.json"
    for text in ('{"schema": 1, "approaches": {}}', "[]", "not JSON"):
        path.write_text(text)
        one_line(fit(good()), 2, "fits/frontier.json", "another out_dir")
        assert path.read_text() == text
    path.unlink()
    assert fit(good(), "approaches=parametric").code == 0
    assert fit(good(), "approaches=parametric").code == 0  # of this version: fitted again


@pytest.mark.parametrize("kind", ["directory", "FIFO", "device"])
def test_what_is_not_a_file_in_place_of_the_fits_is_named(fit, tmp_path, kind):
    (tmp_path / "fits").mkdir(exist_ok=True)
    put_special(kind, tmp_path / "fits" / "frontier.json")
    word = {"directory": "Is a directory"}.get(kind, f"it is a {kind}")
    one_line(fit(good()), 2, "frontier.json cannot be replaced", word)


def test_reading_that_takes_long_is_reported(fit, monkeypatch):
    def slow(*args, **options):
        time.sleep(0.2)
        return from_csv(*args, **options)

    from_csv = Observations.from_csv
    monkeypatch.setattr(Observations, "from_csv", slow)
    monkeypatch.setattr("chinchilla.commands.fit.late_lines", partial(late_lines, first=0.05))
    assert "reading the runs, 0 s" in fit(good(), "approaches=parametric").err


def test_fits_are_not_replaced_by_refusals(fit, tmp_path):
    """If no approach has an answer, the files of earlier fits keep their bytes."""
    assert fit(good(), "approaches=parametric").code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "fits").iterdir()}
    for words in ("format=text", "format=json"):
        said = fit(good()[:3], "approaches=parametric", words)
        assert said.code == 3
        assert (said.out + said.err).count("The fits already in fits were kept") == 1
        assert "wrote" not in said.out
        assert {path: path.read_bytes() for path in (tmp_path / "fits").iterdir()} == before
    assert said.json["approaches"]["parametric"]["status"] == "refused"


# ------------------------------------------------------------------ what cannot answer


def table(N, D, L, budget=None) -> list[str]:
    N, D, L = np.broadcast_arrays(*(np.asarray(x, float) for x in (N, D, L)))
    budget = [""] * len(N) if budget is None else [repr(float(b)) for b in budget]
    rows = zip(budget, N.tolist(), D.tolist(), L.tolist(), strict=True)
    return [
        HEADER,
        *(f"r{i},{b},{6 * n * d!r},{n!r},{d!r},{x!r}" for i, (b, n, d, x) in enumerate(rows)),
    ]


SIZES = np.repeat(np.geomspace(1e8, 1e10, 8), 3)
RATIOS = np.tile([8.0, 20.0, 50.0], 8)
BUDGETS = np.repeat([1e19, 1e20], 9)
VALLEYS = 0.6 * (BUDGETS / 6) ** 0.4565 * np.tile(np.geomspace(1 / 4, 4, 9), 2)


@pytest.mark.parametrize(
    ("rows", "reasons"),
    [
        (table([1e9], [2e10], 2.5), {"parametric": "needs runs of different cost",
                                     "envelope": "needs 3 model sizes", "isoflop": "no run has a budget"}),
        (table(np.full(8, 1e9), 1e9 * np.arange(5, 13), 3 - 0.1 * np.arange(8)),
         {"parametric": "needs three different sizes N", "envelope": "these runs have 1"}),
        (table(SIZES, 20 * SIZES * np.tile([0.999, 1.0, 1.001], 8), LAW(SIZES, 20 * SIZES)),
         {"parametric": "effects of N and D", "envelope": "effects of N and D"}),
        (table(VALLEYS, 20 * VALLEYS, LAW(VALLEYS, 20 * VALLEYS), 120 * VALLEYS**2),
         {"parametric": "effects of N and D", "envelope": "effects of N and D",
          "isoflop": "effects of N and D: every run has 20 tokens per parameter"}),
        (table(VALLEYS, BUDGETS / 6 / VALLEYS, 3.0, BUDGETS),
         {"isoflop": "all 9 runs end at 3 nats per token", "parametric": "needs losses that differ"}),
        (table(VALLEYS, BUDGETS / 6 / VALLEYS**0.9, 3 - 0.1 * np.log(VALLEYS), BUDGETS),
         {"isoflop": "at most 1.3 within a budget). Check column C"}),
        (table(VALLEYS[:9], 1e19 / 6 / VALLEYS[:9], LAW(VALLEYS[:9], 1e19 / 6 / VALLEYS[:9]), BUDGETS[:9]),
         {"isoflop": "two budgets", "parametric": "different cost", "envelope": "3 sizes"}),
        (table(SIZES, RATIOS * SIZES, 3.0), {"parametric": "approach 3", "envelope": "approach 1"}),
        (table(VALLEYS, BUDGETS / 6 / VALLEYS, 4 - 0.1 * np.log(VALLEYS), BUDGETS),
         {"isoflop": "minimum"}),
    ],
    ids=["one run", "one size", "one D/N", "one D/N in budgets", "constant loss in budgets",
         "budgets of unequal C", "one budget", "constant loss", "no IsoFLOP curve"],
)  # fmt: skip
def test_a_csv_that_cannot_answer_is_refused_with_the_reason(fit, tmp_path, rows, reasons):
    code, out, err = fit(rows, f"approaches=[{','.join(reasons)}]")
    assert (code, err) == (3, "")
    told = json.loads((tmp_path / "fits" / "frontier.json").read_text())["approaches"]
    for approach, reason in reasons.items():
        assert told[approach]["status"] == "refused"
        assert reason in told[approach]["reason"]
        assert f"{approach} refused: " in out


# ------------------------------------------------------------------ what is read


def read_back(tmp_path) -> Observations:
    return Observations.from_csv(tmp_path / "fits" / "observations.csv")


def test_integers_beyond_64_bits_are_numbers_like_others(fit, tmp_path):
    rows = table(SIZES * 10, RATIOS * SIZES * 10, LAW(SIZES * 10, RATIOS * SIZES * 10))
    whole = [rows[0], *(",".join(_whole(v) for v in row.split(",")) for row in rows[1:])]
    assert any(len(v) > 20 for v in whole[-1].split(","))
    assert fit(whole, "approaches=parametric")[0] == 0
    assert read_back(tmp_path).C.max() == pytest.approx(6 * (SIZES * RATIOS * SIZES).max() * 100)


def _whole(text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        return text
    return f"{value:.0f}" if value > 1e3 else text


def test_columns_under_other_names_without_C_give_the_same_fit(fit, tmp_path):
    D = RATIOS * SIZES
    rows = table(SIZES, D, LAW(SIZES, D))
    words = ("approaches=parametric", "flop_convention=six_nd", "n_convention=non_embedding")
    assert fit(rows, *words)[0] == 0
    first = json.loads((tmp_path / "fits" / "frontier.json").read_text())
    run_dirs = [row.split(",") for row in rows[1:]]
    renamed = ["Loss\tPARAMS\tTokens\tnote", *(f"{c[5]}\t{c[3]}\t{c[4]}\tx" for c in run_dirs)]
    code, out, _ = fit(renamed, *words)
    assert code == 0
    assert "note: C = 6*N*D in every row: the table has no column C." in out
    second = json.loads((tmp_path / "fits" / "frontier.json").read_text())
    a, b = (x["approaches"]["parametric"] for x in (first, second))
    assert a["law"] == b["law"]
    assert b["conventions"]["n_convention"] == "non_embedding"
    assert second["data"]["notes"] == ["C = 6*N*D in every row: the table has no column C."]
    assert list(read_back(tmp_path).run_id[:2]) == ["run0000", "run0001"]


def test_a_window_of_tokens_per_param_is_kept_to_and_recorded(fit, tmp_path):
    D = RATIOS * SIZES
    rows = table(SIZES, D, LAW(SIZES, D))
    code, out, _ = fit(rows, "approaches=parametric", "tokens_per_param=[5,30]")
    assert code == 0
    note = "8 of 24 runs left out: tokens per parameter outside [5, 30]."
    assert f"note: {note}" in out
    told = json.loads((tmp_path / "fits" / "frontier.json").read_text())
    assert told["data"]["notes"] == [note]
    assert told["command"]["tokens_per_param"] == [5, 30]
    assert told["approaches"]["parametric"]["n_runs"] == 16
    assert told["data"]["tokens_per_param"] == [8, 20]


def curves() -> list[str]:
    """Six points along each of 25 runs of five sizes and five horizons."""
    rows = [HEADER]
    for N in (1e8, 1.4e8, 2e8, 2.8e8, 4e8):
        for ratio in (5, 10, 20, 40, 80):
            for share in np.linspace(0.25, 1, 6).tolist():
                D = share * ratio * N
                L = float(LAW(N, D)) + 0.3 * (1 - share)
                rows.append(f"n{N:.1e}-{ratio},,{6 * N * D!r},{N!r},{D!r},{L!r}")
    return rows


def test_curves_go_to_approach_1_and_rows_of_observations_to_approach_3(fit, tmp_path):
    lines = curves()
    (tmp_path / "curves.csv").write_text("\n".join(lines) + "\n")
    ends = [x for x in lines[6::6] if "-80" not in x]  # 20 runs have a row of their own
    lower = [",".join([*x.split(",")[:5], repr(float(x.split(",")[5]) - 0.01)]) for x in ends]
    code, out, _ = fit([HEADER, *lower], "curves=curves.csv")
    assert code == 0
    assert "5 runs have no row in observations" in out
    told = json.loads((tmp_path / "fits" / "frontier.json").read_text())["approaches"]
    assert told["parametric"]["n_runs"] == 25
    assert told["envelope"]["settings"]["endpoints_only"] is False
    obs = read_back(tmp_path)
    own = np.array(["-80" not in run for run in obs.run_id])
    assert obs.L[own] == pytest.approx(LAW(obs.N, obs.D)[own] - 0.01, rel=1e-12)
    assert obs.L[~own] == pytest.approx(LAW(obs.N, obs.D)[~own], rel=1e-12)


def test_curves_alone_are_enough(say, tmp_path):
    (tmp_path / "curves.csv").write_text("\n".join(curves()) + "\n")
    words = "fit curves=curves.csv out_dir=fits n_bootstrap=0 approaches=[envelope,parametric]"
    result = say(words)
    assert result.code == 0
    assert "25 runs have no row in observations" in result.out
    assert len(read_back(tmp_path)) == 25


def test_curves_of_other_runs_than_the_observations_are_refused(fit, tmp_path):
    (tmp_path / "curves.csv").write_text("\n".join(curves()) + "\n")
    one_line(fit(good(), "curves=curves.csv"), 2, "share no run_id", "r0, ...", "n1.0e+08-5, ...")


def test_runs_of_two_data_sets_in_one_table_are_doubted(fit):
    """Two laws 0.6 nats apart: the fit goes on, and says what the residuals say."""
    D = RATIOS * SIZES
    L = LAW(SIZES, D) + 0.6 * (np.arange(24) % 2)
    code, out, _ = fit(table(SIZES, D, L), "approaches=[parametric]")
    assert "share one data set" in out or code == 3


def test_losses_that_rise_with_compute_are_refused(fit):
    D = RATIOS * SIZES
    rise = (6 * SIZES * D / 1e18) ** 0.2
    code, out, _ = fit(table(SIZES, D, LAW(SIZES, D) * rise), "approaches=[parametric]")
    assert code == 3
    assert "more compute does not lower the loss" in out


def test_budgets_in_the_wrong_rows_and_swapped_columns_are_detected(fit):
    D = BUDGETS / 6 / VALLEYS
    code, _, err = fit(table(VALLEYS, D, LAW(VALLEYS, D), BUDGETS[::-1]))
    assert code == 2
    assert "each budget is in the row of its run" in err
    _, out, _ = fit(
        table(RATIOS * SIZES, SIZES, LAW(SIZES, RATIOS * SIZES)), "approaches=parametric"
    )
    assert "Check the columns N and D." in out
