"""Text to tokens to batches.

    corpus.py      documents out of files or a hub data set, one at a time
    filters.py     rules for documents that are hardly prose
    spool.py       documents on disk, in an order that only their text decides
    ngrams.py      words in a row as hashes
    near.py        which documents are nearly the same
    paragraphs.py  which paragraphs stood before
    tokenizer.py   lossless SentencePiece; measure.py says what one does to each source
    encode.py      documents -> tokens in a pool of processes
    shards.py      tokens -> files
    stages.py      documents -> validation split, tokenizer, shards, each going on where it was stopped
    unfinished.py  how far that has come
    prepare.py     the stages, the manifest, and files in their places
    ours.py        which files of a folder are ours to replace or remove
    settings.py    what was asked, to tell one folder from another
    manifest.py    the manifest's record and file; card.py the same for people
    mixture.py     which source gives which row
    tokens.py      memory-mapped shards -> batches, each a pure function of (seed, step)
    overlap.py     evaluations in the training text

Nothing here imports torch.
"""
