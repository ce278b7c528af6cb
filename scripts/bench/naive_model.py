"""The same transformer as this package's, written with the standard modules of PyTorch and nothing else.

bench_throughput.py measures it as the program `naive`: the speed that a short training script reaches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NaiveBlock(nn.Module):
    def __init__(self, d: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm, self.ffw_norm = nn.RMSNorm(d, 1e-6), nn.RMSNorm(d, 1e-6)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.qkv(self.attention_norm(x)).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in (q, k, v))
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.ffw_norm(x))))


def rotate_half(x: Tensor) -> Tensor:
    """(-right, left) of the halves of each head."""
    left, right = x.chunk(2, -1)
    return torch.cat((-right, left), -1)


class NaiveTransformer(nn.Module):
    def __init__(self, d: int, n_heads: int, n_layers: int, vocab_size: int, seq_len: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d)
        self.blocks = nn.ModuleList(NaiveBlock(d, n_heads) for _ in range(n_layers))
        self.norm = nn.RMSNorm(d, 1e-6)
        self.head = nn.Linear(d, vocab_size)
        self.head.weight = self.embedding.weight
        kv_size = d // n_heads
        rates = 10_000 ** (-torch.arange(0, kv_size, 2).float() / kv_size)
        angles = torch.outer(torch.arange(seq_len).float(), rates).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """(B, seq_len) tokens and their targets to the mean loss in nats."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())
