"""Contamination: pictures by pixels and by look, questions by words, data sets by name."""

import numpy as np
import pytest
from data.test_conversations import built, said, saved
from objectives import Photos
from PIL import Image, ImageDraw

from paribus.analysis.contamination import IN_DOMAIN, OTHERS, by_name, contamination, plain
from paribus.data.decoding import decode_image
from paribus.vqa.vmcbench import SOURCES

PIECES = Photos().pieces


def recompressed(image, quality, size=None):
    picture = Image.fromarray(image)
    picture = picture.resize(size, Image.Resampling.LANCZOS) if size else picture
    return decode_image(saved(picture, quality=quality))


def drawing(seed):
    """Thin lines on white, of which coarse hashes see little."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (320, 240), "white")
    pen = ImageDraw.Draw(picture)
    for _ in range(6):
        pen.line([tuple(rng.integers(0, 240, 2).tolist()) for _ in range(2)], fill="black", width=1)
    return np.array(picture)


@pytest.fixture(scope="module")
def mix(tmp_path_factory):
    pictures = {f"coco/{n}.jpg": saved(PIECES[n], quality=90) for n in range(8)}
    pictures |= {"coco/copy.jpg": pictures["coco/0.jpg"], "plots/0.png": saved(drawing(0), "PNG")}
    asks = {name: f"<image>\nWhat is number {n}?\nAnswer with one word." for n, name in enumerate(pictures)}
    records = [{"id": n, "image": n, "conversations": said(ask, "It.")} for n, ask in asks.items()]
    records.append({"id": "t", "conversations": said("Hello", "Hi", "Who are  YOU", "Me.")})
    return built(tmp_path_factory.mktemp("mix"), records, pictures)[1]


def overlap(mix, questions, workers=2):
    return contamination(mix, iter(questions), workers).sources


def test_equal_pixels_are_found_whoever_decodes_them(mix):
    same = [("GQA", "?", decode_image(saved(PIECES[n], quality=90))) for n in range(8)]
    found = overlap(mix, [*same, ("GQA", "?", PIECES[20]), ("GQA", "?", PIECES[30])])["GQA"]
    assert (found.questions, found.same_picture, found.near_picture) == (10, 0.8, 0.8)


def test_near_duplicates_are_found_apart_from_equal_ones(mix):
    near = [
        ("near", "?", recompressed(PIECES[0], 60)),
        ("near", "?", recompressed(PIECES[1], 90, (60, 80))),
        ("far", "?", PIECES[25]),
        ("far", "?", np.ascontiguousarray(PIECES[2][:, ::-1])),
        ("far", "?", np.ascontiguousarray(255 - PIECES[3])),
    ]
    found = overlap(mix, near)
    assert (found["near"].same_picture, found["near"].near_picture) == (0, 1)
    assert (found["far"].same_picture, found["far"].near_picture) == (0, 0)


def test_drawings_on_white_are_not_all_one_picture(mix):
    others = [("other", "?", drawing(seed)) for seed in range(1, 30)]
    found = overlap(mix, [*others, ("same", "?", recompressed(drawing(0), 80))])
    assert found["other"].near_picture == 0
    assert found["same"].near_picture == 1


def test_questions_are_found_by_their_words(mix):
    blank = np.zeros((8, 8, 3), np.uint8)
    texts = [
        "what is number 3",
        "What is number 3?\nAnswer with one word.",
        "Who are you?",
        "What is number 99?",
        "?",
    ]
    found = overlap(mix, [("GQA", text, blank) for text in texts])["GQA"]
    assert found.same_question == 3 / 5
    assert (found.same_picture, found.near_picture) == (0, 0)


def test_words_are_compared_without_case_marks_and_spaces():
    assert plain("<image>\nWhat's  THIS, Straße？") == plain("what s this strasse?")
    assert plain("是什么？") == "是什么"


def test_any_number_of_workers_finds_the_same(mix):
    questions = [("a", "?", PIECES[n]) for n in range(12)]
    assert overlap(mix, questions, 0) == overlap(mix, questions, 4)


def test_a_mix_without_pictures_shares_none(tmp_path):
    _, mix = built(tmp_path, [{"id": "t", "conversations": said("Hello?", "Hi")}], {})
    found = overlap(mix, [("a", "hello", PIECES[0])])["a"]
    assert (found.same_picture, found.near_picture, found.same_question) == (0, 0, 1)


def test_the_table_is_of_all_sources_of_vmcbench():
    assert {*IN_DOMAIN, *OTHERS} == {source for sources in SOURCES.values() for source in sources}
    assert not IN_DOMAIN.keys() & {*OTHERS}
    assert by_name("OCRVQA") == (True, "LLaVA-1.5's mix has 80,000 training questions of OCR-VQA")
    assert by_name("DocVQA")[0] is False
    assert by_name("elsewhere")[0] is None


def test_it_is_read_back_from_json(mix):
    found = contamination(mix, [("GQA", "what?", PIECES[0])], 1)
    assert type(found).model_validate_json(found.model_dump_json()) == found
    assert found.sources["GQA"].in_domain


def test_the_benchmark_is_read_once(mix):
    drawn = []

    def questions():
        for n in range(3):
            drawn.append(n)
            yield "a", "?", PIECES[n]

    overlap(mix, questions())
    assert drawn == [0, 1, 2]
