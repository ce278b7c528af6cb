"""Random changes (hypothesis) of the files that test_malformed.py damages in chosen ways."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_malformed import ATTEMPT, CLAIM, RESULT, update_data_id
from test_poison import SPEC, make_data

from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import InputError, one_line
from chinchilla.core.files.sealed import KEY, sealed
from chinchilla.data.dataset import TokenData
from chinchilla.observations.table import Observations
from chinchilla.plan.plan_file import load_plan, save_plan
from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.sweep.claims import claim_status, latest_claim
from chinchilla.sweep.failures import read_attempts
from chinchilla.sweep.run_files import load_runtime, read_progress
from chinchilla.sweep.view.status import sweep_status

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**400, -(10**30), "", "NaN", 1e308, -0.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
QUICK = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def mutate(draw: st.DrawFn, value: Any) -> Any:
    """A copy of `value` with one item changed, added or removed."""
    value = copy.deepcopy(value)
    inner = value
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not keys:
            return draw(ANY_JSON)
        key = draw(st.sampled_from(keys))
        if isinstance(inner[key], dict | list) and draw(st.booleans()):
            inner = inner[key]
            continue
        what = draw(st.sampled_from(["change", "drop", "add"]))
        if what == "change" or isinstance(inner, list):
            inner[key] = draw(ANY_JSON)
        elif what == "drop":
            del inner[key]
        else:
            inner[draw(st.text(max_size=6))] = draw(ANY_JSON)
        return value


@st.composite
def corrupted_json(draw: st.DrawFn, value: Any) -> bytes:
    """A JSON file corrupted by a changed item, a truncation or a flipped bit."""
    value = mutate(draw, value)
    if (
        isinstance(value, dict) and KEY in value and draw(st.booleans())
    ):  # behind a hash that agrees
        value = sealed({name: x for name, x in value.items() if name != KEY})
    text = json.dumps(value).encode()
    if draw(st.integers(0, 4)) == 0:
        text = text[: draw(st.integers(0, len(text)))]
    if text and draw(st.integers(0, 4)) == 0:
        i = draw(st.integers(0, len(text) - 1))
        text = text[:i] + bytes([text[i] ^ 1 << draw(st.integers(0, 7))]) + text[i + 1 :]
    return text


def assert_reads_or_refuses(read: Callable[[], Any], *names: str) -> None:
    """`read` succeeds or raises InputError with one of `names` in its message."""
    message = ""
    try:
        read()
    except InputError as error:
        message = one_line(error)
    assert not message or any(name in message for name in names), message
    assert "\n" not in message


@QUICK
@given(data=corrupted_json(SPEC.to_record()))
def test_mutated_plans(tmp_path: Path, data: bytes):
    (tmp_path / "plan.jsonl").write_bytes(data)

    def read() -> None:
        for spec in load_plan(tmp_path / "plan.jsonl"):
            assert spec.C > 0
            assert spec.run_id

    assert_reads_or_refuses(read, "plan.jsonl")


@QUICK
@given(data=corrupted_json(RESULT.to_record()))
def test_mutated_results(tmp_path: Path, data: bytes):
    (tmp_path / "result.json").write_bytes(data)

    def read() -> None:
        result = RunResult.read(tmp_path / "result.json")
        for loss in ("train", "validation"):
            if result.status == "finished":
                Observations.from_results([result], loss)

    assert_reads_or_refuses(
        read, "result.json", SPEC.run_id.partition("-")[0], "runs were evaluated", "loss="
    )


@QUICK
@given(data=corrupted_json(sealed({"schema": 3, **dataclasses.asdict(RuntimeConfig())})))
def test_mutated_runtime_settings(tmp_path: Path, data: bytes):
    (tmp_path / "runtime.json").write_bytes(data)
    assert_reads_or_refuses(lambda: load_runtime(tmp_path), "runtime.json")


@QUICK
@given(
    claim=corrupted_json(CLAIM),
    progress=corrupted_json({"step": 3, "loss": 2.0}),
    attempt=corrupted_json(ATTEMPT),
)
def test_mutated_files_of_workers(tmp_path: Path, claim: bytes, progress: bytes, attempt: bytes):
    run_dir = tmp_path / "runs" / SPEC.run_id
    (run_dir / "attempts").mkdir(parents=True, exist_ok=True)
    save_plan([SPEC], tmp_path / "plan.jsonl")
    (run_dir / "claim-1.json").write_bytes(claim)
    (run_dir / "progress.json").write_bytes(progress)
    (run_dir / "attempts" / "1.json").write_bytes(attempt)
    assert latest_claim(run_dir) is not None
    assert claim_status(run_dir, 0.0).state in ("free", "held", "silent", "dead")
    assert isinstance(read_progress(run_dir), dict)
    assert len(read_attempts(run_dir)) == 1
    assert sweep_status(tmp_path).counts["finished"] == 0


@QUICK
@given(data=st.data())
def test_mutated_manifests(tmp_path: Path, data: st.DataObject):
    path = tmp_path / "data" / "manifest.json"
    if not path.parent.exists():
        make_data(path.parent)
        (tmp_path / "whole.json").write_text(path.read_text())
    path.write_bytes(data.draw(corrupted_json(json.loads((tmp_path / "whole.json").read_text()))))
    if data.draw(st.booleans()):
        try:
            update_data_id(path)
        except Exception:
            return  # no data_id can be computed

    def read() -> None:
        TokenData.open(tmp_path / "data").epoch_tokens(16)

    assert_reads_or_refuses(read, str(tmp_path))


@QUICK
@given(
    data=st.binary(max_size=200)
    | st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass"))
)
def test_random_tables(tmp_path: Path, data: bytes):
    path = tmp_path / "runs.csv"
    path.write_bytes(b"C,N,D,L\n" + data)
    assert_reads_or_refuses(lambda: Observations.from_csv(path), "runs.csv")


def test_a_valid_spec_is_decoded():
    """The tests above would also pass if every file were refused."""
    assert RunSpec.from_dict(json.loads(json.dumps(SPEC.to_dict())), "here") == SPEC
