"""What a training run holds in the memory of one device, part by part. Floor 0.

Counted from what the model keeps for its backward pass (`model.layers`, `model.functions`) and from
how FSDP2 cuts a model (`train.fsdp`); tests compare it with measured peaks. It does not include
what an allocator loses between its blocks, nor the workspaces of libraries (oneDNN's bf16 kernels for
AMX take some 15 MB). The peaks were those of fp32, bf16 and bf16 weights on a CPU, of a whole model and
of two shards; those on a GPU have a test (tests/gpu) that has not run yet.
"""

from dataclasses import asdict, dataclass

from chinchilla.core.shapes import ModelShape
from chinchilla.plan.records import RunSpec

# Of fp32 logits that exist at a time. On a CPU what its caches hold, but each chunk reads and writes
# the whole gradient of the embedding: 512 rows are worth that (scripts/bench_loss_chunks.py).
LOSS_CHUNK_BYTES = {"cpu": 1 << 20, "cuda": 512 << 20}
LEAST_CHUNK_ROWS = {"cpu": 512, "cuda": 1}


@dataclass(frozen=True)
class Memory:
    """Peak bytes on one device."""

    weights: float  # those that the optimizer updates
    gradients: float
    moments: float  # Adam's two
    compute_copies: float  # bf16 copies of fp32 weights
    gathered: float  # whole tensors of a sharded model: embedding, two blocks, a block's gradients
    activations: float  # kept for the backward pass, and its widest gradient
    loss: float  # a chunk of logits, a padded embedding, gradients made in the forward pass

    @property
    def total(self) -> float:
        return float(sum(asdict(self).values()))


def memory(
    spec: RunSpec,
    micro_batch_tokens: int = 0,
    shards: int = 1,
    recompute: bool = False,
    device: str = "cuda",
) -> Memory:
    """Estimated peak memory of one device.

    Args:
        spec: the run.
        micro_batch_tokens: tokens of this device's forward pass; 0 = the whole batch.
        shards: devices that hold one copy of the state together (FSDP).
        recompute: blocks keep only their input (activation checkpointing).
        device: cuda or cpu; how much of the logits exists at a time.
    """
    s = spec.model
    width = 4 if spec.precision == "fp32" else 2  # of activations and of what computes
    stored = 2 if spec.precision == "bf16_weights" else 4
    tokens = min(micro_batch_tokens or spec.batch_tokens, spec.batch_tokens)
    block = (spec.N - s.vocab_size * (s.d_model + 1) - s.d_model) / s.n_layers
    whole_embedding = s.vocab_size * s.d_model * stored
    kept = block_values(s)
    per_layer = (s.d_model if recompute else kept) * s.n_layers + (kept if recompute else 0)
    widest = max(s.ffw_size, 2 * s.n_heads * s.seq_len if s.positions == "relative" else 0)
    sharded = shards > 1
    copied = stored != width and not sharded  # weights of this device are cast before they compute
    columns = padded_vocab(s.vocab_size, device)
    # A padded embedding is a copy, and the one that computes: it takes the place of a cast one.
    more_rows = 0 if columns == s.vocab_size else columns - (s.vocab_size if copied else 0)
    chunk = 4 * columns * min(tokens, loss_chunk_rows(columns, device))
    return Memory(
        weights=stored * spec.N / shards,
        gradients=stored * spec.N / shards,
        moments=2 * stored * spec.N / shards,
        compute_copies=2.0 * spec.N if copied else 0.0,
        gathered=2 * whole_embedding + block * (2 * width + width + 4) if sharded else 0.0,
        activations=float(tokens * (per_layer + widest) * width),
        loss=chunk * (2 + width / 4)
        + (4.0 * columns + tokens * width) * s.d_model
        + width * more_rows * s.d_model,
    )


def padded_vocab(vocab_size: int, device: str) -> int:
    """Logits of a token on a cpu or cuda device, those of probability zero at the end included.

    A GPU's matrix units want multiples of 128. On a CPU fp32 rows that are whole pages apart fall on the
    same few lines of its caches when the gradient of the embedding goes down their columns.
    """
    if device == "cuda":
        return -(-vocab_size // 128) * 128
    return vocab_size + (16 if vocab_size % 1024 == 0 else 0)


def loss_chunk_rows(columns: int, device: str) -> int:
    """Tokens whose logits, `columns` each, exist at a time, on a cpu or cuda device."""
    return max(LEAST_CHUNK_ROWS[device], LOSS_CHUNK_BYTES[device] // (4 * columns))


def block_values(s: ModelShape) -> float:
    """Values of a token that one block keeps for its backward pass.

    Two for each norm (what is normed, and times the gain), query, key and value, the rotated query and
    key, attention's output, and the feed-forward layer before and after its GELU. Relative positions
    keep three more projections in place of the rotated pair, and a score for every distance.
    """
    attention = 6 * s.inner
    if s.positions == "relative":
        attention = 7 * s.inner + s.n_heads * s.seq_len
    return 4 * s.d_model + 2 * s.ffw_size + attention
