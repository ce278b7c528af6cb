"""Parametrizations: scale factors with which a learning rate transfers between model sizes.

    standard   initialization with 1/sqrt(n_in), one learning rate
    mup        muP for Adam (Yang et al. 2022, arXiv 2203.03466): transfers across width
    completep  CompleteP, alpha = 1 (arXiv 2505.01618): transfers across width and depth

The factors are relative to a base shape, whose peak learning rate the recipe gives:
m_d = d_model / base_width and m_L = n_layers / base_layers. They are those of the authors' code,
EleutherAI/nanoGPT-mup, which also ties embedding and output. docs/recipes.md has the table.
"""

import math
from dataclasses import dataclass

from chinchilla.core.shapes import ModelShape

PARAMETRIZATIONS = ("standard", "mup", "completep")


@dataclass(frozen=True)
class Multipliers:
    """Scale factors of one model shape. Hidden matrices are all but the tied embedding."""

    embedding_std: float  # initial standard deviation of the tied embedding
    # Standard deviation of matrices that write to the residual stream: 1/sqrt(n_in) / divisor.
    branch_divisor: float
    attention: float  # factor of q.k
    residual: float = 1.0  # factor of each branch that is added to the residual stream
    output: float = 1.0  # factor of the logits, without the output bias
    hidden_lr: float = 1.0  # factor of the learning rate of hidden matrices
    hidden_decay: float = 1.0  # factor of the weight decay of hidden matrices
    eps: float = 1.0  # factor of Adam's epsilon


def multipliers(
    shape: ModelShape, kind: str = "standard", base_width: int = 0, base_layers: int = 0
) -> Multipliers:
    """The scale factors of a model shape.

    Args:
        shape: the model.
        kind: one of PARAMETRIZATIONS.
        base_width: d_model of the base shape; for mup and completep.
        base_layers: n_layers of the base shape; for completep.
    """
    gpt2 = (2 * shape.n_layers) ** 0.5
    if kind == "standard":
        return Multipliers(shape.d_model**-0.5, gpt2, 1 / math.sqrt(shape.kv_size))
    m_d = shape.d_model / base_width
    width = {"attention": 1 / shape.kv_size, "output": 1 / m_d, "hidden_lr": 1 / m_d}
    if kind == "mup":
        return Multipliers(base_width**-0.5, gpt2, **width)
    m_L = shape.n_layers / base_layers
    return Multipliers(
        base_width**-0.5, 1.0, **width, residual=1 / m_L, hidden_decay=m_d, eps=1 / (m_d * m_L)
    )
