"""The decoder-only transformer of the scaling runs.

Pre-RMSNorm, GELU feed-forward, tied embedding, causal attention. The number of parameters equals
`shapes.n_params`, and with relative positions Table A9's N for every row.
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
    """A decoder-only transformer from tokens to logits, or to the loss of given targets.

    Args:
        shape: widths, vocabulary, sequence length, kind of positions.
        dtype: dtype of the activations; weights are fp32.
        recompute: activation checkpointing: keep only each block's input for the backward pass and
            run the block again there. Needs less memory and a third more FLOPs.
        factors: factors of the parametrization; None = standard.
        compile_blocks: compile blocks, the last norm, and on a GPU the loss of a chunk.
    """

    def __init__(
        self,
        shape: ModelShape,
        dtype: torch.dtype = torch.float32,
        recompute: bool = False,
        factors: Multipliers | None = None,
        compile_blocks: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.dtype = shape, dtype
        self.compile_blocks = compile_blocks
        self.factors = factors = factors or multipliers(shape)
        self.embedding = nn.Parameter(torch.empty(shape.vocab_size, shape.d_model))
        self.blocks = nn.ModuleList(Block(shape, factors, recompute) for _ in range(shape.n_layers))
        self.norm = RMSNorm(shape.d_model)
        self.output_bias = nn.Parameter(torch.zeros(shape.vocab_size))
        self.positions: Tensor
        self.register_buffer("positions", self.position_table(), persistent=False)

    def position_table(self) -> Tensor:
        """Angles of rotary positions, or encodings of distances."""
        if self.shape.positions == "relative":
            return sinusoid(self.shape.seq_len, self.shape.d_model)
        return rope_angles(self.shape.seq_len, self.shape.kv_size)

    def fill_tables(self) -> None:
        """Fill buffers, which are neither trained nor saved, after `to_empty`."""
        self.positions.copy_(self.position_table())
        for block in self.blocks:
            assert isinstance(block, Block)
            block.residual.fill_(self.factors.residual)

    def initial_weights(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        """Yield name and initial value of every parameter, drawn on the CPU in fp32.

        Matrices are normal with standard deviation 1/sqrt(n_in). In the standard parametrization,
        matrices that write into the residual stream are divided by sqrt(2 * n_layers) (GPT-2), and
        the tied embedding has standard deviation 1/sqrt(d_model), so that logits start with unit
        variance at every width. `core.parametrization` has the other parametrizations. Gains are 1,
        biases 0.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            if p.dim() < 2:
                value = torch.ones(p.shape) if name.endswith(".gain") else torch.zeros(p.shape)
            else:
                std = self.factors.embedding_std if name == "embedding" else p.shape[1] ** -0.5
                if name.endswith((".out.weight", ".down.weight")):
                    std /= self.factors.branch_divisor
                value = torch.empty(p.shape).normal_(0.0, std, generator=generator)
            yield name, value

    @torch.no_grad()
    def init_weights(self, seed: int) -> "Transformer":
        """Set every weight from `seed`, the same on every device."""
        parameters = dict(self.named_parameters())
        for name, value in self.initial_weights(seed):
            parameters[name].copy_(value)
        return self

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits, or with targets the sum of their cross-entropies.

        Args:
            tokens: (B, T) of any integer type, T <= seq_len.
            targets: (B, T), the token that follows each; None = return logits.

        Returns:
            (B, T, vocab_size) in the compute dtype; with targets a float64 scalar in nats, computed
            without all logits in memory at once.
        """
        # For evaluation, compilation would take longer than it saves.
        use_compiled = self.compile_blocks and torch.is_grad_enabled()
        x = F.embedding(tokens, self.embedding).to(self.dtype)  # (B, T, d_model)
        for block in self.blocks:
            x = block(x, self.positions, use_compiled)
        norm = compiled(RMSNorm.forward) if use_compiled else RMSNorm.forward
        x = norm(self.norm, x)
        if self.factors.output != 1.0:
            x = x * self.factors.output
        if targets is not None:
            # Only on a GPU: the compiled softmax recomputes each exponential where it is used, which
            # costs a CPU more than it saves.
            compile_chunks = use_compiled and x.is_cuda
            flat_targets = targets.flatten().long()
            return total_loss(
                x.flatten(0, 1), self.embedding, self.output_bias, flat_targets, compile_chunks
            )
        return F.linear(x, self.embedding.to(x.dtype), self.output_bias.to(x.dtype))
