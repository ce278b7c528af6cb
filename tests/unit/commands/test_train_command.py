"""Exit code of `chinchilla train`."""

import json

from data_corpora import command, documents, write_jsonl
from sweep_fakes import make_result

from chinchilla.cli import main
from chinchilla.data.prepare.pipeline import prepare
from chinchilla.sweep import launch as module
from chinchilla.sweep.run_files import run_dir_of


def test_a_diverged_run_has_exit_code_1(tmp_path, monkeypatch, capsys):
    prepare(command(tmp_path / "d", write_jsonl(tmp_path / "a.jsonl", documents())))

    def launched(_, specs, out_dir, *args, **kwargs):
        folder = run_dir_of(out_dir, specs[0])
        folder.mkdir(parents=True)
        make_result(specs[0], status="diverged", reason="NaN", final_loss=None).save(folder)
        return 0

    monkeypatch.setattr(module, "launch", launched)
    line = f"train data_dir={tmp_path}/d out_dir={tmp_path}/r tokens=2k recipe=demo runtime=demo epochs=9"
    model = (
        "model.d_model=32 model.n_layers=1 model.kv_size=16 model.seq_len=32 recipe.batch_tokens=64"
    )
    assert main([*line.split(), *model.split(), "format=json"]) == 1
    assert json.loads(capsys.readouterr().out)["status"] == "diverged"
