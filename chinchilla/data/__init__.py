"""From text to batches. The path of a document, in reading order:

    corpus_files.py             find the files of a corpus
    corpus.py                   read documents from files or a hub data set, one at a time
    prepare/pipeline.py         `chinchilla data`: run the stages and move the result into place
    prepare/stages.py           the stages: read, train the tokenizer, encode
    prepare/shuffle_dedup.py    shuffle and deduplicate documents on disk
    tokenizer.py                train and apply a SentencePiece tokenizer; its statistics
    prepare/encode.py           encode documents in a pool of processes, with prepare/word_cache.py
    shards.py                   the file format of tokens
    manifest.py                 the contents of a token folder, and data_id
    data_card.py                the same as a report
    prepare/fingerprint.py      settings and source files that determine the tokens
    mixture.py                  which source each row of the training stream comes from
    dataset.py                  shards -> batches, each a pure function of (seed, step)
    overlap.py                  n-gram overlap of evaluations with the training text

Nothing here imports torch.
"""
