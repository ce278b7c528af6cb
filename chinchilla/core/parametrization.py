"""Factors by which a learning rate tuned on a small model holds for a larger one. Floor 0.

    standard   matrices at 1/sqrt(n_in), one rate for all of them
    mup        muP for Adam (Yang et al. 2022, arXiv 2203.03466): width transfers
    completep  CompleteP, alpha = 1 (arXiv 2505.01618): width and depth transfer

Both are stated against a base shape, whose peak rate the recipe gives: m_d = d_model / base_width and
m_L = n_layers / base_layers. The rules are those of the authors' code, EleutherAI/nanoGPT-mup, which
like this model ties embedding and output. Everything follows from the shape, so that checkpoints and
shards know nothing of it. docs/recipes.md has the table.
"""

import math
from dataclasses import dataclass

from chinchilla.core.shapes import ModelShape

PARAMETRIZATIONS = ("standard", "mup", "completep")


@dataclass(frozen=True)
class Multipliers:
    """What a parametrisation makes of one shape. Hidden matrices are all but the tied embedding."""

    embedding_std: float  # initial standard deviation of the tied embedding
    branch_divisor: (
        float  # ... of matrices that write into the residual stream: 1/sqrt(n_in) over it
    )
    attention: float  # scale of q.k
    residual: float = 1.0  # each branch times this is added to the residual stream
    output: float = 1.0  # logits, but for the output bias
    hidden_lr: float = 1.0  # learning rate of hidden matrices over the run's
    hidden_decay: float = 1.0  # AdamW's decay of hidden matrices over the run's
    eps: float = 1.0  # Adam's epsilon over the run's


def multipliers(
    shape: ModelShape, kind: str = "standard", base_width: int = 0, base_layers: int = 0
) -> Multipliers:
    """The factors of a shape.

    Args:
        shape: the model.
        kind: one of PARAMETRIZATIONS.
        base_width: d_model that the rate is stated for; not of a standard one.
        base_layers: n_layers that it is stated for; of completep only.
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
