"""The model that is trained: a decoder-only transformer in the paper's proportions."""

from chinchilla.model.transformer import Transformer

__all__ = ["Transformer"]
