"""Named streams and keyed uniforms: published vectors, independence, and no global state touched."""

import hashlib
import random

import numpy as np
import torch
from scipy.stats import chisquare, kstest

from paribus.rng import key_id, mix, numpy_rng, stream, torch_seed, uniforms

STEP = 0x9E3779B97F4A7C15


def words(*values):
    return np.array(values, dtype=np.uint64)


def test_mix_gives_the_published_splitmix64_sequence():
    """The first outputs for state 1234567, as Rosetta Code and Vigna's splitmix64.c give them."""
    states = words(*[(1234567 + k * STEP) % 2**64 for k in range(5)])
    assert mix(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_mix_is_the_same_in_whole_numbers_and_never_collides():
    def slow(z):
        z = (z + STEP) % 2**64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    values = [0, 1, 2**64 - 1, *(random.Random(0).getrandbits(64) for _ in range(200))]
    assert mix(words(*values)).tolist() == [slow(value) for value in values]
    assert len(np.unique(mix(np.arange(100_000, dtype=np.uint64)))) == 100_000


def test_streams_differ_by_seed_name_and_counter_and_not_by_how_parts_are_cut():
    names = [(0,), (1,), (0, "encoder"), (0, "heads"), (1, "encoder"), (0, "step", 1), (0, "step", 11)]
    names += [(0, "step1", 1), ("a", "bc"), ("ab", "c"), ("abc",)]
    made = [stream(*parts) for parts in names]
    assert len(set(made)) == len(names)
    assert all(0 <= value < 2**63 for value in made)
    assert stream(0, "encoder") == stream(0, "encoder")


def test_key_id_is_blake2b_and_needs_all_64_bits():
    assert key_id("noto/1f431") == int.from_bytes(
        hashlib.blake2b(b"noto/1f431", digest_size=8).digest(), "little"
    )
    assert max(key_id(f"sample/{i}") for i in range(50)) >= 2**63


def test_uniforms_depend_on_seed_and_id_only():
    ids = mix(np.arange(50, dtype=np.uint64))
    whole = uniforms(7, ids, 9)
    assert np.array_equal(whole[::-1], uniforms(7, ids[::-1].copy(), 9))
    assert np.array_equal(whole[13:14], uniforms(7, ids[13:14], 9))
    assert np.array_equal(whole[:, :4], uniforms(7, ids, 4)), "more slots must not move the first ones"
    assert not np.any(whole == uniforms(8, ids, 9))


def test_uniforms_are_uniform_and_independent_for_ids_and_seeds_that_count_up():
    draws = uniforms(0, np.arange(4000, dtype=np.uint64), 6)
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    for column in draws.T:
        assert kstest(column, "uniform").pvalue > 1e-4
    correlations = np.corrcoef(draws.T) - np.eye(6)
    assert np.abs(correlations).max() < 4.5 / np.sqrt(4000)
    over_seeds = np.concatenate([uniforms(seed, words(5), 1)[0] for seed in range(4000)])
    assert kstest(over_seeds, "uniform").pvalue > 1e-4
    pairs = (draws[:-1, 0] * 4).astype(int) * 4 + (draws[1:, 0] * 4).astype(int)
    assert chisquare(np.bincount(pairs, minlength=16)).pvalue > 1e-4


def test_torch_seed_repeats_and_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with torch_seed(0, "encoder"):
        first = torch.randn(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(100)
    with torch_seed(0, "encoder"):
        assert torch.equal(torch.randn(5), first)
    with torch_seed(0, "heads"):
        assert not torch.equal(torch.randn(5), first)


def test_torch_seed_gives_the_generator_back_after_an_error():
    before = torch.get_rng_state()
    try:
        with torch_seed(0, "x"):
            torch.rand(3)
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_numpy_generators_repeat_by_name():
    assert np.array_equal(numpy_rng(0, "a").random(4), numpy_rng(0, "a").random(4))
    assert not np.array_equal(numpy_rng(0, "a").random(4), numpy_rng(0, "b").random(4))
