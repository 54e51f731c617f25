"""The corpus built from the fixture: splits, determinism, damage, captions, digests; the whole art's plan."""

import json
import os
import pickle
import shutil
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from paribus.data import glyphs as glyphs_module
from paribus.data.art import Art, package_digest, read_pins
from paribus.data.captions import CAPTION_POLICIES, caption
from paribus.data.draw import COLOURS, SvgArt, contrast
from paribus.data.glyphs import (
    COLUMNS,
    SPLITS,
    UNSUITABLE,
    Families,
    Glyphs,
    GlyphsConfig,
    build,
    choose_words,
    contact_sheet,
    edit_distances,
    family,
    part_words,
    read_meta,
    verify,
    word_candidates,
)
from paribus.data.source import SOURCES, source_class
from paribus.errors import UserError

ICONS = Path(__file__).parents[1] / "fixtures" / "icons"
PINS = ICONS / "art.json"
CONFIG = GlyphsConfig(words=15)
FULL = os.environ.get("PARIBUS_ART", "")
needs_full = pytest.mark.skipif(not Path(FULL).is_dir() or not FULL, reason="PARIBUS_ART names no art folder")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "glyphs"
    build(CONFIG, ICONS, folder, 1, pins=PINS)
    return folder


@pytest.fixture(scope="module")
def everything(corpus):
    return Glyphs(corpus, splits=SPLITS)


def rows_of(glyphs: Glyphs) -> list[dict[str, str]]:
    return [{name: str(glyphs.columns[name][row]) for name in COLUMNS} for row in range(len(glyphs))]


# Splits.


def test_families_join_what_is_drawn_alike():
    assert family("man-astronaut") == family("woman-astronaut") == family("astronaut") == "astronaut"
    assert family("woman-running-facing-right") == family("person-running")
    assert family("pregnant-man") == family("pregnant-woman")
    assert family("man") == family("woman") == family("person")
    assert family("boy") == family("girl") == family("child")
    assert family("mermaid") == family("merman") == family("merperson")
    assert family("prince") == family("princess") == family("person-with-crown")
    assert family("kiss-woman-man") == family("kiss") != family("kiss-mark")
    assert family("family-man-woman-boy") == family("family")
    assert family("women-holding-hands") == family("woman-and-man-holding-hands")
    assert family("one-o-clock") == family("eleven-thirty") != family("alarm-clock")
    for alone in ("red-apple", "snowman", "mango", "human", "manual-wheelchair", "kissing-face"):
        assert family(alone) == alone


def test_copies_join_families_transitively():
    families = Families()
    families.join("flag-norway", "flag-bouvet-island")
    families.join("flag-svalbard-jan-mayen", "flag-norway")
    families.join("man-cook", "woman-pilot")
    assert families.find("flag-svalbard-jan-mayen") == families.find("flag-bouvet-island")
    assert families.find("pilot") == families.find("cook")
    assert families.find("flag-france") == "flag-france"


def check_splits(rows: list[dict[str, str]]) -> None:
    """Held-out families are held out everywhere, and a vendor's drawings of one family stay together."""
    splits, drawn = defaultdict(set), defaultdict(set)
    for row in rows:
        if row["kind"] != "word":
            splits[family(row["concept"])].add(row["split"])
        if row["kind"] == "emoji":
            drawn[family(row["concept"]), row["vendor"]].add(row["split"])
    assert all(found == {"test"} or "test" not in found for found in splits.values())
    assert all(len(found) == 1 for found in drawn.values())
    assert {split for found in splits.values() for split in found} == set(SPLITS)


def check_words(rows: list[dict[str, str]], words: dict[str, list[str]], heldout: set[str]) -> None:
    found = [row for row in rows if row["kind"] == "word"]
    assert not set(words["seen"]) & set(words["unseen"])
    for row in found:
        assert row["text"] == row["concept"] == row["name"]
        expected = {(True, False): "train", (True, True): "redraw", (False, True): "test"}
        assert row["split"] == expected[row["text"] in words["seen"], row["style"] in heldout]
    for split, group in (("train", "seen"), ("redraw", "seen"), ("test", "unseen")):
        assert {row["text"] for row in found if row["split"] == split} == set(words[group])


def test_splits_hold(everything):
    rows = rows_of(everything)
    check_splits(rows)
    check_words(rows, everything.words, {"Special Elite"})
    assert len(everything.words["unseen"]) == 3
    assert len(everything.words["seen"]) == 12


