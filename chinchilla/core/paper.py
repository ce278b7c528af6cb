"""Published numbers of Hoffmann et al. (2022), arXiv 2203.15556, and of the work that corrects it.

Every constant names its table or section. Nothing here is computed: `tests/paper` compares these
numbers with what `shapes.py` and `fit/` compute.
"""

from typing import NamedTuple


class A9Row(NamedTuple):
    """One row of Table A9: parameters in millions as printed, then the shape."""

    params_M: int
    d_model: int
    ffw_size: int
    kv_size: int
    n_heads: int
    n_layers: int


# Table A9: all 50 models trained. Six rows (3530, 4084, 11452, 12569, 13735, 14940) have
# n_heads * kv_size != d_model. Their parameter counts agree with that, so these are not misprints.
TABLE_A9 = (
    A9Row(44, 512, 2048, 64, 8, 8),
    A9Row(57, 576, 2304, 64, 9, 9),
    A9Row(74, 640, 2560, 64, 10, 10),
    A9Row(90, 640, 2560, 64, 10, 13),
    A9Row(106, 640, 2560, 64, 10, 16),
    A9Row(117, 768, 3072, 64, 12, 12),
    A9Row(140, 768, 3072, 64, 12, 15),
    A9Row(163, 768, 3072, 64, 12, 18),
    A9Row(175, 896, 3584, 64, 14, 14),
    A9Row(196, 896, 3584, 64, 14, 16),
    A9Row(217, 896, 3584, 64, 14, 18),
    A9Row(251, 1024, 4096, 64, 16, 16),
    A9Row(278, 1024, 4096, 64, 16, 18),
    A9Row(306, 1024, 4096, 64, 16, 20),
    A9Row(425, 1280, 5120, 128, 10, 18),
    A9Row(489, 1280, 5120, 128, 10, 21),
    A9Row(509, 1408, 5632, 128, 11, 18),
    A9Row(552, 1280, 5120, 128, 10, 24),
    A9Row(587, 1408, 5632, 128, 11, 21),
    A9Row(632, 1536, 6144, 128, 12, 19),
    A9Row(664, 1408, 5632, 128, 11, 24),
    A9Row(724, 1536, 6144, 128, 12, 22),
    A9Row(816, 1536, 6144, 128, 12, 25),
    A9Row(893, 1792, 7168, 128, 14, 20),
    A9Row(1018, 1792, 7168, 128, 14, 23),
    A9Row(1143, 1792, 7168, 128, 14, 26),
    A9Row(1266, 2048, 8192, 128, 16, 22),
    A9Row(1424, 2176, 8704, 128, 17, 22),
    A9Row(1429, 2048, 8192, 128, 16, 25),
    A9Row(1593, 2048, 8192, 128, 16, 28),
    A9Row(1609, 2176, 8704, 128, 17, 25),
    A9Row(1731, 2304, 9216, 128, 18, 24),
    A9Row(1794, 2176, 8704, 128, 17, 28),
    A9Row(2007, 2304, 9216, 128, 18, 28),
    A9Row(2283, 2304, 9216, 128, 18, 32),
    A9Row(2298, 2560, 10240, 128, 20, 26),
    A9Row(2639, 2560, 10240, 128, 20, 30),
    A9Row(2980, 2560, 10240, 128, 20, 34),
    A9Row(3530, 2688, 10752, 128, 22, 36),
    A9Row(3802, 2816, 11264, 128, 22, 36),
    A9Row(4084, 2944, 11776, 128, 22, 36),
    A9Row(4516, 3072, 12288, 128, 24, 36),
    A9Row(6796, 3584, 14336, 128, 28, 40),
    A9Row(9293, 4096, 16384, 128, 32, 42),
    A9Row(11452, 4352, 17408, 128, 32, 47),
    A9Row(12295, 4608, 18432, 128, 36, 44),
    A9Row(12569, 4608, 18432, 128, 32, 47),
    A9Row(13735, 4864, 19456, 128, 32, 47),
    A9Row(14940, 4992, 19968, 128, 32, 49),
    A9Row(16183, 5120, 20480, 128, 40, 47),
)

# Table 4: d_model, ffw_size, kv_size, n_heads, n_layers.
CHINCHILLA_70B = (8192, 32768, 128, 64, 80)
GOPHER_280B = (16384, 65536, 128, 128, 80)

VOCAB_SIZE = 32_000  # SentencePiece vocabulary of every run (section 4.1)
SEQ_LEN = 2_048  # Gopher paper; the only length that reproduces Table A4

# Table A4: FLOPs of Appendix F over 6*N*D, printed to two decimals.
# (params label, n_layers, d_model, ffw_size, n_heads, kv_size, printed ratio)
TABLE_A4 = (
    ("73M", 10, 640, 2560, 10, 64, 1.03),
    ("305M", 20, 1024, 4096, 16, 64, 1.10),
    ("552M", 24, 1280, 5120, 10, 128, 1.08),
    ("1.1B", 26, 1792, 7168, 14, 128, 1.04),
    ("1.6B", 28, 2048, 8192, 16, 128, 1.03),
    ("6.8B", 40, 3584, 14336, 28, 128, 0.99),
)


class Table2Row(NamedTuple):
    """One row of Table 2: exponents of N_opt ~ C^a and D_opt ~ C^b with their 10-90% interval."""

    approach: str
    label: str
    a: float
    a_p10: float | None
    a_p90: float | None
    b: float
    b_p10: float | None
    b_p90: float | None


