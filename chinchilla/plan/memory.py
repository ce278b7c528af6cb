"""Estimated memory of a training run on one device, part by part.

It counts what the model keeps for its backward pass (`model.layers`, `model.functions`) and how FSDP2
shards a model (`train.fsdp`). Memory fragmentation and workspaces of libraries are not included
(oneDNN's bf16 kernels for AMX take some 15 MB). Tests compare the estimate with measured peaks on a
CPU: fp32, bf16 and bf16 weights, whole and in two shards. The test on a GPU (tests/gpu) has not been
run yet.
"""

from bisect import bisect_right
from dataclasses import asdict, dataclass

from chinchilla.core.shapes import ModelShape
from chinchilla.plan.records import RunSpec

MEMORY_SHARE = 0.85  # share of a GPU's memory that estimates may use; the rest is what they omit
ESTIMATE_ERROR = 0.1  # relative; tests compare estimates with measured peaks
# Bytes of fp32 logits in memory at a time. On a CPU a chunk should fit into the caches, but each chunk
# also reads and writes the whole gradient of the embedding, so it has at least 512 rows.
LOSS_CHUNK_BYTES = {"cpu": 1 << 20, "cuda": 512 << 20}
MIN_CHUNK_ROWS = {"cpu": 512, "cuda": 1}


@dataclass(frozen=True)
class Memory:
    """Peak bytes on one device."""

    weights: float  # as updated by the optimizer
    gradients: float
    moments: float  # Adam's two
    compute_copies: float  # bf16 copies of fp32 weights
    gathered: float  # unsharded tensors: embedding, two blocks, gradients of a block
    activations: float  # kept for the backward pass, and its largest gradient
    loss: float  # a chunk of logits, the padded embedding, gradients computed in the forward pass

    @property
    def total(self) -> float:
        return float(sum(asdict(self).values()))


def memory(
    spec: RunSpec,
    micro_batch_tokens: int = 0,
    shards: int = 1,
    recompute: bool = False,
    device: str = "cuda",
    fsdp: bool = False,
) -> Memory:
    """Estimated peak memory of one device.

    Args:
        spec: the run.
        micro_batch_tokens: tokens of a forward pass on this device; 0 = the whole batch.
        shards: devices among which the state is sharded.
        recompute: activation checkpointing.
        device: cuda or cpu; determines the size of a chunk of logits.
        fsdp: FSDP wraps the model, as with several ranks that each hold a whole copy of it
            (runtime.shard_ranks=1); always so with several shards.
    """
    s = spec.model
    width = 4 if spec.precision == "fp32" else 2  # bytes of activations and compute copies
    stored = 2 if spec.precision == "bf16_weights" else 4  # bytes of weights and moments
    tokens = min(micro_batch_tokens or spec.batch_tokens, spec.batch_tokens)
    block = (spec.N - s.vocab_size * (s.d_model + 1) - s.d_model) / s.n_layers
    whole_embedding = s.vocab_size * s.d_model * stored
    kept = block_values(s)
    per_layer = (s.d_model if recompute else kept) * s.n_layers + (kept if recompute else 0)
    widest = max(s.ffw_size, 2 * s.n_heads * s.seq_len if s.positions == "relative" else 0)
    fsdp = fsdp or shards > 1
    copied = stored != width and not fsdp  # weights are cast before they are used
    columns = padded_vocab(s.vocab_size, device)
    # The padded embedding replaces the cast copy.
    extra_rows = 0 if columns == s.vocab_size else columns - (s.vocab_size if copied else 0)
    chunk = 4 * columns * min(tokens, loss_chunk_rows(columns, device))
    return Memory(
        weights=stored * spec.N / shards,
        gradients=stored * spec.N / shards,
        moments=2 * stored * spec.N / shards,
        compute_copies=2.0 * spec.N if copied else 0.0,
        gathered=2 * whole_embedding + block * (2 * width + width + 4) if fsdp else 0.0,
        activations=float(tokens * (per_layer + widest) * width),
        # Logits, on a GPU also fp32 probabilities, and their gradient; without compilation in place.
        loss=chunk * ((1 if device == "cpu" else 2) + width / 4)
        + (4.0 * columns + tokens * width) * s.d_model
        + width * extra_rows * s.d_model,
    )


def rows_that_fit(
    spec: RunSpec,
    rows: int,
    room: float,
    shards: int = 1,
    recompute: bool = False,
    device: str = "cuda",
    fsdp: bool = False,
) -> int:
    """Rows of one forward pass with which the estimate is at most `room` bytes, at least one.

    All passes of a batch should have equally many rows, so the result is the largest divisor of
    `rows`, those of a device's part of the batch, that fits. If that is less than half of what fits,
    the rows are divided as evenly as possible among the fewest passes, and the last one has fewer.
    Other arguments are those of `memory`.
    """

    def needed(n: int) -> float:
        return memory(spec, n * spec.model.seq_len, shards, recompute, device, fsdp).total

    most = bisect_right(range(1, rows + 1), room, key=needed)
    if most <= 1:
        return 1
    divisor = next(n for n in range(most, 0, -1) if rows % n == 0)
    return divisor if 2 * divisor >= most else -(-rows // -(-rows // most))


def padded_vocab(vocab_size: int, device: str) -> int:
    """Vocabulary size including padding, on a cpu or cuda device.

    On a GPU matrix products are faster with multiples of 128. On a CPU rows whose distance is a
    multiple of the page size map to the same cache lines, which slows down the gradient of the
    embedding.
    """
    if device == "cuda":
        return -(-vocab_size // 128) * 128
    return vocab_size + (16 if vocab_size % 1024 == 0 else 0)


def loss_chunk_rows(columns: int, device: str) -> int:
    """Rows of a chunk of logits with `columns` columns, on a cpu or cuda device."""
    return max(MIN_CHUNK_ROWS[device], LOSS_CHUNK_BYTES[device] // (4 * columns))


def block_values(s: ModelShape) -> float:
    """Values per token that a block keeps for its backward pass.

    Kept are: for each norm, its normalized input and its output; query, key and value; the rotated
    query and key; the output of attention; and the feed-forward layer before and after its GELU.
    Relative positions keep three projections instead of the rotated pair, and a score for every
    distance.
    """
    attention = 6 * s.inner
    if s.positions == "relative":
        attention = 7 * s.inner + s.n_heads * s.seq_len
    return 4 * s.d_model + 2 * s.ffw_size + attention
