"""Functions that the source must not call, so that no input file and no setting can run code.

tests/integration/test_poison.py tests the readers with payloads.
"""

import ast
from pathlib import Path

import pytest

import chinchilla

MODULES = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
CALLS = {
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "torch.load", "torch.hub.load", "torch.jit.load", "pandas.read_pickle",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load",
    "hydra.utils.instantiate", "hydra.utils.call", "hydra.utils.get_class", "hydra.utils.get_method",
    "hydra.utils.get_object", "runpy.run_path", "runpy.run_module", "shutil.unpack_archive",
}  # fmt: skip


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """The full name of an expression, such as numpy.load for np.load; "" for other expressions."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value, names)):
        return f"{owner}.{node.attr}"
    return ""


def unsafe_calls(source: str) -> list[str]:
    """Calls and imports that could run code from a file or a setting: line and reason."""
    tree, names, found = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
            found += [(node, a.name) for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            if (node.module or "").split(".")[0] in MODULES:
                found.append((node, node.module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and dotted(node, names) in CALLS:
            found.append((node, dotted(node, names)))  # called, or passed as a function
        if not isinstance(node, ast.Call):
            continue
        given = {k.arg: k.value for k in node.keywords}
        if dotted(node.func, names) == "numpy.load" and not is_false(given.get("allow_pickle")):
            found.append((node, "numpy.load without allow_pickle=False"))
        for key in ("shell", "trust_remote_code", "allow_pickle"):
            if key in given and not is_false(given[key]):
                found.append((node, key))
        if "weights_only" in given:
            found.append((node, "weights_only"))
    return [f"line {node.lineno}: {why}" for node, why in found]


def is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


SOURCES = sorted(Path(chinchilla.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_the_source_has_no_unsafe_calls(path: Path):
    assert unsafe_calls(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as cp",
        "import joblib.numpy_pickle",
        "import torch\ntorch.load('f', weights_only=True)",
        "from torch import load\nload('f')",
        "import torch as t\nread = t.load",
        "import numpy as np\nnp.load('f')",
        "import numpy\nnumpy.load('f', allow_pickle=True)",
        "from numpy import load as read\nread('f', allow_pickle=flag)",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml\nyaml.unsafe_load(text)",
        "eval('1')",
        "exec(text)",
        "map(eval, lines)",
        "__import__(name)",
        "import os\nos.system('ls')",
        "from os import system as run\nrun('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess\nsubprocess.Popen(words, shell=flag)",
        "load_dataset(name, trust_remote_code=True)",
        "from hydra.utils import instantiate\ninstantiate(config)",
        "import hydra\nhydra.utils.call(config)",
        "from hydra import utils\nutils.instantiate(config)",
        "import runpy\nrunpy.run_path(config.file)",
    ],
)
def test_unsafe_calls_are_found(source: str):
    assert unsafe_calls(source)


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nnp.load('f', allow_pickle=False)",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "from safetensors.torch import load_file\nload_file('f')",
        "model.eval()",
        "import re\nre.compile('a')",
        "import json\njson.load(f)",
    ],
)
def test_safe_calls_are_accepted(source: str):
    assert unsafe_calls(source) == []
