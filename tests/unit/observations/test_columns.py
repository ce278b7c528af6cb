"""Columns are found by name, alias, mapping and unit."""

from pathlib import Path

import numpy as np
import pytest
from tables import BUDGET_RUNS, LAW, RUNS, assert_same_runs

from chinchilla import cli
from chinchilla.core.errors import InputError
from chinchilla.observations import Observations
from chinchilla.observations.columns import COLUMNS, EXAMPLES, column_of


@pytest.mark.parametrize(
    "header",
    [
        "run_name,total_flops,n_params,train_tokens,final_loss",
        "ID,train_flops,num_params,n_tokens,lm_loss",
        "run,compute_budget,parameters,training_tokens,loss",
        "run,FLOPs,Model Size,Tokens Seen,Final Loss",
        "id,training compute,#params,tokens-seen,cross-entropy",
        "Name,compute,Num. Params,throughput/total_tokens,train/loss",
        "run_id,compute (FLOPs),N (count),D (tokens),loss (nats/token)",
        "run_id,compute,non_embedding_params,dataset_tokens,loss/val",
        "run_id,C,N,D,heldout_loss",
    ],
)
def test_common_names_are_recognized(csv, header):
    assert_same_runs(csv(RUNS.replace("run_id,C,N,D,L", header)), csv(RUNS))


def test_a_qualified_name_states_a_convention(csv):
    obs = csv(RUNS.replace("N,D,L", "non_embedding_params,D,val/loss"))
    assert (obs.n_convention, obs.loss_kind) == ("non_embedding", "validation")
    obs = csv(RUNS.replace("N,D,L", "total_params,D,train_loss"), n_convention="non_embedding")
    assert (obs.n_convention, obs.loss_kind) == (
        "non_embedding",
        "train",
    )  # the caller takes precedence


def test_a_letter_takes_precedence_over_a_qualified_name(csv):
    text = RUNS.replace("L\n", "L,val_loss,params_no_embed\n").replace("3.5\n", "3.5,3.6,9e7\n")
    assert_same_runs(csv(text.replace("3.2\n", "3.2,3.3,1.9e8\n")), csv(RUNS))


@pytest.mark.parametrize(
    ("header", "clash"),
    [
        ("run_id,C,N,train_loss,val_loss", "train_loss and val_loss both give L"),
        ("run_id,C,params,n_params,L", "params and n_params both give N"),
        ("run_id,C,N,D,L,final_loss", "L and final_loss both give L"),
        ("run_id,C,params,non_embedding_params,L", "params and non_embedding_params both give N"),
    ],
)
def test_two_columns_of_one_quantity_are_refused_unless_one_is_selected(csv, header, clash):
    with pytest.raises(InputError, match=rf"columns {clash}. Rename one, or select .*columns\."):
        csv(header + "\na,1,2,3,4,5\n")
    if "val_loss" in header:
        text = RUNS.replace("L\n", "train_loss,val_loss\n").replace("3.5\n", "9,3.5\n")
        assert_same_runs(
            csv(text.replace("3.2\n", "9,3.2\n"), columns={"L": "val_loss"}), csv(RUNS)
        )


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("run_id,budget_flops,C,N,D,L,loss", "the columns L and loss both give L. Rename one"),
        (
            "run_id,budget_flops,C,params,D,L,Parameters",
            "columns params and Parameters both give N",
        ),
        ("run_id,budget_flops,C,N,D,L,Run", "the columns run_id and Run both give run_id"),
        ("run_id,budget_flops,C,N,D,L,tokens", "the columns D and tokens both give D"),
        ("run_id,budget_flops,C,N,D,loss,loss", "the column loss occurs twice"),
    ],
)
def test_an_alias_beside_the_column_itself_is_refused(csv, header, why):
    with pytest.raises(InputError, match=why):
        csv(header + "\na,,1e18,1e8,1.7e9,3.5,3.5\n")


def test_lower_case_letters_are_not_our_columns(csv):
    """l, d and n are layers and widths as often as losses and tokens."""
    text = BUDGET_RUNS.replace("D,L\n", "D,L,l,d,n\n").replace("3.5\n", "3.5,12,768,1\n")
    assert_same_runs(csv(text.replace("3.2\n", "3.2,24,1024,2\n")), csv(BUDGET_RUNS))


