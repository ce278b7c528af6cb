"""Text to tokens to batches.

    corpus.py      documents out of files or a hub data set, one at a time
    filters.py     rules for documents that are hardly prose
    spool.py       documents on disk, in an order that only their text decides
    paragraphs.py  which paragraphs stood before
    tokenizer.py   lossless SentencePiece; measure.py says what one does to each source
    encode.py      documents -> tokens in a pool of processes
    shards.py      tokens -> files
    prepare.py     documents -> held-out split, tokenizer, token shards, manifest
    settings.py    what was asked, to tell one folder from another
    manifest.py    the manifest's record and file; card.py the same for people
    mixture.py     which source gives which row
    tokens.py      memory-mapped shards -> batches, each a pure function of (seed, step)
    overlap.py     evaluations in the training text
    pack.py        token folders under xz, and back

Nothing here imports torch.
"""
