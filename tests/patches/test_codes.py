"""Codes and grids: how far a number may be from what it was, what shares a grid, and how codes are packed."""

import pytest
import torch

from patches.cache.codes import GRID, KEY_CODES, KEY_GRIDS, VALUE_CODES, VALUE_GRIDS, Coding

BITS = pytest.mark.parametrize("bits", [8, 4])


def draw(*shape, scale=1.0, shift=0.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale + shift


def grids_of(coded, coding, dim):
    """The span and the zero of every number, float32."""
    keys, values = coded[KEY_GRIDS].float(), coded[VALUE_GRIDS].float()
    keys = keys.repeat_interleave(coding.block, dim=2).unbind(3)
    return keys, values.repeat_interleave(coding.group, dim=-1)[..., :dim].unbind(3)


@BITS
@pytest.mark.parametrize("dim,group", [(12, 5), (80, 32), (96, 32), (7, 3), (16, 64)])
@pytest.mark.parametrize("scale,shift", [(1.0, 0.0), (30.0, 200.0), (1e-3, -5.0), (1e-4, 0.0)])
def test_no_number_is_further_than_half_a_step(bits, dim, group, scale, shift):
    coding = Coding(bits, 8, group)
    states = (draw(2, 3, 24, dim, scale=scale, shift=shift), draw(2, 3, 24, dim, scale=scale))
    coded = coding.encode(*states)
    for exact, got, (span, zero) in zip(
        states, coding.decode(coded, torch.float32), grids_of(coded, coding, dim), strict=True
    ):
        # What the rounding of the grid itself adds, and of float32.
        rounding = torch.finfo(GRID).eps / 2 * (zero.abs() + span) + 2**-25 + 1e-6 * exact.abs()
        assert ((got - exact).abs() <= span / (2**bits - 1) / 2 + rounding).all()


@BITS
def test_four_bits_are_two_codes_in_a_byte(bits):
    coding = Coding(bits, 4, 32)
    for dim in (12, 7):
        coded = coding.encode(draw(1, 2, 8, dim), draw(1, 2, 8, dim))
        width = dim if bits == 8 else (dim + 1) // 2
        assert coded[KEY_CODES].shape == coded[VALUE_CODES].shape == (1, 2, 8, width)
        assert {part.dtype for part in coded.values()} == {torch.uint8, GRID}
        room = coding.room(draw(1, 2, 0, dim), draw(1, 2, 0, dim), 2)
        assert {name: part.shape for name, part in coded.items()} == {n: p.shape for n, p in room.items()}
        assert sum(part.nbytes for part in room.values()) == 2 * 2 * coding.block_bytes(dim)


def test_the_halves_of_a_byte_are_the_halves_of_the_channels():
    keys = torch.arange(16.0).repeat(6, 1).T[None, None].contiguous()
    codes = Coding(4, 16, 32).encode(keys, keys)[KEY_CODES][0, 0]
    assert codes.tolist() == [[token * 17] * 3 for token in range(16)]


@BITS
def test_a_large_channel_of_keys_costs_the_others_nothing(bits):
    keys = draw(1, 1, 32, 16)
    keys[..., 3] = keys[..., 3] * 100 + 400
    alone, beside = (
        Coding(bits, 32, 16).decode(Coding(bits, 32, 16).encode(each, each), torch.float32)[0]
        for each in (keys[..., 4:], keys)
    )
    assert torch.equal(alone, beside[..., 4:])


@BITS
def test_a_large_token_of_values_costs_the_others_nothing(bits):
    values = draw(1, 1, 32, 16)
    values[:, :, 7] *= 500
    coding = Coding(bits, 32, 16)
    got = coding.decode(coding.encode(values, values), torch.float32)[1]
    others = [token for token in range(32) if token != 7]
    alone = values[:, :, others + others[-1:]]
    assert torch.equal(
        got[:, :, others], coding.decode(coding.encode(alone, alone), torch.float32)[1][:, :, :-1]
    )


@BITS
def test_numbers_that_are_all_alike_come_back(bits):
    same = torch.full((1, 1, 4, 6), 0.375)
    for got in Coding(bits, 4, 4).decode(Coding(bits, 4, 4).encode(same, same), torch.bfloat16):
        assert got.dtype == torch.bfloat16 and torch.equal(got.float(), same)
