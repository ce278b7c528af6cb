"""scripts/corpora/curate.py: a missing package is one line."""

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts" / "corpora"))
import curate


def test_missing_packages_are_named_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["curate", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        curate.main()
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "pip install datatrove orjson regex spacy tokenizers" in message
    assert not (tmp_path / "out").exists()
