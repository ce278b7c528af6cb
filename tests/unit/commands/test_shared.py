"""Folders that commands read: fits of a sweep or a table, and what is no sweep; nothing is written unasked."""

from pathlib import Path

import pytest
from command_line import one_line


@pytest.fixture
def world(fits: Path, say) -> Path:
    """A sweep's folder with fits/, and runs.csv beside it."""
    sweep = fits.parent / "runs" / "demo"
    sweep.mkdir(parents=True)
    fits.rename(sweep / "fits")
    (sweep / "runs").mkdir()
    return sweep


@pytest.mark.parametrize("place", ["runs/demo", "runs/demo/fits", "runs/demo/fits/frontier.json"])
def test_fits_are_a_sweep_a_folder_or_a_file(say, world, place):
    said = say(f"predict {place} 1e21 format=json")
    assert said.code == 0
    assert said.json == say("predict fits=runs/demo/fits budget_flops=1e21 format=json").json


def test_a_sweep_without_fits_says_how_to_make_them(say, world):
    (world / "fits").rename(world / "other")
    (world / "plan.jsonl").touch()
    one_line(
        say("predict runs/demo 1e21"), 2, "holds no frontier.json", "`chinchilla fit runs/demo`"
    )
    one_line(say("predict runs/dmo 1e21"), 2, "does not exist. Did you mean runs/demo?")


@pytest.mark.parametrize("command", ["status", "logs", "retry", "cancel", "sync", "fit"])
def test_a_folder_that_is_no_sweep_is_refused_with_the_one_that_may_be_meant(say, world, command):
    (world / "plan.jsonl").touch()
    for place, parts in {
        "runs/dema": ["Did you mean runs/demo?"],
        "runs": ["runs is not the folder of a sweep: it has no plan.jsonl", "mean runs/demo?"],
        "runs/demo/fits": ["is not the folder of a sweep", "Did you mean runs/demo?"],
    }.items():
        word = f"sweep_dir={place}" if command == "fit" else place
        one_line(say(f"{command} {word}"), 2, *parts, "chinchilla sweep")


@pytest.mark.parametrize(
    "words",
    ["predict runs.csv 1e22", "design runs.csv 1e22", "diagnose runs.csv", "report runs.csv"],
)
def test_a_table_in_place_of_fits_is_to_be_fitted_first(say, fits, words):
    part = "runs.csv is a table of runs. Fit it first: chinchilla fit runs.csv out_dir=FOLDER\n"
    one_line(say(words), 2, part)


def test_a_file_that_is_no_file_of_fits_is_refused_without_names_of_classes(say, fits):
    (fits / "frontier.json").write_text("{}")
    said = say("predict fits 1e22")
    one_line(said, 2, "fits/frontier.json states no schema, so chinchilla did not write it")
    assert "FrontierFile" not in said.err


def test_a_table_that_does_not_exist_is_refused_with_the_nearest(say, fits):
    one_line(say("fit rums.csv"), 2, "rums.csv", "Did you mean runs.csv?")


def test_the_fits_of_a_table_are_printed_and_written_only_if_asked(say, fits, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    words = "approaches=parametric n_bootstrap=0 flop_convention=six_nd"
    said = say(f"fit runs.csv {words}")
    assert said.code == 0
    assert "C = " in said.out
    assert said.out.splitlines()[-1].startswith("Nothing was written. Give out_dir=FOLDER")
    record = say(f"fit runs.csv {words} format=json").json
    assert record["approaches"]["parametric"]["status"] == "fitted"
    assert sorted(tmp_path.rglob("*")) == before
    said = say(f"fit runs.csv {words} out_dir=mine")
    assert said.out.splitlines()[-1] == "For another budget: chinchilla predict mine BUDGET_FLOPS"
    assert say("predict mine 1e22").code == 0


@pytest.mark.parametrize(
    "words", ["plan", "flops 44m 20B", "predict 1e22", "predict 1e22 detail=true", "sweep --help"]
)
def test_a_command_that_prints_writes_nothing(say, tmp_path, words):
    assert say(words).code == 0
    assert list(tmp_path.iterdir()) == []
