"""Parameters N and training FLOPs C of a decoder-only transformer.

From Appendix F, Table A4 and Table A9 of Hoffmann et al. (2022). Standard library only.

N is the exact number of trained parameters, including the tied embedding. With
`positions="relative"` (Transformer-XL, as in the paper) it equals all 50 rows of Table A9. With
`positions="rope"` a layer has no relative-position projection and no u, v vectors, so the same
shape has 5-8% fewer parameters than its name states.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from chinchilla.core import paper
from chinchilla.core.errors import InputError, nearest

POSITIONS = ("rope", "relative")


@dataclass(frozen=True)
class ModelShape:
    """Dimensions of a transformer, named as in Table A9."""

    d_model: int
    ffw_size: int
    kv_size: int  # width of one head
    n_heads: int
    n_layers: int
    vocab_size: int
    seq_len: int  # tokens per sequence; also the attention span in the FLOP count
    positions: str = "rope"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "positions" and (not isinstance(value, int) or value < 1):
                raise InputError(f"model.{name}={value!r} is not a positive whole number.")
        if self.positions not in POSITIONS:
            raise InputError(
                f"model.positions={self.positions!r}: choose one of {', '.join(POSITIONS)}."
            )
        if self.kv_size % 2:
            raise InputError(
                f"model.kv_size={self.kv_size} must be even, because position encodings act on pairs of its "
                "dimensions."
            )

    @property
    def inner(self) -> int:
        """Total width of all heads; differs from d_model in six rows of Table A9."""
        return self.n_heads * self.kv_size


def n_params(shape: ModelShape) -> int:
    """N: all trained parameters, with the tied embedding counted once.

    The tied embedding V*d, the output bias V and the final gain d. Per layer: the projections Q, K,
    V, O, the bias of O, the two FFN matrices and their biases, and two gains; with relative
    positions also the projection R and the vectors u, v. Rounds to the printed value in all 50 rows
    of Table A9.
    """
    d, f, q = shape.d_model, shape.ffw_size, shape.inner
    relative = shape.positions == "relative"
    layer = (5 if relative else 4) * d * q + 2 * d * f + f + 4 * d + (2 * q if relative else 0)
    return shape.vocab_size * (d + 1) + d + shape.n_layers * layer


def n_params_non_embedding(shape: ModelShape) -> int:
    """N without the tied embedding matrix, as counted by Kaplan et al."""
    return n_params(shape) - shape.vocab_size * shape.d_model


def _layer_forward(s: ModelShape) -> float:
    """Forward FLOPs per token of one layer (Appendix F), without a discount for causal masking."""
    d, q, S = s.d_model, s.inner, s.seq_len
    return 6 * d * q + 2 * S * q + 3 * s.n_heads * S + 2 * S * q + 2 * q * d + 4 * d * s.ffw_size


def _layers(s: ModelShape) -> float:
    return 3.0 * s.n_layers * _layer_forward(s)


FLOP_CONVENTIONS: dict[str, Callable[[ModelShape], float]] = {
    # layers and output logits, without the embedding lookup
    "with_head": lambda s: _layers(s) + 6.0 * s.d_model * s.vocab_size,
    # Appendix F without embedding and logits, as in Table A4
    "paper": _layers,
    # Appendix F as written
    "appendix_f": lambda s: _layers(s) + 12.0 * s.d_model * s.vocab_size,
    # C = 6 N D, as in Figure 4 and the closed-form optimum
    "six_nd": lambda s: 6.0 * n_params(s),
}


def flops_per_token(shape: ModelShape, convention: str) -> float:
    """Training FLOPs per token: forward, and backward at twice the forward cost.

    Args:
        shape: the model.
        convention: a key of FLOP_CONVENTIONS.

    Raises:
        InputError: unknown convention.
    """
    if convention not in FLOP_CONVENTIONS:
        raise InputError(
            f"flop_convention={convention!r}: choose one of {', '.join(FLOP_CONVENTIONS)}."
        )
    return FLOP_CONVENTIONS[convention](shape)


def _a9_names() -> dict[str, paper.A9Row]:
    """Unique short names of the rows of Table A9: 44m ... 1.42b, 1.43b ... 16b."""
    names: dict[str, paper.A9Row] = {}
    for row in paper.TABLE_A9:
        same = [
            r.params_M
            for r in paper.TABLE_A9
            if f"{r.params_M / 1e3:.1f}" == f"{row.params_M / 1e3:.1f}"
        ]
        digits = 0 if row.params_M >= 10_000 else 1 if len(same) == 1 else 2
        billions = f"{row.params_M / 1e3:.{digits}f}b"
        names[f"{row.params_M}m" if row.params_M < 1_000 else billions] = row
    assert len(names) == len(paper.TABLE_A9)
    return names


def named_shapes() -> dict[str, ModelShape]:
    """The shapes of Table A9 and Table 4 by name, with 32k vocabulary and 2048 tokens per sequence."""
    rows: dict[str, tuple[int, int, int, int, int]] = {
        name: (r.d_model, r.ffw_size, r.kv_size, r.n_heads, r.n_layers)
        for name, r in _a9_names().items()
    }
    rows |= {"chinchilla_70b": paper.CHINCHILLA_70B, "gopher_280b": paper.GOPHER_280B}
    return {
        name: ModelShape(*row, paper.VOCAB_SIZE, paper.SEQ_LEN, "relative")
        for name, row in rows.items()
    }


def shape_named(
    name: str, vocab_size: int, seq_len: int, kv_size: int, positions: str
) -> ModelShape:
    """A shape by name: a row of Table A9 ("44m"), or WIDTHxLAYERS in the proportions of the table.

    "24x3" has d_model 24, 3 layers, ffw_size 4*d_model as in every row of Table A9, and
    d_model // kv_size heads (at least one) of equal size.

    Raises:
        InputError: neither a known name nor WIDTHxLAYERS, or the width cannot be split into heads
            of even size.
    """
    known = named_shapes()
    if name in known:
        return replace(known[name], vocab_size=vocab_size, seq_len=seq_len, positions=positions)
    width, x, depth = name.partition("x")
    if not (x and width.isdigit() and depth.isdigit() and int(width) and int(depth)):
        hint = nearest(name, known)
        raise InputError(
            f"model {name!r} is neither a row of Table A9 (44m, 57m, ... 16b) nor WIDTHxLAYERS "
            f"such as 32x3.{hint}"
        )
    d_model = int(width)
    n_heads = max(1, d_model // kv_size)
    if d_model % (2 * n_heads):
        raise InputError(
            f"model {name!r}: width {d_model} cannot be split into {n_heads} heads of even size near "
            f"kv_size={kv_size}. Change one of them."
        )
    return ModelShape(
        d_model,
        4 * d_model,
        d_model // n_heads,
        n_heads,
        int(depth),
        vocab_size,
        seq_len,
        positions,
    )
