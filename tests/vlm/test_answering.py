"""What is written is the likeliest word each time, whatever settings a published model brings along."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from paribus.types import Batch, Turn
from paribus.vlm.answering import write

from . import tiny_batch, tiny_vlm

OWN = {
    "repetition_penalty": {"repetition_penalty": 5.0},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "suppress_tokens": {"suppress_tokens": list(range(3, 200))},
    "min_new_tokens": {"min_new_tokens": 8},
    "sampling": {"do_sample": True, "temperature": 3.0},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "a dict": {"return_dict_in_generate": True, "output_scores": True},
    "all": {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2, "max_length": 3, "stop_strings": ["a"]},
}


def lively(vlm):
    """The same model with weights far from where they began, so that it does not say one word for ever."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in vlm.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return vlm


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_a_published_models_own_settings_change_nothing(kind, own):
    vlm, batch = lively(tiny_vlm(kind)), tiny_batch(batch=4)
    plain = write(vlm, batch, limit=12)
    vlm.language.generation_config = published = GenerationConfig(**own)
    assert write(vlm, batch, limit=12) == plain
    assert vlm.language.generation_config is published, "they are only set aside"


def test_such_settings_would_change_what_is_written():
    """transformers' own ``generate`` with these settings writes otherwise: the test above can fail."""
    vlm = lively(tiny_vlm(eyes=False))
    asked = Batch(np.zeros(1, dtype=np.uint64), {}, [""], [(Turn("what is it?", ""),)])
    ids = torch.from_numpy(vlm.chat.speak(asked.turns, cue=True)[0].ids)[None]
    vlm.language.set_attn_implementation("sdpa")
    plain, changed = (
        vlm.language.generate(
            ids, generation_config=GenerationConfig(max_new_tokens=12, do_sample=False, **own)
        ).tolist()
        for own in ({}, OWN["repetition_penalty"])
    )
    assert plain != changed
