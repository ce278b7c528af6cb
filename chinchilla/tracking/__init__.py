"""Metrics of a training run: metrics.jsonl, and its mirrors in Weights & Biases or TensorBoard."""
