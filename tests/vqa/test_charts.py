"""Charts against the tables they are drawn from, and against areas counted in pixels."""

import csv
import json

import numpy as np
import pytest

from paribus.data.art import Art
from paribus.data.draw import COLOURS
from paribus.errors import UserError
from paribus.vqa.charts import SERIES, STATES, TABLES, Row, bars, pick, pie, read_columns, table

RED, GREEN, BLUE = COLOURS["red"], COLOURS["green"], COLOURS["blue"]


@pytest.fixture(scope="module")
def folder(art_folder):
    return Art(art_folder).table_folder


@pytest.fixture(scope="module")
def font(art_folder):
    return Art(art_folder).fonts[0].path


def _area(image, colour):
    return int((np.abs(image.astype(int) - np.array(colour)).sum(-1) < 60).sum())


def test_rows_are_those_of_the_files(folder):
    obesity = {r["state"]: r["rate"] for r in json.loads((folder / "obesity.json").read_text())}
    codes = {r["id"]: r["state"] for r in json.loads((folder / "obesity.json").read_text())}
    with (folder / "population_engineers_hurricanes.csv").open() as handle:
        people = {codes.get(int(r["id"])): float(r["population"]) for r in csv.DictReader(handle)}
    seen = []
    for split in ("train", "test"):
        rates, population, *_ = read_columns(folder, STATES, split)
        for row in rates:
            assert row.value == pytest.approx(100 * obesity[row.label]) and row.text == f"{row.value:.0f}"
        for row in population:
            assert row.value == pytest.approx(people[row.label] / 1e6) and row.text == f"{row.value:.1f}"
        seen += [row.label for row in rates]
    assert sorted(seen) == sorted(label for label in obesity if len(label) == 2)


def test_every_column_has_rows_to_draw_in_both_splits(folder):
    for split in ("train", "test"):
        for column, rows in zip(
            (*TABLES, *SERIES), read_columns(folder, (*TABLES, *SERIES), split), strict=True
        ):
            assert len(rows) >= 2, column
            assert all(row.value > 0 for row in rows)
            assert all((2 <= len(row.label) <= 5) if column.label else row.label == "" for row in rows)


def test_about_a_quarter_of_the_labels_are_for_test(folder):
    labels = {
        s: {r.label for rows in read_columns(folder, TABLES, s) for r in rows} for s in ("train", "test")
    }
    assert not labels["train"] & labels["test"]
    assert 0.2 < len(labels["test"]) / (len(labels["train"]) + len(labels["test"])) < 0.3


def test_a_missing_or_damaged_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"obesity\.json"):
        read_columns(tmp_path, STATES[:1], "train")
    (tmp_path / "obesity.json").write_text("[1, 2")
    with pytest.raises(UserError, match=r"obesity\.json"):
        read_columns(tmp_path, STATES[:1], "train")
    (tmp_path / "obesity.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="not a list of rows"):
        read_columns(tmp_path, STATES[:1], "train")


def test_picked_rows_keep_the_gap(folder):
    tables = read_columns(folder, SERIES, "train")
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = sorted(row.value for row in pick(tables, rng, gap=0.12, low=0.15))
        assert min(np.diff(values)) >= 0.12 * values[-1] and values[0] >= 0.15 * values[-1]
    with pytest.raises(RuntimeError, match="No 4 rows"):
        pick([[Row("a", 1.0, "1")] * 5], rng)


@pytest.mark.parametrize("horizontal", [False, True])
@pytest.mark.parametrize("size", [48, 96])
def test_bars_areas_are_proportional(size, horizontal):
    image = bars([1.0, 2.0, 4.0], [RED, GREEN, BLUE], size, horizontal=horizontal)
    areas = [_area(image, colour) for colour in (RED, GREEN, BLUE)]
    assert image.shape == (size, size, 3)
    np.testing.assert_allclose(np.array(areas) / areas[2], [0.25, 0.5, 1.0], atol=0.06)


def test_horizontal_bars_start_at_the_left():
    image = bars([1.0, 4.0], [RED, BLUE], 48, horizontal=True)
    blue = np.argwhere(np.abs(image.astype(int) - np.array(BLUE)).sum(-1) < 60)
    red = np.argwhere(np.abs(image.astype(int) - np.array(RED)).sum(-1) < 60)
    assert blue[:, 1].min() == red[:, 1].min() < 6
    assert blue[:, 1].max() > 2 * red[:, 1].max()
    assert red[:, 0].max() < blue[:, 0].min()


def test_pie_areas_are_proportional():
    for turn in (0.0, 77.0, 300.0):
        image = pie([1.0, 2.0, 5.0], [RED, GREEN, BLUE], 96, turn=turn)
        areas = np.array([_area(image, colour) for colour in (RED, GREEN, BLUE)], float)
        np.testing.assert_allclose(areas / areas.sum(), [1 / 8, 2 / 8, 5 / 8], atol=0.02)


def test_labels_stand_under_their_bars(font):
    values, fills = [3.0, 2.0, 4.0], [RED, GREEN, BLUE]
    one = bars(values, fills, 96, labels=["NY", "CA", "TX"], font=font)
    other = bars(values, fills, 96, labels=["CA", "NY", "TX"], font=font)
    # Swapping two labels changes the foot under these two bars, and no bar.
    np.testing.assert_array_equal(one[:68], other[:68])
    assert (one[72:, :64] != other[72:, :64]).any()
    np.testing.assert_array_equal(one[:, 66:], other[:, 66:])
    assert (one[72:] < 100).all(-1).any()


def test_table_rows_stand_in_their_order(font):
    rows = [Row("Peru", 71.0, "71"), Row("Chad", 58.0, "58")]
    one, other = table(rows, 48, font), table(rows[::-1], 48, font)
    np.testing.assert_array_equal(one[2:22], other[26:46])
    np.testing.assert_array_equal(one[26:46], other[2:22])
    assert (one[:24] != one[24:]).any()


def test_nothing_is_cut_off(art_folder):
    for face in Art(art_folder).fonts:
        rows = [Row("MWmgj", 888.0, "888"), Row("Wg", 1.5, "12.5"), Row("ily", 1.0, "1"), Row("AL", 2.0, "2")]
        image = table(rows, 48, face.path)
        assert (image[:, 0] > 120).all() and (image[:, -1] > 120).all()
        assert (image[0] > 120).all() and (image[-1] > 120).all()