def test_no_picture_is_in_two_splits(corpus):
    parts = {split: Glyphs(corpus, splits=(split,)) for split in SPLITS}
    pixels = {split: {part.image(row).tobytes() for row in range(len(part))} for split, part in parts.items()}
    assert all(len(pixels[split]) == len(parts[split]) for split in SPLITS)
    assert not pixels["train"] & pixels["test"]
    assert not pixels["train"] & pixels["redraw"]


def test_another_seed_holds_out_other_concepts(corpus, tmp_path):
    build(CONFIG.model_copy(update={"seed": 1}), ICONS, tmp_path / "other", 1, pins=PINS)
    first, second = (
        set(Glyphs(where, splits=("test",)).columns["concept"]) for where in (corpus, tmp_path / "other")
    )
    assert first != second


# Words.


def levenshtein(first: str, second: str) -> int:
    """The textbook recursion."""
    if not first or not second:
        return len(first) + len(second)
    swap = levenshtein(first[1:], second[1:]) + (first[0] != second[0])
    return min(swap, levenshtein(first[1:], second) + 1, levenshtein(first, second[1:]) + 1)


def test_edit_distances_are_levenshtein():
    words = ["cat", "cart", "chart", "art", "tac", "boat", "zzz", "coats"]
    expected = [[levenshtein(first, second) for second in words] for first in words]
    np.testing.assert_array_equal(edit_distances(words), expected)
    assert edit_distances([]).shape == (0, 0)


def test_chosen_words_are_the_close_ones():
    clique, lonely = ["bat", "cat", "hat", "mat", "rat"], ["fig", "zoo", "icy"]
    fours, fives = ["bats", "cats", "hats", "mats", "rats", "ovum", "lynx"], ["carts", "darts", "parts"]
    chosen = choose_words(sorted(clique + lonely + fours + fives), 12)
    assert len(chosen) == 12
    assert not {*lonely, "ovum", "lynx"} & set(chosen)
    assert [sum(len(word) == length for word in chosen) for length in (3, 4, 5)] == [4, 5, 3]


def test_too_many_words_is_said_with_the_number():
    with pytest.raises(UserError, match=r"words=1000 asks for 320 words of 3 letters"):
        choose_words(["cat", "hat"], 1000)
    assert choose_words(["cat"], 0) == []


def test_candidates_are_short_shared_and_decent():
    words = word_candidates(Art(ICONS, PINS).concepts)
    assert "fruit" in words
    assert all(3 <= len(word) <= 5 and word.isalpha() and word.islower() for word in words)
    assert not set(words) & UNSUITABLE


def test_a_fifth_of_the_words_is_held_out():
    words = [f"w{number}" for number in range(100)]
    parts = part_words(words, 0)
    assert len(parts["unseen"]) == 20
    assert sorted(parts["seen"] + parts["unseen"]) == sorted(words)
    assert part_words(words[::-1], 0)["unseen"] == parts["unseen"]


# What is drawn.


def test_rows_are_complete(everything):
    rows = rows_of(everything)
    assert len({row["key"] for row in rows}) == len(rows) == len(everything)
    assert {row["kind"] for row in rows} == {"emoji", "word"}
    for row in rows:
        assert row["colour"] in COLOURS
        assert row["background"] in COLOURS
        assert row["split"] in SPLITS
        assert all(row[name] for name in ("key", "concept", "subgroup", "group", "style", "vendor", "name"))
        assert (row["text"] != "") == (row["kind"] == "word")
    vendors = {(row["style"], row["vendor"]) for row in rows if row["kind"] == "emoji"}
    assert ("noto", "google") in vendors
    assert ("fluent-emoji-3d", "microsoft") in vendors


def test_painted_pictures_have_the_colours_they_are_said_to_have(everything):
    seen = set()
    for row, columns in enumerate(rows_of(everything)):
        image = everything.image(row)
        assert image.shape == (48, 48, 3)
        if columns["kind"] == "word" or columns["style"] == "fluent-emoji-high-contrast":
            fill, ground = (np.array(COLOURS[columns[name]]) for name in ("colour", "background"))
            assert contrast(tuple(fill.tolist()), tuple(ground.tolist())) >= 3
            assert (image == ground).all(axis=-1).mean() > 0.1
            # Every pixel is a mixture of the two.
            span = (fill - ground).astype(float)
            share = ((image - ground) @ span) / (span @ span)
            assert np.abs(image - (ground + share[..., None] * span)).max() <= 1.5
            assert share.max() > 0.6
            seen.add(columns["colour"])
        else:
            assert columns["background"] == "white"
    assert len(seen) >= 9


