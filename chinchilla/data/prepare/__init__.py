"""Preparing a token folder: documents are shuffled, split, tokenized and written in shards."""
