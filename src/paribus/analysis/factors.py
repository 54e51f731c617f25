"""Which factors make two images alike to an encoder: a regression over pairs, bootstrapped over images.

A factor is a label of each image, which a pair shares or does not, or a number of each pair (``measured``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from paribus.analysis.similarity import unit
from paribus.errors import UserError
from paribus.rng import numpy_rng
from paribus.stats import Estimate, from_draws, resample_counts

Factors = dict[str, Shaped[np.ndarray, "..."]]
"""Factor -> its value for each image [N], strings; the empty one means "has none" and is never shared. Or how
alike each two images are in it [N N], numbers; the diagonal is not looked at."""

_FEWEST_GROUPS = 100
"""A subsample holds at least this many concepts where there are as many."""
_STILL = 1e-12
"""Variance of cosines, of which all pairs' is 1, that is nothing but rounding."""


@dataclass(frozen=True)
class FactorEffects:
    """What sharing each factor adds to an encoder's cosine, in standard deviations of its own pairs.

    ``coefficient`` is per sharing it, of a number per its standard deviation over pairs; ``beta`` is per
    standard deviation for all, so that factors can be held against each other. The interval of ``unique_r2``
    begins at 0 where the coefficient's holds 0: a square is never below 0, and a resample has noise besides
    the sample's own, so that percentiles alone would leave 0 out even where a factor explains nothing.
    """

    coefficient: dict[str, Estimate]
    beta: dict[str, Estimate]
    unique_r2: dict[str, Estimate]
    r2: Estimate
    images: int
    pairs: int
    shared: dict[str, int]
    left_out: dict[str, str]


@dataclass(frozen=True)
class FactorDifference:
    """Two encoders on the same images and draws, and a minus b."""

    a: FactorEffects
    b: FactorEffects
    coefficient: dict[str, Estimate]
    beta: dict[str, Estimate]
    unique_r2: dict[str, Estimate]


@dataclass(frozen=True)
class _Design:
    """What is the same for every encoder. Row 0 of ``weights`` is the sample itself, the others are draws."""

    names: tuple[str, ...]
    left_out: dict[str, str]
    rows: Int[np.ndarray, " n"]
    numbers: Bool[np.ndarray, " F"]
    indicators: Float[np.ndarray, "F n n"]
    weights: Float[np.ndarray, "draws n"]
    total: Float[np.ndarray, " draws"]
    mean: Float[np.ndarray, "draws F"]
    covariance: Float[np.ndarray, "draws F F"]


@dataclass(frozen=True)
class _Fit:
    """The regression in every draw: coefficients in both units, drop-one R2 and R2."""

    coefficient: Float[np.ndarray, "draws F"]
    beta: Float[np.ndarray, "draws F"]
    unique: Float[np.ndarray, "draws F"]
    r2: Float[np.ndarray, " draws"]


def factor_effects(
    features: Float[np.ndarray, "N D"], factors: Factors, *, seed: int, draws: int = 500, limit: int = 1200
) -> FactorEffects:
    """Regress the cosine of image pairs on the indicators "the pair shares factor f", all factors at once.

    The cosine is standardised to unit variance over pairs, so a coefficient says by how many standard
    deviations of *this encoder's* similarities a pair rises when it shares the factor and nothing else
    changes; encoders with different cosine ranges become comparable. ``unique_r2`` is the R2 lost when the
    factor is dropped. Where factors are nested (one concept implies one subgroup), the inner coefficient is
    what sharing the concept adds *beyond* sharing its subgroup.

    Pairs are not independent, so images are resampled, not pairs: a pair weighs w_i w_j in a draw, a picture
    is never paired with its own copy, and the cosine is standardised anew in each draw. ``n`` of every
    estimate is the number of images. A factor that no pair or every pair shares, or that the factors before
    it determine, is left out and named with the reason. More than ``limit`` images: see ``subsample``.

    Raises:
        UserError: lengths that differ, no usable factor, or an encoder that finds all pairs equally alike.
    """
    design = _design(factors, len(features), seed=seed, draws=draws, limit=limit)
    return _effects(design, _fit(design, features, "the encoder"))


