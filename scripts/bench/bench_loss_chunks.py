"""CPU time of the output head, loss and gradients by the number of rows per chunk of logits.

    python scripts/bench/bench_loss_chunks.py [--rounds 5] [--seconds 0.4]

Uses one thread, eager mode and fp32. The chunk sizes are measured alternately. Prints medians of the CPU time
relative to that of the chunk size which the package chooses. The rule for CPUs in
`chinchilla.plan.memory.loss_chunk_rows` follows this table.
"""

import statistics
import sys
import time

from bench_tools import ROOT, Arguments, count, positive

# vocab_size, d_model, tokens of a forward pass
SHAPES = ((512, 64, 2048), (4096, 128, 768), (4096, 512, 1024), (32768, 128, 768), (32768, 512, 768))  # fmt: skip
ROWS = (0, 16, 32, 64, 128, 256, 512, 1024, 2048)  # rows of a chunk; 0: the choice of the package


def main() -> None:
    parser = Arguments(__doc__)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--seconds", type=positive, default=0.4, help="minimum of one measurement")  # fmt: skip
    args = parser.parse_args()
    import torch

    sys.path.insert(0, str(ROOT))
    from chinchilla.model import functions
    from chinchilla.plan.memory import loss_chunk_rows, padded_vocab
    from chinchilla.train.device import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory(torch.device("cpu"))
    print(f"{'V x d x tokens':>20} {'chosen':>14}", *(f"{n:>6}" for n in ROWS[1:]), "rows")
    for vocab_size, d_model, n in SHAPES:
        x = torch.randn(n, d_model, requires_grad=True)
        weight = torch.randn(vocab_size, d_model, requires_grad=True)
        bias = torch.zeros(vocab_size, requires_grad=True)
        targets = torch.randint(vocab_size, (n,))
        chosen = min(n, loss_chunk_rows(padded_vocab(vocab_size, "cpu"), "cpu"))

        def milliseconds(rows: int) -> float:
            functions.loss_chunk_rows = lambda columns, device: rows
            calls, began = 0, time.process_time()
            while (spent := time.process_time() - began) < args.seconds:
                loss = functions.total_loss(x, weight, bias, targets)  # noqa: B023
                torch.autograd.grad(loss, (x, weight, bias))  # noqa: B023
                calls += 1
            return 1e3 * spent / calls

        tried = [rows or chosen for rows in ROWS if rows <= n]
        times = [[milliseconds(rows) for rows in tried] for _ in range(args.rounds + 1)][1:]
        over = [statistics.median(row[i] / row[0] for row in times) for i in range(1, len(tried))]
        own = statistics.median(row[0] for row in times)
        print(
            f"{f'{vocab_size}x{d_model}x{n}':>20} {chosen:>4}: {own:5.1f} ms",
            *(f"{x:6.2f}" for x in over),
        )


if __name__ == "__main__":
    main()
