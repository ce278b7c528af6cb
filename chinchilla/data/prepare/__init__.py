"""Preparation of a token folder: shuffle, deduplicate, split, tokenize and write shards."""
