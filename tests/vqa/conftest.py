"""The real art and the whole corpus, and questions made from them."""

import pytest

from . import SIZES


@pytest.fixture(scope="session")
def config():
    from paribus.vqa.glyphqa import GlyphQAConfig

    return GlyphQAConfig(**SIZES)


@pytest.fixture(scope="session")
def art_folder(shared_art):
    return shared_art


@pytest.fixture(scope="session")
def corpus_folder(whole_corpus):
    return whole_corpus


@pytest.fixture(scope="session")
def questions_folder(tmp_path_factory, config, art_folder, corpus_folder):
    from paribus.vqa.glyphqa import build

    folder = tmp_path_factory.mktemp("vqa") / "glyphqa"
    build(config, corpus_folder, art_folder, folder, workers=2)
    return folder


@pytest.fixture(scope="session")
def questions(questions_folder):
    from paribus.vqa.glyphqa import GlyphQA

    return {
        split: [benchmark.question(i) for i in range(len(benchmark))]
        for split in ("train", "test")
        for benchmark in [GlyphQA(questions_folder, split)]
    }


@pytest.fixture(scope="session")
def pools(config, corpus_folder, art_folder):
    from paribus.vqa.glyphqa import pool_of

    return {split: pool_of(config, corpus_folder, art_folder, split) for split in ("train", "test")}