def factor_difference(
    features_a: Float[np.ndarray, "N Da"],
    features_b: Float[np.ndarray, "N Db"],
    factors: Factors,
    *,
    seed: int,
    draws: int = 500,
    limit: int = 1200,
) -> FactorDifference:
    """``factor_effects`` of two encoders on the same images and the same draws, and their paired difference.

    Raises:
        UserError: as ``factor_effects``.
    """
    design = _design(factors, len(features_a), seed=seed, draws=draws, limit=limit)
    a, b = _fit(design, features_a, "the first encoder"), _fit(design, features_b, "the second encoder")
    return FactorDifference(
        a=_effects(design, a),
        b=_effects(design, b),
        coefficient=_estimates(design, a.coefficient - b.coefficient),
        beta=_estimates(design, a.beta - b.beta),
        unique_r2=_estimates(design, a.unique - b.unique),
    )


def shares(labels: Shaped[np.ndarray, " n"], rows: slice = slice(None)) -> Bool[np.ndarray, "rows n"]:
    """Which images have the same value as each image of ``rows``, an empty one excepted; never oneself."""
    names, code = np.unique(labels, return_inverse=True)
    has = (names != "")[code]
    same: Bool[np.ndarray, "rows n"] = (code[rows, None] == code) & has
    at = np.arange(len(code))[rows]
    same[np.arange(len(at)), at] = False
    return same


