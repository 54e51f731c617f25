"""The text tower equals transformers' CLIPTextModel, and the tokenizer can say everything it reads."""

import random
import unicodedata

import pytest
import torch
from objectives import CAPTIONS, MATERIAL, TINY, TOKENIZER
from reference.towers import clip_text_of

from paribus.encoders.text import (
    END,
    PAD,
    START,
    TextTower,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from paribus.errors import UserError

TEXTS = ["", "a", *CAPTIONS[:5], "the flower in the sun " * 9]


@pytest.fixture
def tower():
    made = TextTower(TINY["text"], MATERIAL, seed=2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return made.eval()


@torch.no_grad()
def test_equals_clip_text_model(tower):
    """Causal attention, GELU (CLIP's own is quick GELU), the final norm's output at the end token."""
    peer, swap = clip_text_of(tower)
    ids = tower.tokenize(TEXTS)
    assert ids.shape == (len(TEXTS), 24), "the longest text is cut to the context"
    assert torch.allclose(tower(TEXTS), peer(swap[ids]).pooler_output, rtol=1e-5, atol=1e-5)


def test_gradients_equal_clip_text_models(tower):
    peer, swap = clip_text_of(tower)
    weight = torch.randn(len(TEXTS), 16, generator=torch.Generator().manual_seed(3))
    (tower(TEXTS) * weight).sum().backward()
    (peer(swap[tower.tokenize(TEXTS)]).pooler_output * weight).sum().backward()
    theirs = {name.removeprefix("text_model."): value.grad for name, value in peer.named_parameters()}
    words = theirs["embeddings.token_embedding.weight"][swap]
    assert torch.allclose(tower.token_embed.weight.grad, words, rtol=1e-4, atol=1e-5)
    places = theirs["embeddings.position_embedding.weight"]
    assert torch.allclose(tower.pos_embed.grad, places, rtol=1e-4, atol=1e-5)
    query = tower.blocks[0].attn.qkv.weight.grad[:16]
    assert torch.allclose(query, theirs["encoder.layers.0.self_attn.q_proj.weight"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_neither_padding_nor_neighbours_change_a_text(tower):
    together = tower(TEXTS)
    for row, text in enumerate(TEXTS):
        assert torch.allclose(tower([text])[0], together[row], rtol=1e-5, atol=1e-5)


def test_ids_stand_between_start_and_end(tower):
    start, end, pad = (TOKENIZER.token_to_id(token) for token in (START, END, PAD))
    assert (pad, start, end) == (0, 1, 2)
    for text, row in zip(TEXTS, tower.tokenize(TEXTS).tolist(), strict=True):
        length = row.index(end) + 1
        assert row[0] == start
        assert row[1 : length - 1] == TOKENIZER.encode(text).ids[:22]
        assert set(row[length:]) <= {pad}


def test_every_string_survives_up_to_its_normal_form():
    rng = random.Random(0)
    planes = [range(32, 127), range(0xA0, 0x250), range(0x4E00, 0x4F00), range(0x1F300, 0x1F600), (0, 9, 10)]
    for _ in range(200):
        text = "".join(chr(rng.choice(rng.choice(planes))) for _ in range(rng.randrange(20)))
        assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == unicodedata.normalize("NFKC", text)


def test_training_a_tokenizer_twice_gives_the_same():
    assert train_tokenizer(CAPTIONS, 320).to_str() == TOKENIZER.to_str()
    assert TOKENIZER.get_vocab_size() == 320


def test_tokenizers_come_back_from_their_file(tmp_path):
    path = tmp_path / "deep" / "tokenizer.json"
    save_tokenizer(TOKENIZER, path)
    again = load_tokenizer(path)
    assert [again.encode(text).ids for text in TEXTS] == [TOKENIZER.encode(text).ids for text in TEXTS]
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"tokenizer\.json is missing or damaged"):
        load_tokenizer(path)
    path.unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is missing or damaged"):
        load_tokenizer(path)