# Table 2. Intervals: 10th and 90th percentile over 100 fits to 80% of the data, which understates
# the spread; the interval of approach 3 is implausibly narrow (Besiroglu et al. 2024).
TABLE_2 = (
    Table2Row(
        "envelope", "1. Minimum over training curves", 0.50, 0.488, 0.502, 0.50, 0.501, 0.512
    ),
    Table2Row("isoflop", "2. IsoFLOP profiles", 0.49, 0.462, 0.534, 0.51, 0.483, 0.529),
    Table2Row(
        "parametric", "3. Parametric modelling of the loss", 0.46, 0.454, 0.455, 0.54, 0.542, 0.543
    ),
    Table2Row("kaplan", "Kaplan et al. (2020)", 0.73, None, None, 0.27, None, None),
)


class TableA2Row(NamedTuple):
    """One row of Table A2: exponents of approach 2 on one corpus, without intervals."""

    corpus: str
    a: float
    b: float


# Table A2 (Appendix C): approach 2 with four IsoFLOP profiles per corpus and one tokenizer.
TABLE_A2 = (TableA2Row("C4", 0.50, 0.50), TableA2Row("GitHub", 0.53, 0.47))

# Table 3, approach 1's projections: (parameters, FLOPs, tokens) as printed. The 67B row prints
# 1.5T tokens; C/(6N) is 1.43T.
TABLE_3 = (
    (400e6, 1.92e19, 8.0e9),
    (1e9, 1.21e20, 20.2e9),
    (10e9, 1.23e22, 205.1e9),
    (67e9, 5.76e23, 1.5e12),
    (175e9, 3.85e24, 3.7e12),
    (280e9, 9.90e24, 5.9e12),
    (520e9, 3.43e25, 11.0e12),
    (1e12, 1.27e26, 21.2e12),
    (10e12, 1.30e28, 216.2e12),
)

# Table A3: parameters, then FLOPs and tokens by approach 2 and by approach 3. For 175B under
# approach 3 the paper prints 1.26e24 FLOPs; 6*N*D is 1.26e25, which is used here.
TABLE_A3 = (
    (400e6, 1.84e19, 7.7e9, 2.21e19, 9.2e9),
    (1e9, 1.20e20, 20.0e9, 1.62e20, 27.1e9),
    (10e9, 1.32e22, 219.5e9, 2.46e22, 410.1e9),
    (67e9, 6.88e23, 1.7e12, 1.71e24, 4.1e12),
    (175e9, 4.54e24, 4.3e12, 1.26e25, 12.0e12),
    (280e9, 1.18e25, 7.1e12, 3.52e25, 20.1e12),
    (520e9, 4.19e25, 13.4e12, 1.36e26, 43.5e12),
    (1e12, 1.59e26, 26.5e12, 5.65e26, 94.1e12),
    (10e12, 1.75e28, 292.0e12, 8.55e28, 1425.5e12),
)

# Legend of Figure 3, not in the text. The coordinates of Figure 4 agree under the `paper` FLOP
# convention.
ISOFLOP_BUDGETS = (6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21)

GOPHER_BUDGET = 5.76e23  # FLOPs; section 3. No counting convention reproduces it from the shape.

# Power laws N_opt = coefficient * C^exponent through Table 3 and through approach 2 of Table A3:
# (coefficient, exponent). Recomputed from the tables in tests/paper.
N_OPT_TABLE_3 = (0.09916, 0.4981)
N_OPT_TABLE_A3_ISOFLOP = (0.14488, 0.4899)


class LawConstants(NamedTuple):
    """L(N, D) = E + A / N^alpha + B / D^beta in nats per token, with its source."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    source: str


LOSS_LAWS = {
    "hoffmann": LawConstants(
        1.6933736810, 406.40101752, 410.72282695, 0.33917084, 0.2849083,
        "Hoffmann et al. 2022, unrounded constants of the TeX source",
    ),
    "hoffmann_rounded": LawConstants(
        1.69, 406.4, 410.7, 0.34, 0.28,
        "Hoffmann et al. 2022, section D.2 as printed; rounding moves N_opt(5.76e23) to 32B",
    ),
    "besiroglu": LawConstants(
        1.8172, 482.01, 2085.43, 0.3478, 0.3658,
        "Besiroglu et al. 2024, arXiv 2404.10102",
    ),
    "muennighoff": LawConstants(
        1.8691436784, 520.82495166, 1487.71609378, 0.3526596, 0.3526596,
        "Muennighoff et al. 2023, arXiv 2305.16264 (C4, alpha tied to beta)",
    ),
}  # fmt: skip

# Training FLOPs (6*N*D) of the smallest and largest run that each law was fitted to: the points of
# Figure 4, and for Muennighoff et al. the four IsoFLOP profiles on C4 of Figure A2.
LAW_C_RANGE = {
    "hoffmann": (1.4e18, 1.3e22),
    "hoffmann_rounded": (1.4e18, 1.3e22),
    "besiroglu": (1.4e18, 1.3e22),
    "muennighoff": (1e19, 1e21),
}

# Kaplan et al. (2020) as used in section D.4: 4.68B parameters at 1e21 FLOPs, exponent of Table 2.
N_OPT_KAPLAN = (4.68e9 / 1e21**0.73, 0.73)

# Kaplan et al. (2020), sections 1 and 2.2: 768 to 1.5e9 parameters without embeddings, each trained
# for 2.5e5 steps of 512 sequences of 1,024 tokens; 6*N*D of the smallest and the largest.
KAPLAN_C_RANGE = (6e14, 1.2e21)

# Muennighoff et al. (2023), arXiv 2305.16264, appendix A: R_D* and R_N* of repeated tokens and
# excess parameters, for the law `muennighoff`.
REPEATS_MUENNIGHOFF = (15.387756, 5.309743)
