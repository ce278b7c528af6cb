"""Parameters and FLOPs of shapes; tests/paper compares them with the paper's tables."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chinchilla.core.errors import InputError
from chinchilla.core.shapes import (
    FLOP_CONVENTIONS,
    ModelShape,
    flops_per_token,
    n_params,
    n_params_non_embedding,
    named_shapes,
    shape_named,
)

SMALL = ModelShape(32, 128, 16, 2, 3, vocab_size=100, seq_len=64)


def test_parameters_of_a_small_model_counted_piece_by_piece():
    embedding, output_bias, final_gain = 100 * 32, 100, 32
    attention = 4 * 32 * 32 + 32  # Q, K, V, O and O's bias
    ffn = 2 * 32 * 128 + 128 + 32
    gains = 2 * 32
    expected = embedding + output_bias + final_gain + 3 * (attention + ffn + gains)
    assert n_params(SMALL) == expected
    assert n_params_non_embedding(SMALL) == expected - 3200


def test_relative_positions_add_a_projection_and_two_vectors_a_layer():
    relative = replace(SMALL, positions="relative")
    assert n_params(relative) - n_params(SMALL) == 3 * (32 * 32 + 2 * 32)


def test_flops_of_a_small_model_counted_row_by_row():
    """Appendix F for one sequence of 64 tokens; training costs three forward passes."""
    S, V, d, q, f, heads = 64, 100, 32, 32, 128, 2
    layer = (
        2 * 3 * S * d * q + 2 * S * S * q + 3 * heads * S * S + 2 * S * S * q + 2 * S * q * d
        + 2 * S * (d * f + d * f)
    )  # fmt: skip
    assert flops_per_token(SMALL, "paper") * S == 3 * 3 * layer
    assert flops_per_token(SMALL, "with_head") * S == 3 * (3 * layer + 2 * S * d * V)
    assert flops_per_token(SMALL, "appendix_f") * S == 3 * (3 * layer + 4 * S * d * V)
    assert flops_per_token(SMALL, "six_nd") == 6 * n_params(SMALL)


def test_the_number_of_heads_changes_only_the_softmax():
    one, four = replace(SMALL, kv_size=32, n_heads=1), replace(SMALL, kv_size=8, n_heads=4)
    assert n_params(one) == n_params(four)
    assert flops_per_token(four, "paper") - flops_per_token(one, "paper") == 3 * 3 * 3 * 3 * 64


def test_an_unknown_convention_is_refused_with_the_choices():
    with pytest.raises(
        InputError, match="'6nd': choose one of with_head, paper, appendix_f, six_nd"
    ):
        flops_per_token(SMALL, "6nd")


@pytest.mark.parametrize(
    "field", ["d_model", "ffw_size", "kv_size", "n_heads", "n_layers", "vocab_size", "seq_len"]
)
@pytest.mark.parametrize("value", [0, -1, 1.5, "8", None])
def test_widths_must_be_positive_whole_numbers(field, value):
    with pytest.raises(InputError, match=f"model.{field}={value!r} is not a positive whole number"):
        replace(SMALL, **{field: value})


def test_odd_heads_and_unknown_positions_are_refused():
    with pytest.raises(InputError, match="kv_size=15 must be even"):
        replace(SMALL, kv_size=15)
    with pytest.raises(InputError, match="'alibi': choose one of rope, relative"):
        replace(SMALL, positions="alibi")


def test_fifty_two_distinct_shapes_ordered_by_size():
    shapes = named_shapes()
    sizes = [n_params(s) for s in shapes.values()]
    assert len(shapes) == len(set(shapes.values())) == 52
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("name", ["44m", "893m", "1.42b", "1.43b", "2.28b", "16b"])
def test_a_name_is_the_rounded_size_of_its_model(name):
    value = float(name[:-1]) * (1e6 if name.endswith("m") else 1e9)
    half_a_digit = 0.5 if "." not in name else 0.5 / 10 ** len(name[:-1].partition(".")[2])
    unit = 1e6 if name.endswith("m") else 1e9
    assert abs(n_params(named_shapes()[name]) - value) <= half_a_digit * unit


def test_a_named_shape_uses_the_given_vocabulary_length_and_positions():
    shape = shape_named("44m", vocab_size=500, seq_len=128, kv_size=64, positions="rope")
    assert (shape.vocab_size, shape.seq_len, shape.positions) == (500, 128, "rope")
    assert (shape.d_model, shape.n_layers, shape.n_heads) == (512, 8, 8)


def test_width_x_layers_keeps_the_proportions_of_table_a9():
    shape = shape_named("768x12", vocab_size=32_000, seq_len=2048, kv_size=64, positions="relative")
    assert shape == named_shapes()["117m"]


def test_a_width_below_one_head_has_one_head():
    shape = shape_named("16x1", vocab_size=100, seq_len=64, kv_size=64, positions="rope")
    assert (shape.n_heads, shape.kv_size) == (1, 16)


@given(heads=st.integers(1, 40), half=st.integers(1, 64), layers=st.integers(1, 99))
def test_width_x_layers_has_heads_of_the_given_size(heads, half, layers):
    width, kv = heads * 2 * half, 2 * half
    shape = shape_named(f"{width}x{layers}", vocab_size=9, seq_len=8, kv_size=kv, positions="rope")
    assert (shape.d_model, shape.n_heads, shape.kv_size) == (width, heads, kv)
    assert (shape.n_layers, shape.ffw_size) == (layers, 4 * width)
    assert all(flops_per_token(shape, name) > 0 for name in FLOP_CONVENTIONS)


@pytest.mark.parametrize("name", ["33x2", "130x2"])
def test_a_width_without_even_heads_is_refused(name):
    with pytest.raises(
        InputError, match=r"cannot be split into . heads of even size near kv_size=64"
    ):
        shape_named(name, vocab_size=9, seq_len=8, kv_size=64, positions="rope")


@pytest.mark.parametrize(
    "name", ["45m", "0x3", "32x0", "x3", "32x", "32x3x2", "-32x3", "32 x 3", ""]
)
def test_an_invalid_name_is_refused_with_both_formats(name):
    with pytest.raises(InputError, match=r"neither a row of Table A9 .* nor WIDTHxLAYERS"):
        shape_named(name, vocab_size=9, seq_len=8, kv_size=64, positions="rope")


def test_a_misspelt_name_is_refused_with_the_nearest_one():
    with pytest.raises(InputError, match=r"Did you mean chinchilla_70b\?"):
        shape_named("chinchila_70b", vocab_size=9, seq_len=8, kv_size=64, positions="rope")
