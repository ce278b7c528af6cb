"""Time, CPU and peak memory of one `chinchilla data`, and the data card that comes of it.

    python scripts/bench_prepare.py docs/results/corpus_debian_compact corpus=debian_compact \\
        tokenizer.vocab_size=8192

Prepares into a new folder, which goes again. Writes NAME.json (what it took, and the card) and NAME.md (the
card). Peak memory is that of the largest process; workers have their own beside it.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    name, words = Path(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryDirectory(dir=".") as folder:
        command = [sys.executable, "-m", "chinchilla.cli", "data", *words, f"data_dir={folder}"]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        card = json.loads((Path(folder) / "data_card.json").read_text())
        text = (Path(folder) / "data_card.md").read_text()
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    took = {
        "command": " ".join(["chinchilla data", *words]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": git.stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg(),
        "wall_seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_rss_mb": round(used.ru_maxrss / 1024),  # of the largest process
        "tokens": sum(split["tokens"] for split in card["totals"].values()),
    }
    name.with_suffix(".json").write_text(json.dumps({**took, "card": card}, indent=1) + "\n")
    name.with_suffix(".md").write_text(text)
    print(json.dumps(took, indent=1))


if __name__ == "__main__":
    main()
