"""A corpus of any size out of a small one, to measure what preparing it takes.

    python scripts/grow_corpus.py SMALL.jsonl LARGE.jsonl --gb 10

Every new document is as long as a real one and made of sentences of real ones, drawn at random, each with
its place in the series at the end of its first line, so that no two are equal. Its words are those of the
real text, so tokenising costs what it costs there; near duplicates and overlaps mean nothing in it.
"""

import argparse
import json
import random
import re
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("small", type=Path, help="JSON lines with a field text")
    parser.add_argument("large", type=Path)
    parser.add_argument("--gb", type=float, required=True, help="of text, 1e9 bytes each")
    parser.add_argument("--sentences-mb", type=float, default=50, help="of real text to draw from")
    told = parser.parse_args()
    sentences: list[str] = []
    lengths: list[int] = []  # of documents, in sentences
    size = 0
    with open(told.small, encoding="utf-8") as file:
        for line in file:
            found = re.split(r"(?<=[.!?\n]) ", json.loads(line)["text"])
            sentences += found
            lengths.append(len(found))
            size += len(line)
            if size > told.sentences_mb * 1e6:
                break
    rng, written, number = random.Random(0), 0, 0
    with open(told.large, "w", encoding="utf-8") as out:
        while written < told.gb * 1e9:
            drawn = rng.choices(sentences, k=rng.choice(lengths))
            text = f"{number}: " + " ".join(drawn)
            out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            written += len(text.encode())
            number += 1
    print(f"{number:,} documents, {written / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
