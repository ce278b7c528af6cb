"""The decoder-only transformer that is trained, with the paper's shapes."""

from chinchilla.model.transformer import Transformer

__all__ = ["Transformer"]
