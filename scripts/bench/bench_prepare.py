"""Time, CPU and peak memory of one `chinchilla data` command, and its data card.

    python scripts/bench/bench_prepare.py docs/results/corpus_debian_compact corpus=debian_compact \\
        tokenizer.vocab_size=8192

Prepares into a temporary folder below the working directory. Writes NAME.json (the measurements and the
card) and NAME.md (the card). Peak memory is the sum over all processes of the proportional set size (PSS),
sampled twice per second. Linux only.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_tools import Arguments, out_file


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def pss(pid: int) -> int:
    """Proportional set size of a process in bytes."""
    with contextlib.suppress(OSError):  # the process has ended
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def main() -> None:
    parser = Arguments(__doc__)
    parser.add_argument("name", metavar="NAME", type=out_file, help="of both files, without suffix")
    parser.add_argument(
        "words", metavar="WORD", nargs=argparse.REMAINDER, help="settings of chinchilla data"
    )
    arguments = parser.parse_args()
    name, words = arguments.name, arguments.words
    if not words:
        parser.error("nothing to prepare. Give settings of chinchilla data, such as corpus=sotu.")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        command = [sys.executable, "-m", "chinchilla.cli", "data", *words, f"data_dir={folder}"]
        began = time.perf_counter()
        process, peak = subprocess.Popen(command), 0
        while process.poll() is None:
            peak = max(peak, sum(map(pss, tree(process.pid))))
            time.sleep(0.5)
        seconds = time.perf_counter() - began
        if process.returncode:
            sys.exit(process.returncode)
        if not (Path(folder) / "data_card.json").exists():
            parser.error(
                f"chinchilla data {' '.join(words)} writes no data card. Give other settings."
            )
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        card = json.loads((Path(folder) / "data_card.json").read_text())
        text = (Path(folder) / "data_card.md").read_text()
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    measured = {
        "command": " ".join(["chinchilla data", *words]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": git.stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg(),
        "wall_seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_pss_mb": round(peak / 1e6),  # of all processes together
        "peak_rss_mb_largest_process": round(used.ru_maxrss * 1024 / 1e6),
        "text_mb": round(sum(source["bytes_in"] for source in card["sources"]) / 1e6),
        "tokens": sum(split["tokens"] for split in card["totals"].values()),
    }
    name.with_suffix(".json").write_text(json.dumps({**measured, "card": card}, indent=1) + "\n")
    name.with_suffix(".md").write_text(text)
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
