"""The decoder-only transformer of the scaling runs.

Pre-RMSNorm, GELU feed-forward, tied embedding, causal attention. With relative positions the
number of parameters equals Table A9's N for every row (tests/paper counts them on the meta
device); with rotary positions it equals `shapes.n_params` all the same.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chinchilla.core.parametrization import Multipliers, multipliers
from chinchilla.core.shapes import ModelShape
from chinchilla.model.compiling import compiled
from chinchilla.model.functions import total_loss
from chinchilla.model.layers import Block, RMSNorm, rope_angles, sinusoid


class Transformer(nn.Module):
    """Tokens in, logits out.

    Args:
        shape: widths, vocabulary, sequence length, kind of positions.
        dtype: of the activations; weights are fp32.
        recompute: keep only each block's input for the backward pass, and run the block again there
            (activation checkpointing): less memory, a third more FLOPs.
        by: factors of the parametrisation; None = standard.
        compile_blocks: run blocks, the last norm, and on a GPU the loss of a chunk, as compiled
            programs.
    """

    def __init__(
        self,
        shape: ModelShape,
        dtype: torch.dtype = torch.float32,
        recompute: bool = False,
        by: Multipliers | None = None,
        compile_blocks: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.dtype = shape, dtype
        self.compile_blocks = compile_blocks
        self.by = by = by or multipliers(shape)
        self.embedding = nn.Parameter(torch.empty(shape.vocab_size, shape.d_model))
        self.blocks = nn.ModuleList(Block(shape, recompute, by) for _ in range(shape.n_layers))
        self.norm = RMSNorm(shape.d_model)
        self.output_bias = nn.Parameter(torch.zeros(shape.vocab_size))
        self.positions: Tensor
        self.register_buffer("positions", self.position_table(), persistent=False)

    def position_table(self) -> Tensor:
        """What the blocks are given: angles of rotary positions, or encodings of distances."""
        if self.shape.positions == "relative":
            return sinusoid(self.shape.seq_len, self.shape.d_model)
        return rope_angles(self.shape.seq_len, self.shape.kv_size)

    def fill_tables(self) -> None:
        """Write what is neither trained nor saved, into memory that was just given to the model."""
        self.positions.copy_(self.position_table())
        for block in self.blocks:
            assert isinstance(block, Block)
            block.residual.fill_(self.by.residual)

    def initial_weights(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        """Name and initial value of every parameter, drawn on the CPU in fp32 one after the other.

        Matrices are normal with standard deviation 1/sqrt(n_in). In the standard parametrisation
        those that write into the residual stream are divided by sqrt(2 * n_layers) (GPT-2), and
        the tied embedding has 1/sqrt(d_model), so that logits start with unit variance at every
        width; `parametrization` has the others. Gains 1, biases 0.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            if p.dim() < 2:
                value = torch.ones(p.shape) if name.endswith(".gain") else torch.zeros(p.shape)
            else:
                std = self.by.embedding_std if name == "embedding" else p.shape[1] ** -0.5
                if name.endswith((".out.weight", ".down.weight")):
                    std /= self.by.branch_divisor
                value = torch.empty(p.shape).normal_(0.0, std, generator=generator)
            yield name, value

    @torch.no_grad()
    def init_weights(self, seed: int) -> "Transformer":
        """Fill every weight from `seed`, the same on every device."""
        parameters = dict(self.named_parameters())
        for name, value in self.initial_weights(seed):
            parameters[name].copy_(value)
        return self

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits, or with targets the sum of their cross-entropies.

        Args:
            tokens: (B, T) of any integer type, T <= seq_len.
            targets: (B, T), the token that follows each; None = logits are wanted.

        Returns:
            (B, T, vocab_size) in the compute dtype; with targets a float64 scalar, nats, for which
            the logits of all tokens never exist together.
        """
        compile_it = self.compile_blocks and torch.is_grad_enabled()  # to evaluate, it does not pay
        x = F.embedding(tokens, self.embedding).to(self.dtype)  # (B, T, d_model)
        for block in self.blocks:
            x = block(x, self.positions, compile_it)
        norm = compiled(RMSNorm.forward) if compile_it else RMSNorm.forward
        x = norm(self.norm, x)
        if self.by.output != 1.0:
            x = x * self.by.output
        if targets is not None:
            flat = x.flatten(0, 1)
            whole = targets.flatten().long()
            # Only on a GPU: a compiled softmax takes each exponential again wherever it is used, which
            # costs a CPU more than it saves.
            compile_chunks = compile_it and x.is_cuda
            return total_loss(flat, self.embedding, self.output_bias, whole, compile_chunks)
        return F.linear(x, self.embedding.to(x.dtype), self.output_bias.to(x.dtype))
