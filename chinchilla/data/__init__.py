"""Text to tokens to batches.

    corpus.py     documents out of files or a hub data set, one at a time
    spool.py      documents on disk, in an order that only their text decides
    tokenizer.py  lossless SentencePiece
    encode.py     documents -> tokens in a pool of processes
    shards.py     tokens -> files
    prepare.py    documents -> held-out split, tokenizer, token shards, manifest
    manifest.py   the manifest's record and file
    tokens.py     memory-mapped shards -> batches, each a pure function of (seed, step)

Nothing here imports torch.
"""