def test_nothing_is_painted_in_a_colour_that_its_name_denies(everything):
    rows = rows_of(everything)
    mono = [row["concept"] for row in rows if row["style"] == "fluent-emoji-high-contrast"]
    assert "rocket" in mono
    assert not {"red-apple", "green-apple", "red-heart", "blue-heart"} & set(mono)
    flat = {row["concept"]: row["colour"] for row in rows if row["style"] == "fluent-emoji-flat"}
    assert (flat["red-heart"], flat["blue-heart"], flat["green-heart"]) == ("red", "blue", "green")


def test_mirrored_emoji_are_mirrored(everything):
    rows = {row["key"]: place for place, row in enumerate(rows_of(everything))}
    left = everything.image(rows["fluent-emoji-flat/backhand-index-pointing-left"]).astype(int)
    right = everything.image(rows["fluent-emoji-flat/backhand-index-pointing-right"]).astype(int)
    assert np.abs(left[:, ::-1] - right).mean() < 1
    assert np.abs(left - right).mean() > 10


def test_styles_can_be_chosen_and_do_not_move_the_splits(everything, tmp_path):
    config = CONFIG.model_copy(update={"styles": ("noto", "Chewy")})
    build(config, ICONS, tmp_path / "two", 1, pins=PINS)
    two = Glyphs(tmp_path / "two", splits=SPLITS)
    assert set(two.columns["style"]) == {"noto", "Chewy"}
    splits = {row["key"]: row["split"] for row in rows_of(everything)}
    assert all(splits[row["key"]] == row["split"] for row in rows_of(two))
    with pytest.raises(UserError, match=r"'memphis'.*noto"):
        build(CONFIG.model_copy(update={"styles": ("memphis",)}), ICONS, tmp_path / "none", 1, pins=PINS)


# Building.


def test_building_again_gives_the_same_bytes_with_any_workers(corpus, tmp_path):
    build(CONFIG, ICONS, tmp_path / "again", 2, pins=PINS)
    for name in ("images.bin", "table.parquet", "meta.json"):
        assert (tmp_path / "again" / name).read_bytes() == (corpus / name).read_bytes()


def test_meta_counts_what_is_there(corpus, everything):
    meta = read_meta(corpus)
    rows = rows_of(everything)
    for kind, counts in meta.counts.items():
        for split, count in counts.items():
            assert count == sum(row["kind"] == kind and row["split"] == split for row in rows)
    assert sum(meta.styles.values()) == len(rows)
    assert {each.style: each.images for each in meta.attributions if each.images} == meta.styles
    assert meta.dropped == {"blank": 0, "repeated": 2}  # Noto draws its three astronauts alike


def test_tampered_art_is_not_drawn(tmp_path):
    art = Path(shutil.copytree(ICONS, tmp_path / "art"))
    (art / "node_modules" / "emojilib" / "LICENSE").write_text("mine")
    with pytest.raises(UserError, match=r"emojilib .* is not what was pinned"):
        build(CONFIG, art, tmp_path / "out", 1, pins=PINS)
    assert not (tmp_path / "out").exists()


