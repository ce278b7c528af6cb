"""Commands that people copy from what a command has said."""

import re
import shlex
from pathlib import Path


def given(key: str, value: str | Path) -> str:
    """`key=value` as a shell takes it and as `cli` reads it, whatever a folder is called."""
    text = str(value)
    if text != text.strip() or text[:1] in tuple("'\"$"):
        # cli quotes odd values by itself, but not these; Hydra's quotes keep all that is in them.
        text = "'" + re.sub(r"(\\*)'", r"\1\1\\'", text) + "'"
    return shlex.quote(f"{key}={text}") if re.search(r"[^\w./:=@%+,-]", text) else f"{key}={text}"
