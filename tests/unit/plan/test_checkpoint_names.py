"""Names of checkpoints."""

import pytest

from chinchilla.plan.checkpoint_names import checkpoint_name, checkpoint_step


@pytest.mark.parametrize("step", [0, 7, 12_345_678, 123_456_789_012])
def test_a_name_gives_the_step_it_was_made_of(step: int):
    assert checkpoint_step(checkpoint_name(step)) == step


@pytest.mark.parametrize(
    "name", ["step-7", "damaged-step-00000007", "step-00000007.tmp", "step-" + 19 * "9", ""]
)
def test_other_names_are_no_checkpoints(name: str):
    assert checkpoint_step(name) is None