@pytest.mark.parametrize("missing", ["C", "N", "D", "L"])
def test_a_missing_column_is_reported_with_the_header(csv, missing):
    others = [c for c in COLUMNS if c != missing]
    with pytest.raises(InputError, match=rf"no column {missing} \(found {', '.join(others)}\)"):
        csv(",".join(others) + "\na,1,2,3,4\n")


def test_a_missing_column_is_reported_with_accepted_names(csv):
    with pytest.raises(InputError, match="no column D ") as error:
        csv(RUNS.replace(",D,", ",corpus,"))
    for name in ("D", EXAMPLES["D"], 'columns.D="NAME"'):
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("run_id,C,Size (M),D,L", {"N": "Size (M)"}),
        ("run_id,C,Size,D,L", {"N": "Size (M)"}),
        ("run_id,C,size,D,L", {"N": "Size (millions)"}),
        ("run_id,C,Params (M),D,L", {}),
        ("run_id,C,N [in millions],D,L", {}),
    ],
)
def test_a_unit_in_the_header_or_the_mapping_scales_the_column(csv, header, columns):
    text = RUNS.replace("run_id,C,N,D,L", header).replace("1e8", "100").replace("2e8", "200")
    obs = csv(text, columns=columns)
    assert_same_runs(obs, csv(RUNS))
    assert any("N is read from the column" in note and "1e+06" in note for note in obs.notes)


def test_units_of_compute_and_tokens(csv):
    text = "run_id,Compute (EFLOPs),N,Tokens (B),L\na,1.2,1e8,2,3.5\nb,4.8,2e8,4,3.2\n"
    assert_same_runs(csv(text), csv(RUNS))
    days = 1.2e18 / 8.64e19
    text = f"C (PFLOP/s-days),N,D,L\n{days!r},1e8,2e9,3.5\n{4 * days!r},2e8,4e9,3.2\n"
    assert_same_runs(csv(text), csv(RUNS))


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"N": "Width"}, r"columns.N='Width' is not a column of .*found run_id, C, N, D, L"),
        ({"P": "N"}, r"columns.P: there is no such column.*Columns are run_id"),
        ({"N": "N (zillions)"}, "'zillions' is not a unit of N"),
        ({"N": "L", "D": "L"}, "'L' is mapped to two columns"),
    ],
)
def test_an_invalid_mapping_is_refused(csv, columns, why):
    with pytest.raises(InputError, match=why):
        csv(RUNS, columns=columns)


def test_the_command_line_maps_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    N = np.repeat(np.geomspace(1e8, 1e10, 8), 3)
    D = np.tile([8.0, 20.0, 50.0], 8) * N
    rows = zip((N / 1e6).tolist(), D.tolist(), LAW(N, D).tolist(), strict=True)
    text = "Model Size (M),D,L\n" + "".join(f"{n!r},{d!r},{x!r}\n" for n, d, x in rows)
    Path("runs.csv").write_text(text)
    words = [
        "observations=runs.csv",
        "flop_convention=six_nd",
        "approaches=parametric",
        "n_bootstrap=0",
    ]
    for k, word in enumerate(
        ("columns.N=Model Size (M)", "columns={N: 'Model Size (M)'}", "columns.N='Model Size (M)'")
    ):
        assert cli.main(["fit", *words, f"out_dir=fits{k}", word]) == 0, word
        obs = Observations.from_csv(Path(f"fits{k}/observations.csv"))
        np.testing.assert_allclose(obs.N, N, rtol=1e-15)
    capsys.readouterr()
    assert cli.main(["fit", *words, "out_dir=x", "columns.N=Size"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_frame_is_read_with_a_mapping():
    frame = {"Model Size (M)": [100, 200], "D": ["2B", "4B"], "L": [3.5, 3.2]}
    obs = Observations.from_frame(frame, columns={"N": "Model Size (M)"})
    assert (obs.N.tolist(), obs.D.tolist()) == ([1e8, 2e8], [2e9, 4e9])


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("n_non_embedding", "N"), ("param_count", "N"), ("run_uid", "run_id"), ("crossentropyloss", "L"),
        ("cross_entropy", "L"), ("throughput/total_tokens", "D"),
        ("param", ""), ("entropy", ""), ("throughput_tokens", ""),
    ],
)  # fmt: skip
def test_names_of_other_tools_are_found_and_single_words_of_other_quantities_are_not(name, column):
    assert column_of(name)[0] == column
