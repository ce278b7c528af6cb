"""Create a corpus of any size from a small one, to measure the cost of preparing it.

    python scripts/corpora/grow_corpus.py SMALL.jsonl LARGE.jsonl --gb 10

Every new document consists of random sentences of real documents, as many as a real document has. It begins with its
number, so no two documents are equal. The words, and therefore the cost of tokenizing, are those of the real text.
Overlaps with evaluations are not meaningful in such a corpus.
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
    parser.add_argument(
        "--gb", type=float, required=True, help="size in units of 1e9 bytes of text"
    )
    parser.add_argument(
        "--sentences-mb", type=float, default=50, help="MB of real text to draw from"
    )
    arguments = parser.parse_args()
    sentences: list[str] = []
    lengths: list[int] = []  # sentences per document
    size = 0
    with open(arguments.small, encoding="utf-8") as file:
        for line in file:
            parts = re.split(r"(?<=[.!?\n]) ", json.loads(line)["text"])
            sentences += parts
            lengths.append(len(parts))
            size += len(line)
            if size > arguments.sentences_mb * 1e6:
                break
    rng, written, number = random.Random(0), 0, 0
    with open(arguments.large, "w", encoding="utf-8") as out:
        while written < arguments.gb * 1e9:
            drawn = rng.choices(sentences, k=rng.choice(lengths))
            text = f"{number}: " + " ".join(drawn)
            out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            written += len(text.encode())
            number += 1
    print(f"{number:,} documents, {written / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
