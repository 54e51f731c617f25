"""A small vision-language model on real photographs, for the tests of the VLM and of the contract."""

import numpy as np
import torch
from objectives import ENCODER, TOKENIZER, Photos

from paribus.data.loader import Loader
from paribus.encoders.vision import VisionEncoder
from paribus.types import Batch, ViewSpec
from paribus.vlm.connector import MLPConnector
from paribus.vlm.language import LanguageConfig, build_language_model
from paribus.vlm.model import Eyes, VisionLanguage

LANGUAGE = LanguageConfig(hidden=16, layers=2, heads=2, mlp_ratio=2.0, context=64, vocabulary=320)
WHOLE = (ViewSpec(name="image"),)


def tiny_vlm(kind="qwen2", *, eyes=True, layer=-2, trained=("language",), seed=0):
    """A language model of two layers; with eyes, a ViT of two blocks and a connector before it."""
    config = LANGUAGE.model_copy(update={"kind": kind})
    language = build_language_model(config, TOKENIZER.get_vocab_size(), seed, torch.device("cpu"))
    sight = None
    if eyes:
        connector = MLPConnector(ENCODER.width, config.hidden, seed)
        sight = Eyes(VisionEncoder(ENCODER, seed), connector, layer)
    return VisionLanguage(language, TOKENIZER, context=config.context, eyes=sight, trained=trained)


def tiny_loader(batch=7, pictures=True, source=None):
    """Photographs and a question each; captions of different lengths are the answers."""
    views = WHOLE if pictures else ()
    source = Photos() if source is None else source
    return Loader(source, views, image_size=ENCODER.image_size, batch=batch, seed=0)


def tiny_batch(pictures=True, step=0, batch=7) -> Batch:
    """One batch whose prompts differ in length too."""
    made = tiny_loader(batch, pictures).make(step)
    prompts = [f" what is it{', then' * (row % 3)}?" for row in range(len(made))]
    return Batch(np.asarray(made.ids), made.views, made.texts, prompts, made.seed)
