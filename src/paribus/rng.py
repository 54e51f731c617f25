"""Randomness as a pure function of names and counters.

One root seed is hashed into named streams, so that adding a text tower cannot move the encoder's initial
weights, and a resumed run needs no saved generator: what is drawn depends on the seed, the stream's name
and the counters only.
"""

import contextlib
import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)


def stream(*parts: str | int) -> int:
    """Hash a seed and any names or counters into a 63-bit seed.

    Example: ``stream(0, "encoder")``, ``stream(0, "dropout", step)``.
    """
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def key_id(key: str) -> int:
    """A sample key's 64-bit name, the form in which the order is digested and views are keyed."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def mix(values: U64) -> U64:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): a bijection of 64-bit words that looks random."""
    with np.errstate(over="ignore"):
        z = values + _STEP
        z = (z ^ (z >> np.uint64(30))) * _MIX1
        z = (z ^ (z >> np.uint64(27))) * _MIX2
    out: U64 = z ^ (z >> np.uint64(31))
    return out


def uniforms(seed: int, ids: U64, slots: int) -> NDArray[np.float64]:
    """Uniforms in [0, 1), ``[len(ids), slots]``: row i depends on ``seed`` and ``ids[i]`` only."""
    base = mix(ids ^ mix(np.full(1, seed, np.uint64)))
    with np.errstate(over="ignore"):
        counters = base[:, None] + np.arange(1, slots + 1, dtype=np.uint64)[None, :] * _STEP
    bits = mix(mix(counters)) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


@contextlib.contextmanager
def torch_seed(*parts: str | int) -> Iterator[None]:
    """Run a block under its own torch stream and leave the global generators as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(stream(*parts))
        yield


def numpy_rng(*parts: str | int) -> np.random.Generator:
    """A NumPy generator for the named stream."""
    return np.random.default_rng(stream(*parts))