def subsample(factors: Factors, *, limit: int, seed: int) -> Int[np.ndarray, " n"]:
    """At most ``limit`` images, concept by concept in a keyed order, so that pairs sharing a concept remain.

    The concept is the factor of that name, or else the first one that is a label; an image without one is its
    own concept.
    Whole concepts are taken, but of large ones no more than ``limit`` / 100 images (more where there are
    fewer than 100 concepts), a keyed choice, so that a few large concepts cannot fill the sample. Sorted.
    """
    n = len(next(iter(factors.values())))
    if n <= limit:
        return np.arange(n)
    told = {name: values for name, values in factors.items() if values.ndim == 1} or {"none": np.full(n, "")}
    labels = told.get("concept", next(iter(told.values())))
    rng = numpy_rng(seed, "factors", "subsample")
    shuffled = rng.permutation(n)
    names = np.array([label or f"\0{at}" for at, label in enumerate(labels.tolist())])
    _, group = np.unique(names, return_inverse=True)
    group = rng.permutation(int(group.max()) + 1)[group]
    order = shuffled[np.argsort(group[shuffled], kind="stable")]
    first = np.searchsorted(group[order], group[order])
    groups = int(group.max()) + 1
    most = max(2, limit // min(groups, _FEWEST_GROUPS))
    return np.sort(order[np.arange(n) - first < most][:limit])


def check_factors(factors: Factors, images: int) -> None:
    """Every factor has one string for each image or one number for each two, and there is at least one.

    Raises:
        UserError: otherwise.
    """
    if not factors:
        raise UserError("There are no factors to analyse: give at least one, such as a class label.")
    for name, labels in factors.items():
        if len(labels) != images:
            raise UserError(
                f"Factor {name!r} has {len(labels)} values for {images} images: give one for each."
            )
        if labels.ndim == 2:
            _check_numbers(name, labels, images)
        elif labels.dtype.kind != "U":
            raise UserError(f"Factor {name!r} holds {labels.dtype} values: give strings, empty for none.")


def _check_numbers(name: str, values: Shaped[np.ndarray, "..."], images: int) -> None:
    if values.shape != (images, images) or values.dtype.kind != "f":
        raise UserError(
            f"Factor {name!r} holds {values.dtype} values of shape {list(values.shape)} for {images} images: "
            "give a number for each two."
        )
    if not (np.isfinite(values).all() and np.allclose(values, values.T)):
        raise UserError(
            f"Factor {name!r} has numbers that are not finite, or not the same both ways: mend them."
        )


def _alikeness(values: Shaped[np.ndarray, "..."], rows: Int[np.ndarray, " n"]) -> Shaped[np.ndarray, "n n"]:
    """How alike some images are in a factor: whether they share it, or numbers of mean 0 and variance 1."""
    if values.ndim == 1:
        return shares(values[rows])
    chosen: Float[np.ndarray, "n n"] = values[np.ix_(rows, rows)].astype(np.float64)
    pairs = chosen[~np.eye(len(rows), dtype=bool)]
    spread = float(pairs.std())
    chosen = (chosen - pairs.mean()) / spread if spread > 1e-9 else np.zeros_like(chosen)
    np.fill_diagonal(chosen, 0.0)
    return chosen


def _design(factors: Factors, images: int, *, seed: int, draws: int, limit: int) -> _Design:
    check_factors(factors, images)
    rows = subsample(factors, limit=limit, seed=seed)
    indicators = {name: _alikeness(values, rows) for name, values in factors.items()}
    names, left_out = _usable(indicators)
    if not names:
        raise UserError(f"No factor can be analysed ({_reasons(left_out)}): give one that some pairs share.")
    numbers = np.array([indicators[name].dtype.kind == "f" for name in names])
    kept = np.stack([indicators[name] for name in names]).astype(np.float64)
    counts = resample_counts(len(rows), seed=seed, draws=draws)
    weights = np.concatenate([np.ones((1, len(rows))), counts])
    total, mean, covariance = _moments(weights, kept)
    return _Design(names, left_out, rows, numbers, kept, weights, total, mean, covariance)


def _reasons(left_out: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in left_out.items())


def _constant(alike: Shaped[np.ndarray, "n n"]) -> str:
    """Why a factor can tell no pair from another; empty if it can."""
    if alike.dtype.kind == "f":
        return "" if alike.any() else "all pairs are equally alike in it"
    count, n = int(alike.sum()), len(alike)
    return {0: "no pair shares it", n * (n - 1): "every pair shares it"}.get(count, "")


def _usable(indicators: dict[str, Shaped[np.ndarray, "n n"]]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Factors whose indicators vary and do not follow from those before, and why others are left out."""
    kept: list[str] = []
    left_out: dict[str, str] = {}
    for name, alike in indicators.items():
        n, why = len(alike), _constant(alike)
        if why:
            left_out[name] = why
            continue
        stack = np.stack([indicators[f] for f in [*kept, name]]).astype(np.float64)
        _, _, covariance = _moments(np.ones((1, n)), stack)
        scale = np.sqrt(np.diagonal(covariance[0]))
        if np.linalg.matrix_rank(covariance[0] / np.outer(scale, scale), tol=1e-8, hermitian=True) <= len(
            kept
        ):
            left_out[name] = f"it is determined by {', '.join(kept)}"
        else:
            kept.append(name)
    return tuple(kept), left_out


def _quadratic(
    weights: Float[np.ndarray, "draws n"], matrix: Float[np.ndarray, "n n"]
) -> Float[np.ndarray, " draws"]:
    """The sum w' M w of every draw: ordered pairs, each weighted w_i w_j; M has a zero diagonal."""
    out: Float[np.ndarray, " draws"] = np.einsum("dn,dn->d", weights @ matrix, weights)
    return out


def _moments(
    weights: Float[np.ndarray, "draws n"], indicators: Float[np.ndarray, "F n n"]
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, "draws F"], Float[np.ndarray, "draws F F"]]:
    """Total pair weight, and means and covariances of the indicators over weighted pairs."""
    total = np.maximum(weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1), 1.0)  # 0 of one image alone
    count = len(indicators)
    product = np.empty((len(weights), count, count))
    for f in range(count):
        for g in range(f, count):
            product[:, f, g] = product[:, g, f] = _quadratic(weights, indicators[f] * indicators[g]) / total
    mean = np.stack([_quadratic(weights, z) for z in indicators], axis=1) / total[:, None]
    return total, mean, product - mean[:, :, None] * mean[:, None, :]


