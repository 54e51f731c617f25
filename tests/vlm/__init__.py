"""A small vision-language model on real photographs, for the tests of the VLM and of the contract."""

import numpy as np
import peers  # noqa: F401 - before transformers is imported
import torch
from objectives import ENCODER, TOKENIZER, Photos

from paribus.data.loader import Loader
from paribus.encoders.vision import VisionEncoder
from paribus.study.looking import EyeLoader
from paribus.types import IMAGE, Batch, Turn
from paribus.vlm.conversation import Chat
from paribus.vlm.eyes import EyesConfig, build_eyes
from paribus.vlm.language import LanguageConfig, build_language_model
from paribus.vlm.model import VisionLanguage

LANGUAGE = LanguageConfig(hidden=16, layers=2, heads=2, mlp_ratio=2.0, context=80, vocabulary=320)


def tiny_vlm(kind="qwen2", *, eyes=True, layer=-2, trained=("language",), seed=0):
    """A language model of two layers; with eyes, a ViT of two blocks and a connector before it."""
    config = LANGUAGE.model_copy(update={"kind": kind})
    language = build_language_model(config, TOKENIZER.get_vocab_size(), seed, torch.device("cpu"))
    sight = None
    if eyes:
        sight = build_eyes(EyesConfig(layer=layer), [VisionEncoder(ENCODER, seed)], config.hidden, seed)
    chat = Chat(TOKENIZER, config.wording(), config.context, sight.tokens if sight else 0)
    return VisionLanguage(language, chat, eyes=sight, trained=trained)


def asked(prompts, replies, pictures=True):
    """Conversations of one turn each."""
    mark = f"{IMAGE}\n" if pictures else ""
    return [(Turn(f"{mark}{ask}", reply),) for ask, reply in zip(prompts, replies, strict=True)]


def tiny_loader(batch=7, pictures=True, source=None):
    """Photographs and a question each; captions of different lengths are the answers."""
    source = Photos() if source is None else source
    if not pictures:
        return Loader(source, (), image_size=1, batch=batch, seed=0)
    return EyeLoader(source, [ENCODER], fit="crop", batch=batch, seed=0, workers=2)


def tiny_batch(pictures=True, step=0, batch=7) -> Batch:
    """One batch whose prompts differ in length too."""
    made = tiny_loader(batch, pictures).make(step)
    prompts = [f"what is it{', then' * (row % 3)}?" for row in range(len(made))]
    return Batch(
        np.asarray(made.ids), made.views, made.texts, asked(prompts, made.texts, pictures), made.seed
    )