def test_a_failed_build_leaves_the_earlier_corpus(corpus, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(corpus, tmp_path / "kept"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(glyphs_module.pq, "write_table", full)
    with pytest.raises(UserError, match="No space left"):
        build(CONFIG, ICONS, folder, 1, pins=PINS)
    verify(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_another_folder_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        build(CONFIG, ICONS, tmp_path, 1, pins=PINS)
    assert (tmp_path / "thesis.tex").exists()


def test_blank_and_repeated_drawings_are_left_out():
    config = GlyphsConfig(size=16)
    body = '<path d="M2 2h8v8z" fill="currentColor"/>'
    jobs = [
        glyphs_module.Job(SvgArt(drawn, 16, 16), fill, "white", config.size)
        for drawn, fill in ((body, "red"), (body, "blue"), ("<g/>", None), (body.replace("M2", "M4"), "red"))
    ]
    rows = [{"key": str(place)} for place in range(4)]
    kept, dropped = glyphs_module._sieve(rows, [glyphs_module.draw(job) for job in jobs])
    assert [row["key"] for row, _ in kept] == ["0", "3"]
    assert dropped == {"blank": 1, "repeated": 1}


# Reading.


def test_samples_carry_factors_and_captions(everything):
    for row, columns in list(enumerate(rows_of(everything)))[::17]:
        sample = everything[row]
        assert sample.key == columns["key"]
        assert sample.text == caption(columns, "thing", seed=0)
        assert sample.factors == {
            name: columns[name] for name in ("concept", "subgroup", "group", "style", "colour", "text")
        }
        np.testing.assert_array_equal(sample.image, everything.image(row))
    with pytest.raises(IndexError):
        _ = everything[len(everything)]


def test_splits_partition_the_corpus(corpus, everything):
    parts = [set(Glyphs(corpus, splits=(split,)).columns["key"]) for split in SPLITS]
    assert sum(map(len, parts)) == len(everything)
    assert set.union(*parts) == set(everything.columns["key"])


@pytest.mark.parametrize("policy", ["thing", "style", "colour", "text", "all"])
def test_captions_mention_exactly_their_factors(corpus, policy):
    glyphs = Glyphs(corpus, splits=SPLITS, captions=policy)
    mentions = CAPTION_POLICIES[policy]
    for place, row in enumerate(rows_of(glyphs)):
        said = glyphs[place].text
        thing = said.split(", in the ")[0].split(", ")[0]
        is_word = row["kind"] == "word"
        assert (f'the word "{row["text"]}"' in said) == (is_word and mentions.text)
        assert (thing == row["name"]) == (not is_word and mentions.thing)
        assert (f"in the {row['style'].replace('-', ' ')} style" in said) == mentions.style
        assert said.endswith(f", {row['colour']} on {row['background']}") == mentions.colour
        named = set(said.replace(",", " ").replace('"', " ").split()) & set(COLOURS)
        own = set(row["name"].split())
        assert named - own <= ({row["colour"], row["background"]} if mentions.colour else set())


def test_shuffled_captions_are_train_captions(corpus):
    things, shuffled = (Glyphs(corpus, captions=policy) for policy in ("thing", "shuffled"))
    assert sorted(sample.text for sample in things) == sorted(sample.text for sample in shuffled)
    held = Glyphs(corpus, splits=("test",), captions="shuffled")
    assert {sample.text for sample in held} <= {sample.text for sample in things}


def test_the_digest_tells_splits_and_captions_apart(corpus):
    views = [{}, {"splits": ("test",)}, {"captions": "all"}, {"captions": "shuffled"}]
    assert len({Glyphs(corpus, **view).digest for view in views}) == len(views)
    assert Glyphs(corpus).digest == Glyphs(corpus, splits=("train",), captions="thing").digest


def test_one_pixel_changes_the_digest(tmp_path):
    """One pixel is added to one SVG, the art is pinned anew, and the corpus is built again."""
    config = GlyphsConfig(size=32, words=0, styles=("fluent-emoji-flat",))
    build(config, ICONS, tmp_path / "before", 1, pins=PINS)
    art = Path(shutil.copytree(ICONS, tmp_path / "art"))
    icons = art / "node_modules" / "@iconify-json" / "fluent-emoji-flat" / "icons.json"
    content = json.loads(icons.read_text("utf-8"))
    content["icons"]["rocket"]["body"] += '<path d="M0 0h1v1H0z" fill="#010203"/>'
    icons.write_text(json.dumps(content), "utf-8")
    pins = [
        pin.model_dump() | {"sha256": package_digest(art / "node_modules" / pin.name)}
        for pin in read_pins(PINS)
    ]
    (art / "art.json").write_text(json.dumps({"packages": pins}))
    build(config, art, tmp_path / "after", 1, pins=art / "art.json")
    before, after = (Glyphs(tmp_path / name, splits=SPLITS) for name in ("before", "after"))
    differ = [(before.image(row) != after.image(row)).any(axis=-1).sum() for row in range(len(before))]
    assert sum(differ) == 1
    assert before.columns["concept"][int(np.argmax(differ))] == "rocket"
    assert before.digest != after.digest
    assert before.meta.digest != after.meta.digest


def test_a_reader_can_be_sent_to_another_process(everything):
    again = pickle.loads(pickle.dumps(everything))
    assert again.digest == everything.digest
    assert len(pickle.dumps(everything)) < 1000


def test_threads_read_the_same(everything):
    rows = list(range(len(everything))) * 2
    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(lambda row: int(everything.image(row).sum()), rows))
    assert sums == [int(everything.image(row).sum()) for row in rows]


# Damage.


def damaged(corpus: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(corpus, tmp_path / "glyphs"))


@pytest.mark.parametrize("name", ["images.bin", "table.parquet"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_named_and_what_to_run(corpus, tmp_path, name, damage):
    path = damaged(corpus, tmp_path) / name
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "cut" else content)
    with pytest.raises(UserError, match=rf"{name} is (damaged|missing): run `paribus corpus build glyphs`"):
        Glyphs(path.parent)


@pytest.mark.parametrize("content", ["", "{}", '{"version": 1', "\x00"])
def test_a_damaged_meta_is_named(corpus, tmp_path, content):
    path = damaged(corpus, tmp_path) / "meta.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"meta\.json is damaged: run `paribus corpus build glyphs`"):
        Glyphs(path.parent)


def test_a_corpus_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(UserError, match=r"There is no .*meta\.json: run `paribus corpus build glyphs`"):
        Glyphs(tmp_path / "nowhere")


def test_unknown_splits_and_policies_are_named(corpus):
    with pytest.raises(UserError, match=r"'valid'.*train, redraw, test"):
        Glyphs(corpus, splits=("valid",))
    with pytest.raises(UserError, match="split"):
        Glyphs(corpus, splits=())
    with pytest.raises(UserError, match="'poem'"):
        Glyphs(corpus, captions="poem")


# Looking, and the registry.


def test_contact_sheets_are_pictures(everything, tmp_path):
    contact_sheet(everything, tmp_path / "sheet.png", height=3, width=4, kinds=("emoji",))
    page = cv2.imread(str(tmp_path / "sheet.png"))
    assert page.shape[0] > 3 * 96
    assert page.shape[1] > 4 * 96
    contact_sheet(everything, tmp_path / "kinds.png", rows="kind", columns=None, height=2, width=5)
    assert cv2.imread(str(tmp_path / "kinds.png")).shape != page.shape
    with pytest.raises(UserError, match="'mood'"):
        contact_sheet(everything, tmp_path / "no.png", rows="mood")
    assert not (tmp_path / "no.png").exists()


def test_the_registry_opens_glyphs(corpus):
    assert "glyphs" in SOURCES
    source = source_class("glyphs")(corpus)
    assert source[0].image.shape == (48, 48, 3)
    assert len(source.digest) == 64
    with pytest.raises(UserError, match=r"'tape'.*glyphs"):
        source_class("tape")


# The whole art.


@pytest.fixture(scope="module")
def full_plan():
    config, art, families = GlyphsConfig(), Art(Path(FULL)), Families()
    words = part_words(choose_words(word_candidates(art.concepts), config.words), config.seed)
    entries = [
        *glyphs_module._emoji_rows(config, art, families),
        *glyphs_module._icon_rows(config, art, families),
    ]
    entries += glyphs_module._word_rows(config, art, words)
    return entries, families, words


@needs_full
def test_full_splits_hold(full_plan):
    entries, families, words = full_plan
    rows = [entry.row for entry in entries]
    check_splits(rows)
    check_words(rows, words, {font.family for font in Art(Path(FULL)).fonts if font.split == "heldout"})
    assert len({row["key"] for row in rows}) == len(rows) > 22_000
    # Nothing held out is drawn in train under another name.
    homes = defaultdict(set)
    for entry in entries:
        if entry.row["kind"] == "emoji":
            homes[entry.job.art].add((families.find(entry.row["concept"]), entry.row["split"]))
    assert all(len(found) == 1 for found in homes.values())
    share = {
        kind: np.mean([row["split"] == "test" for row in rows if row["kind"] == kind])
        for kind in ("emoji", "icon")
    }
    assert all(0.12 < value < 0.18 for value in share.values())
    redrawn = np.mean(
        [row["split"] == "redraw" for row in rows if row["kind"] == "emoji" and row["split"] != "test"]
    )
    assert 0.10 < redrawn < 0.14


@needs_full
def test_full_words_have_neighbours(full_plan):
    words = [word for group in full_plan[2].values() for word in group]
    assert len(words) == 280
    near = edit_distances(words)
    assert np.mean((near == 1).sum(axis=1) >= 2) > 0.6
    assert np.mean(((near == 1) | (near == 2)).sum(axis=1) >= 4) > 0.95


@needs_full
def test_full_fills_are_even(full_plan):
    fills = [entry.job.fill for entry in full_plan[0] if entry.job.fill]
    shares = [fills.count(term) / len(fills) for term in COLOURS]
    assert max(abs(share - 1 / 11) for share in shares) < 0.01


@needs_full
@pytest.mark.slow
def test_full_style_builds_without_blanks(tmp_path):
    config = GlyphsConfig(styles=("emojione-v1", "fluent-emoji-high-contrast", "VT323", "Roboto"))
    build(config, Path(FULL), tmp_path / "glyphs", 2)
    meta = verify(tmp_path / "glyphs")
    assert meta.dropped["blank"] == 0
    assert meta.styles["emojione-v1"] > 900
    assert meta.counts["word"]["train"] == 224
