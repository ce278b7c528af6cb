"""YAML files of users that are no files, too large, or expand to many values."""

from pathlib import Path

import pytest
from special_files import KINDS, at_most, put_special

from chinchilla.config.command_line.compose import compose
from chinchilla.core.errors import InputError


def aliases(levels: int) -> str:
    lines = ["x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (aliases(9), "over 10,000 values with its aliases expanded"),
        ("a: &a\n  b: *a\n", "over 10,000 values"),
        ("[" + "1," * 10_000 + "1]", "over 10,000 values"),
        ("a" * 200_000, "0.2 MB; files of its kind have at most 0.1 MB"),
        ("[" * 2_000, "mine.yaml: its values are nested too deeply"),
        ("budgets: [1\0]", "mine.yaml is not YAML: unacceptable character"),
        ("budgets: !!python/object:os.system x", "mine.yaml is not YAML: could not determine"),
        ("seq_len: " + "9" * 6_000, r"mine.yaml: 9{100} \.\.\. is a whole number of 6,000 char"),
        ("budgets: [0x" + "f" * 5_000 + "]", "is a whole number of 5,002 characters"),
        ("seq_len: " + "1:" * 300 + "1", "is a whole number of 601 characters"),
        ("? " + "9" * 6_000 + "\n: 1", "is a whole number of 6,000 characters"),
    ],
    ids=[
        *("aliases", "contains itself", "many values", "large", "nested", "NUL", "object"),
        *("long number", "hexadecimal", "sexagesimal", "key"),
    ],
)
@pytest.mark.parametrize("form", ["path", "folder"])
def test_a_file_that_expands_is_refused_before_hydra_reads_it(tmp_path, text, reason, form):
    path = tmp_path / "grid" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(text)
    words = [f"grid={path}"] if form == "path" else ["grid=mine", "--config-dir", str(tmp_path)]
    with pytest.raises(InputError, match=reason):
        compose("plan", words)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_file_is_named(tmp_path, kind):
    path = tmp_path / "grid" / "mine.yaml"
    path.parent.mkdir()
    put_special(kind, path)
    with at_most(5), pytest.raises(InputError, match=r"mine.yaml cannot be read \("):
        compose("plan", ["grid=mine", "--config-dir", str(tmp_path)])


def test_a_file_with_some_aliases_is_read(tmp_path):
    path = tmp_path / "grid" / "mine.yaml"
    path.parent.mkdir()
    shape = Path(path.parent / "other.yaml")
    shape.write_text("models: &m [n1m, n2m]\nbudgets: [1.0e15]\n")
    path.write_text("defaults: [other]\nbudgets: [1.0e15, 3.0e15]\n")
    assert compose("plan", [f"grid={path}"]).grid.budgets == [1.0e15, 3.0e15]
    assert compose("plan", [f"grid={shape}"]).grid.models == ["n1m", "n2m"]
