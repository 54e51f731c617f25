"""Pair mining against a brute-force program over all pairs, and the removals on pictures made for them."""

import itertools
import json

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from paribus.analysis import search
from paribus.analysis.disagreement import Cosines, Mined, Pairs, Percentiles, mine, write_mined
from paribus.analysis.looks import alike, dhash, look_at
from paribus.analysis.tiles import Blocks, plan
from paribus.errors import UserError


def encoders(n: int, seed: int = 0, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 4))
    a = np.concatenate([common, rng.normal(size=(n, 6))], axis=1) + 0.5
    return a.astype(dtype), np.concatenate([common, rng.normal(size=(n, 9))], axis=1).astype(dtype)


def brute_force(a, b, high, low, keep, per_image, cosines=None, looked=lambda i, j: True) -> dict:
    """All pairs one by one: mid-rank percentiles, thresholds, order and greedy choice, per direction."""
    pairs = list(itertools.combinations(range(len(a)), 2))
    cosine = [
        [float(x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])) for i, j in pairs] for x in (a, b)
    ]
    out = {}
    ordered = [sorted(c) for c in cosine]
    last = len(pairs) - 1
    bounds = [(o[int(low / 100 * last // 1)], o[int(-(-(high / 100 * last) // 1))]) for o in ordered]
    bounds = bounds if cosines is None else cosines
    ranks = [
        np.searchsorted(o, c, "left") + np.searchsorted(o, c, "right")
        for o, c in zip(ordered, cosine, strict=True)
    ]
    for hot, cold in ((0, 1), (1, 0)):
        found = [
            p
            for p in range(len(pairs))
            if cosine[hot][p] >= bounds[hot][1] and cosine[cold][p] <= bounds[cold][0] and looked(*pairs[p])
        ]
        found.sort(key=lambda p: (ranks[cold][p] - ranks[hot][p], cosine[cold][p] - cosine[hot][p], pairs[p]))
        uses, chosen, hubs = [0] * len(a), [], 0
        for p in found:
            i, j = pairs[p]
            if len(chosen) == keep:
                break
            if max(uses[i], uses[j]) >= per_image:
                hubs += 1
            else:
                chosen.append(p)
                uses[i], uses[j] = uses[i] + 1, uses[j] + 1
        out["ab"[hot]] = {
            "pairs": [pairs[p] for p in chosen],
            "similarity": [[cosine[0][p], cosine[1][p]] for p in chosen],
            "percentile": [[50 * ranks[0][p] / len(pairs), 50 * ranks[1][p] / len(pairs)] for p in chosen],
            "rank": [[sum(c > cosine[e][p] for c in cosine[e]) + 1 for e in (0, 1)] for p in chosen],
            "counts": (len(found), len(chosen), 0, hubs),
        }
    return out


def agree(pairs: Pairs, counts: dict[str, int], direction: str, expected: dict) -> None:
    assert list(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == expected["pairs"]
    np.testing.assert_allclose(pairs.similarity, np.reshape(expected["similarity"], (-1, 2)), atol=1e-12)
    np.testing.assert_allclose(pairs.percentile, np.reshape(expected["percentile"], (-1, 2)), atol=1e-9)
    names = ("candidates", "kept", "duplicate", "hub")
    assert tuple(counts[f"{direction}_{name}"] for name in names) == expected["counts"]


@pytest.mark.parametrize(
    ("high", "low", "keep", "per_image"), [(90.0, 50.0, 12, 2), (70.0, 60.0, 500, 3), (99.0, 50.0, 5, 1)]
)
@pytest.mark.parametrize("tile", [7, 64])
def test_mining_is_brute_force(high, low, keep, per_image, tile):
    a, b = encoders(60)
    found = mine(a, b, thresholds=Percentiles(low, high), keep=keep, per_image=per_image, tile=tile)
    expected = brute_force(a, b, high, low, keep, per_image)
    assert expected["a"]["pairs"]
    agree(found.a_high, found.counts, "a_high", expected["a"])
    agree(found.b_high, found.counts, "b_high", expected["b"])
    for pairs, name in ((found.a_high, "a"), (found.b_high, "b")):
        np.testing.assert_array_equal(pairs.rank, expected[name]["rank"])
    assert found.pairs == dict.fromkeys(("searched", "population", "reference"), 60 * 59 // 2)


@pytest.mark.parametrize(("size", "count"), [(12, 1), (12, 4), (12, 9), (30, 2)])
def test_blocks_are_brute_force_over_their_pairs(size, count):
    a, b = encoders(60)
    blocks, seed = Blocks(size=size, count=count), 6
    looked = plan(60, 7, blocks, seed)
    images, pairs = np.sort(looked.images), set()
    for each in looked.tiles:
        for i, j in itertools.product(looked.images[each.rows], looked.images[each.columns]):
            pairs.add((min(i, j), max(i, j)))
    expected = brute_force(
        a[images], b[images], 75, 55, 30, 2, looked=lambda i, j: (images[i], images[j]) in pairs
    )
    found = mine(
        a, b, thresholds=Percentiles(55.0, 75.0), keep=30, per_image=2, blocks=blocks, tile=7, seed=seed
    )
    for name, one in (("a", found.a_high), ("b", found.b_high)):
        expected[name]["pairs"] = [(images[i], images[j]) for i, j in expected[name]["pairs"]]
        assert expected[name]["pairs"]
        agree(one, found.counts, f"{name}_high", expected[name])
        np.testing.assert_array_equal(one.rank, expected[name]["rank"])
    assert found.pairs["searched"] == looked.pairs == len([each for each in pairs if each[0] < each[1]])


def test_enough_blocks_are_all_pairs():
    a, b = encoders(60)
    every = mine(a, b, thresholds=Percentiles(55.0, 75.0), keep=30)
    found = mine(a, b, thresholds=Percentiles(55.0, 75.0), keep=30, blocks=Blocks(size=9, count=99))
    assert (found.counts, found.thresholds, found.pairs) == (every.counts, every.thresholds, every.pairs)
    assert all(map(np.array_equal, found.a_high, every.a_high))
    assert all(map(np.array_equal, found.b_high, every.b_high))


def test_pairs_are_a_table(tmp_path):
    images = [picture(seed) for seed in range(40)]
    images[0] = np.full((30, 50, 3), 240, np.uint8)
    found = mine(*encoders(40), thresholds=Percentiles(60.0, 80.0), keep=6, images=images)
    write_mined(found, [f"{at}.png" for at in range(40)], tmp_path / "pairs.parquet")
    table = pq.read_table(tmp_path / "pairs.parquet")
    for name in ("counts", "pairs"):
        assert json.loads(table.schema.metadata[name.encode()]) == getattr(found, name)
    assert json.loads(table.schema.metadata[b"thresholds"]) == {
        k: list(v) for k, v in found.thresholds.items()
    }
    rows = table.to_pylist()
    assert [row["alike"] for row in rows] == ["a"] * 6 + ["b"] * 6
    for row, (left, right, similar, percentile, rank) in zip(
        rows, [*zip(*found.a_high, strict=True), *zip(*found.b_high, strict=True)], strict=True
    ):
        assert (row["left"], row["right"]) == (f"{left}.png", f"{right}.png")
        for name, values in (("similarity", similar), ("percentile", percentile), ("rank", rank)):
            assert [row[f"{name}_a"], row[f"{name}_b"]] == values.tolist()
    with pytest.raises(UserError, match="3 keys for 40 images"):
        write_mined(found, ["a", "b", "c"], tmp_path / "pairs.parquet")


def test_published_thresholds_are_cosines():
    a, b = encoders(60)
    cosines = Cosines((0.2, 0.7), (0.1, 0.6))
    expected = brute_force(a, b, 99, 50, 20, 3, cosines=cosines)
    found = mine(a, b, thresholds=cosines, keep=20, tile=17)
    assert expected["a"]["pairs"] and expected["b"]["pairs"]
    for name, pairs in (("a", found.a_high), ("b", found.b_high)):
        assert list(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == expected[name]["pairs"]
        assert pairs.percentile == pytest.approx(np.array(expected[name]["percentile"]))
    assert found.thresholds == cosines._asdict()
    with pytest.raises(UserError, match=r"cosines of b are low=0\.9, high=0\.5"):
        mine(a, b, thresholds=cosines._replace(b=(0.9, 0.5)), keep=1)


def test_looks_that_are_known_need_no_pictures():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20, 20, 3), dtype=np.uint8) for _ in range(40)]
    a, b = encoders(40)
    found = [
        mine(a, b, images=given, keep=10, thresholds=Percentiles(high=90.0))
        for given in (images, look_at(images))
    ]
    assert found[0].counts == found[1].counts
    assert all(map(np.array_equal, found[0].a_high, found[1].a_high))


@pytest.mark.parametrize("pool", [1, 5, 40])
def test_a_small_pool_takes_more_passes_and_finds_the_same(pool, monkeypatch):
    a, b = encoders(60)
    expected = mine(a, b, thresholds=Percentiles(60.0, 70.0), keep=40, per_image=2, tile=16)
    monkeypatch.setattr(search, "_POOL", pool)
    found = mine(a, b, thresholds=Percentiles(60.0, 70.0), keep=40, per_image=2, tile=16)
    assert found.counts == expected.counts
    for ours, theirs in zip(
        [*found.a_high, *found.b_high], [*expected.a_high, *expected.b_high], strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_ties_go_to_the_lower_indices():
    """Features of a few exact values, so that most gaps tie."""
    rng = np.random.default_rng(1)
    a, b = np.eye(4)[rng.integers(0, 4, 40)], np.eye(3)[rng.integers(0, 3, 40)]
    found = mine(a, b, thresholds=Percentiles(50.0, 80.0), keep=9, per_image=2, tile=11)
    expected = brute_force(a, b, 80, 50, 9, 2)
    agree(found.a_high, found.counts, "a_high", expected["a"])
    agree(found.b_high, found.counts, "b_high", expected["b"])


def test_sampled_percentiles_are_close_to_exact_ones():
    a, b = encoders(500, dtype=np.float32)
    exact, sampled = mine(a, b, keep=20), mine(a, b, keep=20, sample=60_000, seed=4)
    assert exact.thresholds != sampled.thresholds
    assert sampled.pairs == {"searched": 124_750, "population": 124_750, "reference": 60_000}
    assert set(sampled.a_high.left) & set(exact.a_high.left)
    assert (sampled.a_high.rank >= 1).all() and (sampled.a_high.rank <= 124_750).all()
    np.testing.assert_allclose(
        sampled.a_high.rank, (1 - sampled.a_high.percentile / 100) * 124_750 + 0.5, atol=1
    )
    for name in "ab":
        np.testing.assert_allclose(exact.thresholds[name], sampled.thresholds[name], atol=0.01)
    again = mine(a, b, keep=20, sample=60_000, seed=4)
    np.testing.assert_array_equal(sampled.a_high.left, again.a_high.left)
    assert sampled.thresholds == again.thresholds
    assert sampled.thresholds != mine(a, b, keep=20, sample=60_000, seed=5).thresholds


def test_percentile_thresholds_do_not_see_anisotropy():
    """A common offset raises every cosine; fixed thresholds would drown, percentiles find the same."""
    a, b = encoders(300)
    shifted = a / np.linalg.norm(a, axis=1, keepdims=True)
    shifted = np.concatenate([shifted, np.full((300, 1), 3.0)], axis=1)
    plain, offset = mine(a, b, keep=30), mine(shifted, b, keep=30)
    assert offset.thresholds["a"][0] > 0.85 > plain.thresholds["a"][1]
    for ours, theirs in zip(plain.a_high, offset.a_high, strict=True):
        if ours.ndim == 1:
            np.testing.assert_array_equal(ours, theirs)


def test_an_encoder_never_disagrees_with_itself():
    a, _ = encoders(80)
    found = mine(a, a, keep=10)
    assert found.counts["a_high_candidates"] == found.counts["b_high_candidates"] == 0
    assert found.a_high.similarity.shape == (0, 2)


def picture(seed: int, colour: tuple[int, int, int] | None = None) -> np.ndarray:
    """A smooth random picture, or a coloured disc pattern of the seed's shape."""
    rng = np.random.default_rng(seed)
    if colour is None:
        return cv2.resize(
            rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (48, 48), interpolation=cv2.INTER_CUBIC
        )
    mask = cv2.resize(rng.random((5, 5)), (48, 48)) > 0.5
    return np.where(mask[..., None], np.array(colour, np.uint8), np.uint8(255))


def compressed(image: np.ndarray) -> np.ndarray:
    """The same picture after a smaller size, brightness noise and JPEG."""
    small = cv2.resize(image, (40, 40), interpolation=cv2.INTER_AREA)
    return cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_COLOR)


def loop_steps(image: np.ndarray) -> list[float]:
    """The 64 steps of a 72 x 72 picture, cell by cell over float means, without cv2's resize."""
    grey = image.astype(float) @ [0.299, 0.587, 0.114]
    cells = [[grey[9 * r : 9 * r + 9, 8 * c : 8 * c + 8].mean() for c in range(9)] for r in range(8)]
    return [cells[r][c + 1] - cells[r][c] for r in range(8) for c in range(8)]


def test_dhash_is_the_loop():
    for seed in range(5):
        image = cv2.resize(picture(seed), (72, 72))
        for bit, step in zip(f"{dhash(image):064b}", loop_steps(image), strict=True):
            if abs(step - 4) > 1.5:  # nearer, the rounding of the cells decides
                assert bit == str(int(step > 4))


def test_near_duplicates_are_alike_and_recoloured_or_other_pictures_are_not():
    shape_red, shape_blue = picture(1, (200, 30, 30)), picture(1, (30, 30, 200))
    images = [picture(0), compressed(picture(0)), picture(7), shape_red, shape_blue, compressed(shape_red)]
    looks = look_at(images)
    left, right = np.array([0, 0, 3, 3]), np.array([1, 2, 4, 5])
    assert alike(looks, left, right, 6).tolist() == [True, False, False, True]
    assert (dhash(shape_red) ^ dhash(shape_blue)).bit_count() <= 6  # dHash alone would call them one picture


def opposed(n: int, pairs: list[tuple[int, int]], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random encoders, but ``a`` finds the given pairs alike and ``b`` does not."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, 64)), rng.normal(size=(n, 64))
    for i, j in pairs:
        a[j] = a[i] + 0.05 * rng.normal(size=64)
        b[j] = -b[i]
    return a, b


def chosen(found: Mined) -> set[tuple[int, int]]:
    return set(zip(found.a_high.left.tolist(), found.a_high.right.tolist(), strict=True))


def test_duplicate_pairs_are_passed_over_and_counted():
    images = [picture(seed) for seed in range(40)]
    images[1] = compressed(images[0])
    a, b = opposed(40, [(0, 1), (2, 3)])
    assert {(0, 1), (2, 3)} <= chosen(mine(a, b, keep=2))
    found = mine(a, b, keep=2, images=images)
    assert (2, 3) in chosen(found)
    assert (0, 1) not in chosen(found)
    assert found.counts["a_high_duplicate"] == 1


def test_placeholders_are_dropped_and_indices_stay_the_callers():
    images = [picture(seed) for seed in range(40)]
    images[0] = np.full((30, 50, 3), 240, np.uint8)
    images[5] = np.full((48, 48, 3), (10, 200, 30), np.uint8)
    images[5][20, 20] += 1
    a, b = opposed(40, [(0, 1), (5, 6), (8, 9)])
    found = mine(a, b, keep=1, images=images)
    assert found.counts["placeholder_images"] == 2
    assert chosen(found) == {(8, 9)}
    assert found.counts["images"] == 40


def planted(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Pictures 0 to 3 are one, so are 10 and 11; ``a`` finds the given pairs alike, ``b`` opposite."""
    images = [picture(seed) for seed in range(60)]
    for copy, original in ((1, 0), (2, 0), (3, 0), (11, 10)):
        images[copy] = compressed(images[original])
    a, b = opposed(60, [])
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(len(pairs), 64))
    a[[i for i, _ in pairs]] = 0
    for direction, (i, j) in zip(directions, pairs, strict=True):
        a[i] += direction
        a[j], b[j] = direction + 0.01 * rng.normal(size=64), -b[i]
    return a, b, images


@pytest.mark.parametrize("mirrored", [False, True])
def test_copies_of_a_hub_share_one_hub_count(mirrored):
    pairs = [(0, 20), (1, 21), (2, 22), (3, 23), (28, 31)]
    a, b, images = planted(pairs)
    if mirrored:  # the hub's copies are then the right ones of their pairs
        a, b, images = a[::-1], b[::-1], images[::-1]
        pairs = [(59 - j, 59 - i) for i, j in pairs]
    hub = {59 - i for i in range(4)} if mirrored else set(range(4))
    assert chosen(mine(a, b, keep=5, per_image=2)) == set(pairs)
    found = mine(a, b, keep=5, per_image=2, images=images)
    assert len([pair for pair in chosen(found) if hub & set(pair)]) == 2
    assert (28, 31) in chosen(found)
    assert found.counts["a_high_hub"] >= 2


def test_a_pair_that_looks_like_a_kept_one_is_passed_over():
    pairs = [(0, 10), (1, 11), (30, 31)]
    a, b, images = planted(pairs)
    assert chosen(mine(a, b, keep=3)) == set(pairs)
    found = mine(a, b, keep=3, images=images)
    assert len(chosen(found) & set(pairs[:2])) == 1
    assert (30, 31) in chosen(found)
    assert found.counts["a_high_repeat"] == 1


def test_hub_cap_holds_in_each_direction():
    a, b = encoders(120)
    found = mine(a, b, thresholds=Percentiles(60.0, 80.0), keep=200, per_image=2)
    for pairs in (found.a_high, found.b_high):
        assert np.bincount(np.concatenate([pairs.left, pairs.right])).max() == 2
        assert (pairs.left < pairs.right).all()


def test_half_precision_features_are_accepted():
    a, b = encoders(50, dtype=np.float16)
    assert len(mine(a, b, thresholds=Percentiles(high=80.0), keep=4).a_high.left) == 4


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"b": np.ones((9, 3))}, "30 and 9"),
        ({"thresholds": Percentiles(high=40.0)}, "low=50.0, high=40.0"),
        ({"keep": 0}, "keep=0"),
        ({"a": np.ones((30, 4))}, "Encoder a finds"),
        ({"images": [np.zeros((8, 8, 3), np.uint8)] * 30}, "Only 0 of 30"),
        ({"images": [picture(0)] * 29}, "29 images for 30"),
        ({"images": [np.zeros((8, 8), np.uint8)] * 30}, "Image 0 is uint8"),
    ],
)
def test_bad_input_is_named(change, names):
    a, b = encoders(30)
    with pytest.raises(UserError, match=names):
        mine(**{"a": a, "b": b, "keep": 5, **change})
