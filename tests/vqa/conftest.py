"""The real art and corpus, fetched and drawn once into pytest's cache, and questions made from them."""

import pytest

from paribus.data import art, glyphs
from paribus.vqa.glyphqa import GlyphQA, GlyphQAConfig, build, pool_of

CONFIG = GlyphQAConfig(train=8000, test=4000)


@pytest.fixture(scope="session")
def art_folder(request):
    folder = request.config.cache.mkdir("paribus") / "art"
    art.fetch(folder)
    return folder


@pytest.fixture(scope="session")
def corpus_folder(request, art_folder):
    config = glyphs.GlyphsConfig()
    folder = request.config.cache.mkdir("paribus") / "glyphs"
    if not (folder / "meta.json").exists() or glyphs.read_meta(folder).config != config:
        glyphs.build(config, art_folder, folder, workers=2)
    return folder


@pytest.fixture(scope="session")
def questions_folder(tmp_path_factory, art_folder, corpus_folder):
    folder = tmp_path_factory.mktemp("vqa") / "glyphqa"
    build(CONFIG, corpus_folder, art_folder, folder, workers=2)
    return folder


@pytest.fixture(scope="session")
def questions(questions_folder):
    return {
        split: [benchmark.question(i) for i in range(len(benchmark))]
        for split in ("train", "test")
        for benchmark in [GlyphQA(questions_folder, split)]
    }


@pytest.fixture(scope="session")
def pools(corpus_folder, art_folder):
    return {split: pool_of(CONFIG, corpus_folder, art_folder, split) for split in ("train", "test")}
