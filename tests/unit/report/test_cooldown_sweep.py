"""A sweep whose runs have a cool-down is fitted by their ends: no loss before them is a point of a law."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chinchilla.cli import main
from chinchilla.plan.records import save_plan


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["cosine", "cooldown"])
def test_the_envelope_reads_curves_of_cosines_and_only_final_losses_of_cooldowns(
    make_world, tmp_path: Path, schedule: str, capsys
):
    world = make_world(n_bootstrap=0)
    specs = []
    for result in world.results:
        more = {"schedule": "cooldown", "cooldown_steps": 80} if schedule == "cooldown" else {}
        spec = replace(result.spec, **more)
        (run_dir := tmp_path / "runs" / spec.run_id).mkdir(parents=True)
        replace(result, spec=spec).save(run_dir)
        world.curves[result.spec.run_id].save(run_dir)
        specs.append(spec)
    save_plan(specs, tmp_path / "plan.jsonl")
    assert main(["fit", f"sweep_dir={tmp_path}", "n_bootstrap=0", "format=json"]) == 0
    found = json.loads(capsys.readouterr().out)["approaches"]
    assert found["envelope"]["settings"]["endpoints_only"] is (schedule == "cooldown")
    assert main(["report", f"sweep_dir={tmp_path}"]) == 0
