"""Pairs out of tables of features: those that mining in memory finds, by the samples' keys."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from paribus.analysis.disagreement import Cosines, mine, write_mined
from paribus.analysis.looks import look_at
from paribus.analysis.tiles import Blocks
from paribus.data.shards import Shards
from paribus.encoders.eyes import open_eye
from paribus.errors import UserError
from paribus.study.embed import Embedding, open_table
from paribus.study.mining import mine_tables
from paribus.types import Runtime, Share
from study import paribus
from study.test_embed import place, write_encoder  # noqa: F401 - a fixture

RUNTIME = Runtime(device="cpu")


def table(place, out, encoder, parts=1, **settings):  # noqa: F811
    source, eye = Shards(place / "index", place / "tars"), open_eye(str(encoder))
    chosen = {"precision": "fp32", "batch": 5, "digest": encoder.name * 8, "runtime": RUNTIME, **settings}
    for rank in range(parts):
        one = Embedding(out=out, source=source, eye=eye, **chosen)
        one.begin()
        one.run(Share(rank, parts))
        one.join()
    return out


@pytest.fixture(scope="module")
def tables(place, tmp_path_factory):  # noqa: F811
    """Two encoders' tables; the first has looks."""
    folder = tmp_path_factory.mktemp("tables")
    write_encoder(folder / "other", depth=3)
    one = table(place, folder / "one", place / "encoder", looks=True)
    return one, table(place, folder / "two", folder / "other")


def test_looks_are_those_of_the_pictures_whatever_the_split(place, tables, tmp_path):  # noqa: F811
    source = Shards(place / "index", place / "tars")
    found, expected = open_table(tables[0]).looks(), look_at(sample.image for sample in source)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert open_table(tables[1]).looks() is None
    parted = table(place, tmp_path / "parted", place / "encoder", parts=3, looks=True)
    for name in ("looks.safetensors", "features.npy", "table.json"):
        assert (parted / name).read_bytes() == (tables[0] / name).read_bytes()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("cosines", [None, {"a": (0.5, 0.9), "b": (0.5, 0.8)}])
def test_pairs_are_those_of_the_same_features_in_memory(place, tables, tmp_path, order, cosines):  # noqa: F811
    a, b = (tables[at] for at in order)
    source = Shards(place / "index", place / "tars")
    found = mine_tables(a, b, tmp_path / "pairs.parquet", 20, cosines, None, RUNTIME)
    thresholds = {} if cosines is None else {"thresholds": Cosines(**cosines)}
    one, two = (np.load(folder / "features.npy").astype(np.float64) for folder in (a, b))
    pictures = [sample.image for sample in source]
    expected = mine(one, two, images=pictures, keep=20, **thresholds)
    assert found.counts == expected.counts and found.pairs == expected.pairs
    assert cosines is None or found.counts["a_high_kept"] + found.counts["b_high_kept"] > 0
    write_mined(expected, [sample.key for sample in source], tmp_path / "expected.parquet")
    assert pq.read_table(tmp_path / "pairs.parquet").equals(pq.read_table(tmp_path / "expected.parquet"))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_blocks_of_samples_can_be_searched(tables, tmp_path):
    found = mine_tables(*tables, tmp_path / "pairs.parquet", 20, None, (1, 30), RUNTIME)
    one, two = (np.load(folder / "features.npy") for folder in tables)
    looks = open_table(tables[0]).looks()
    expected = mine(one, two, images=looks, keep=20, blocks=Blocks(count=1, size=30))
    assert found.pairs == expected.pairs and found.counts == expected.counts
    assert found.pairs["searched"] < 91 * 90 // 2


def test_the_command_mines_what_the_command_embedded(place, tables, tmp_path):  # noqa: F811
    more = ("--index", place / "index", "--device", "cpu", "--looks")
    for name, encoder in (("a", place / "encoder"), ("b", tables[0].parent / "other")):
        made = paribus(tmp_path, "embed", encoder, place / "tars", "--out", tmp_path / name, *more)
        assert made.code == 0, made.err
    line = ("mine", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "pairs.parquet", "--device", "cpu")
    done = paribus(tmp_path, *line, "--keep", "7", "--cosines", "0.9,0.8,0.5")
    assert done.code == 0, done.err
    rows = pq.read_table(tmp_path / "pairs.parquet").to_pylist()
    alike = sum(row["alike"] == "a" for row in rows)
    assert done.out.startswith(f"{alike} pairs alike to A and not to B, of ")
    assert all(row["left"].startswith("0000000") and "/" in row["right"] for row in rows) and rows
    assert "is there already" in paribus(tmp_path, *line).refused()
    wrong = paribus(tmp_path, *line[:3], "--out", tmp_path / "x.parquet", "--cosines", "0.9,0.8")
    assert "give three cosines" in wrong.refused()


def test_tables_that_do_not_belong_together_are_refused(place, tables, tmp_path):  # noqa: F811
    same = table(place, tmp_path / "same", place / "encoder")
    with pytest.raises(UserError, match="of the same encoder"):
        mine_tables(tables[0], same, tmp_path / "x.parquet", 5, None, None, RUNTIME)
    with pytest.raises(UserError, match="holds no finished table"):
        mine_tables(tables[0], tmp_path, tmp_path / "x.parquet", 5, None, None, RUNTIME)
    text = (tables[1] / "table.json").read_text()
    samples = open_table(tables[1]).about.setting.samples
    (tmp_path / "fewer").mkdir()
    (tmp_path / "fewer" / "table.json").write_text(text.replace(samples, "0" * 64))
    (tmp_path / "fewer" / "features.npy").write_bytes((tables[1] / "features.npy").read_bytes())
    with pytest.raises(UserError, match="of different samples"):
        mine_tables(tables[0], tmp_path / "fewer", tmp_path / "x.parquet", 5, None, None, RUNTIME)
    assert not (tmp_path / "x.parquet").exists()
