"""Wall time, CPU time and peak memory of one `chinchilla data` command, its manifest and its data card.

    python scripts/bench/bench_prepare.py docs/results/corpus_debian_compact corpus=debian_compact \\
        tokenizer.vocab_size=8192

Prepares into a temporary folder below the working directory. Writes NAME.json (the measurements, and the
counts of the manifest) and NAME.md (the data card). Peak memory is the sum over all processes of the
proportional set size (PSS), sampled twice per second. Linux only.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_tools import Arguments, children_cpu_seconds, out_file, provenance, save_json


def tree(pid: int) -> list[int]:
    """Process IDs of a process and all its descendants."""
    pids = [pid]
    for each in pids:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{each}/task").iterdir():
                pids += map(int, (thread / "children").read_text().split())
    return pids


def pss(pid: int) -> int:
    """Proportional set size of a process in bytes."""
    with contextlib.suppress(OSError):  # the process may have ended
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def main() -> None:
    parser = Arguments(__doc__)
    parser.add_argument(
        "name", metavar="NAME", type=out_file, help="path of both files, without suffix"
    )
    parser.add_argument(
        "words", metavar="WORD", nargs=argparse.REMAINDER, help="settings of chinchilla data"
    )
    arguments = parser.parse_args()
    name, words = arguments.name, arguments.words
    if not words:
        parser.error("no settings. Give settings of chinchilla data, such as corpus=sotu.")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        command = [sys.executable, "-m", "chinchilla.cli", "data", *words, f"data_dir={folder}"]
        began, cpu_before = time.perf_counter(), children_cpu_seconds()
        process, peak = subprocess.Popen(command), 0
        while process.poll() is None:
            peak = max(peak, sum(map(pss, tree(process.pid))))
            time.sleep(0.5)
        seconds = time.perf_counter() - began
        if process.returncode:
            sys.exit(process.returncode)
        if not (Path(folder) / "data_card.md").exists():
            parser.error(
                f"chinchilla data {' '.join(words)} writes no data card. Give other settings."
            )
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        manifest = json.loads((Path(folder) / "manifest.json").read_text())
        text = (Path(folder) / "data_card.md").read_text()
    sources = manifest["sources"]
    for source in sources:
        for split in source["splits"].values():
            del split["shards"]
    measured = {
        "command": " ".join(["chinchilla data", *words]),
        **provenance(),
        "load_average": os.getloadavg(),
        "wall_seconds": round(seconds, 1),
        "cpu_seconds": round(children_cpu_seconds() - cpu_before, 1),
        "peak_pss_mb": round(peak / 1e6),  # sum over all processes
        "peak_rss_mb_largest_process": round(largest * 1024 / 1e6),
        "text_mb": round(sum(source["bytes"] for source in sources) / 1e6),
        "tokens": sum(split["tokens"] for s in sources for split in s["splits"].values()),
    }
    counts = {key: manifest[key] for key in ("data_id", "corpus", "tokenizer", "sources")}
    save_json(name.with_suffix(".json"), {**measured, **counts})
    name.with_suffix(".md").write_text(text)
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
