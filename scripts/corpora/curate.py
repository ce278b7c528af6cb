"""Filter and deduplicate English web text with datatrove, before `chinchilla data`.

    pip install datatrove orjson regex spacy tokenizers
    python scripts/corpora/curate.py corpora/raw corpora/curated
    chinchilla data corpus=jsonl corpus.paths=corpora/curated data_dir=data/curated

Reads the JSON lines of a folder (*.jsonl, *.jsonl.gz) with the text in the field `text`. Leaves out documents
that break the repetition or quality rules of Rae et al. (2021), appendix A.1, and near duplicates by MinHash
(5-grams of words, 14 bands of 8 hashes, as for FineWeb). Other languages, code and tables break the rules too.
Writes the rest as *.jsonl.gz. The folder CURATED.work next to it keeps the results of each step; a call that was
interrupted continues from there. On a cluster, replace LocalPipelineExecutor by datatrove's SlurmPipelineExecutor.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

PACKAGES = ("datatrove", "orjson", "regex", "spacy", "tokenizers")


def curate(raw: Path, curated: Path, n_tasks: int) -> None:
    """Run the steps; every step has one task per group of files, or per band of MinHash."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig

    work = curated.with_name(f"{curated.name}.work")
    minhash = MinhashConfig(hash_config=HashConfig(hash_fc="sha1"))
    kept, signatures, bands, repeated = (
        str(work / name) for name in ("kept", "signatures", "bands", "repeated")
    )
    steps = {
        "filter": (
            [
                JsonlReader(str(raw), text_key="text", glob_pattern="*.jsonl*"),
                GopherRepetitionFilter(),
                GopherQualityFilter(),
                JsonlWriter(kept),
            ],
            n_tasks,
        ),
        "signatures": ([JsonlReader(kept), MinhashDedupSignature(signatures, minhash)], n_tasks),
        "bands": ([MinhashDedupBuckets(signatures, bands, config=minhash)], minhash.num_buckets),
        "groups": ([MinhashDedupCluster(bands, repeated, config=minhash)], 1),
        "write": (
            [JsonlReader(kept), MinhashDedupFilter(repeated), JsonlWriter(str(curated))],
            n_tasks,  # as for the signatures: a task removes documents of its own files
        ),
    }
    for name, (pipeline, tasks) in steps.items():
        logs = str(work / "logs" / name)
        LocalPipelineExecutor(pipeline, tasks, workers=n_tasks, logging_dir=logs).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("raw", type=Path, help="folder with JSON lines")
    parser.add_argument("curated", type=Path, help="folder to write to")
    parser.add_argument("--tasks", type=int, default=4, help="number of processes (4)")
    arguments = parser.parse_args()
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        print(
            f"curate: missing packages: {', '.join(missing)}. Install them: pip install {' '.join(PACKAGES)}",
            file=sys.stderr,
        )
        sys.exit(2)
    curate(arguments.raw, arguments.curated, arguments.tasks)


if __name__ == "__main__":
    main()