def _fit(design: _Design, features: Float[np.ndarray, "N D"], whose: str) -> _Fit:
    """Least squares in every draw from second moments; unique R2_f is b_f^2 / (C^-1)_ff over the variance."""
    cosine = _standard_cosines(features[design.rows], whose)
    w, total = design.weights, design.total
    mean = _quadratic(w, cosine) / total
    variance = _quadratic(w, cosine**2) / total - mean**2
    # Of few images a draw can hold but one pair, whose cosine does not vary: it says 0 too.
    variance = np.where(variance > _STILL, variance, np.inf)
    product = np.stack([_quadratic(w, z * cosine) for z in design.indicators], axis=1) / total[:, None]
    covariance = product - design.mean * mean[:, None]
    # A draw can miss every pair that shares a rare factor; the pseudo-inverse then gives it coefficient 0.
    inverse = np.linalg.pinv(design.covariance, rcond=1e-10, hermitian=True)
    slope = np.einsum("dfg,dg->df", inverse, covariance)
    own = np.diagonal(inverse, axis1=1, axis2=2)
    unique = np.divide(slope**2, own, out=np.zeros_like(slope), where=own > 0)
    explained = np.einsum("df,df->d", slope, covariance)
    coefficient = slope / np.sqrt(variance)[:, None]
    spread = np.sqrt(np.maximum(np.diagonal(design.covariance, axis1=1, axis2=2), 0.0))
    # Of a number, by its spread in the draw: by the sample's, the interval would forget that it is estimated.
    per = np.where(design.numbers, spread, 1.0)
    return _Fit(coefficient * per, coefficient * spread, unique / variance[:, None], explained / variance)


def _standard_cosines(features: Float[np.ndarray, "n D"], whose: str) -> Float[np.ndarray, "n n"]:
    """All pairs' cosines, mean 0 and variance 1 over pairs, zero diagonal."""
    rows = unit(features.astype(np.float64))
    cosine: Float[np.ndarray, "n n"] = rows @ rows.T
    pairs = cosine[~np.eye(len(rows), dtype=bool)]
    spread = float(pairs.std())
    # Below this, what varies is the rounding of float32 features.
    if spread < 1e-9:
        raise UserError(f"All image pairs are equally alike to {whose}: it has collapsed, so leave it out.")
    cosine = (cosine - pairs.mean()) / spread
    np.fill_diagonal(cosine, 0.0)
    return cosine


def _estimates(design: _Design, draws: Float[np.ndarray, "draws F"]) -> dict[str, Estimate]:
    n = len(design.rows)
    return {name: from_draws(draws[0, f], draws[1:, f], n) for f, name in enumerate(design.names)}


def _effects(design: _Design, fit: _Fit) -> FactorEffects:
    n = len(design.rows)
    coefficient, unique = _estimates(design, fit.coefficient), _estimates(design, fit.unique)
    return FactorEffects(
        coefficient=coefficient,
        beta=_estimates(design, fit.beta),
        unique_r2={name: _from_zero(found, coefficient[name]) for name, found in unique.items()},
        r2=from_draws(fit.r2[0], fit.r2[1:], n),
        images=n,
        pairs=n * (n - 1) // 2,
        shared=_shared_pairs(design.names, design.indicators),
        left_out=design.left_out,
    )


def _from_zero(unique: Estimate, coefficient: Estimate) -> Estimate:
    return unique._replace(low=0.0) if coefficient.low <= 0.0 <= coefficient.high else unique


def _shared_pairs(names: Sequence[str], indicators: Float[np.ndarray, "F n n"]) -> dict[str, int]:
    """How many pairs share each factor that is a label."""
    labels = [(name, z) for name, z in zip(names, indicators, strict=True) if np.isin(z, (0.0, 1.0)).all()]
    return {name: round(float(z.sum()) / 2) for name, z in labels}
