"""Zero-shot words: what a text tower reads equals its own library's, and names pictures as that does."""

import numpy as np
import peers  # noqa: F401 - before torchvision
import pytest
import torch
import transformers as hf
from PIL import Image
from sklearn.datasets import load_sample_images
from small_models import READS, SEES, reading_clip, tokenizer

from encoders.checkpoints import perturbed
from paribus.encoders.eyes import open_eye
from paribus.encoders.words import read_words
from paribus.errors import UserError

TEXTS = ["a temple", "a flower", "a photo of a flower"]


def siglip(folder):
    model = perturbed(hf.SiglipModel(hf.SiglipConfig(text_config=READS, vision_config=SEES)))
    return model, hf.SiglipImageProcessorPil(size={"height": 32, "width": 32})


@pytest.mark.parametrize(("make", "padding"), [(reading_clip, True), (siglip, "max_length")])
def test_pictures_and_words_meet_as_in_transformers(tmp_path, make, padding):
    torch.manual_seed(0)
    model, processor = make(tmp_path)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    read = tokenizer(tmp_path)
    photos = [load_sample_images().images[0], load_sample_images().images[1][:200, :300]]
    pixels = processor([Image.fromarray(photo) for photo in photos], return_tensors="pt")["pixel_values"]
    tokens = read(TEXTS, padding=padding, truncation=True, max_length=8, return_tensors="pt")
    names = ("input_ids", "attention_mask") if padding is True else ("input_ids",)
    with torch.no_grad():
        theirs = model(pixel_values=pixels, **{name: tokens[name] for name in names})
    eye, words = open_eye(str(tmp_path)), read_words(tmp_path, TEXTS)
    seen = words.see(eye.look(eye.prepare(photos), layers=False).vector.numpy())
    cosine = (seen / np.linalg.norm(seen, axis=1, keepdims=True)) @ words.texts.T
    expected = (theirs.image_embeds @ theirs.text_embeds.T).numpy()
    assert np.abs(cosine - expected).max() < 2e-3 and expected.std() > 0.01


def test_an_arm_reads_as_it_was_trained(finished):
    from paribus.encoders.folders import read_folder
    from paribus.study.study import load_study
    from paribus.types import Runtime

    runtime = Runtime(cache=finished / "cache")
    arm = next(arm.encoder for arm in load_study(finished / "tiny.yaml").all_arms() if arm.name == "clip")
    words = read_words(arm.folder(runtime), TEXTS)
    space = arm.joint(TEXTS, finished, runtime)
    with torch.no_grad():
        assert np.allclose(words.texts, space.read(TEXTS).numpy(), atol=1e-5)
        features = read_folder(arm.folder(runtime)).encoder.eval()(torch.rand(3, 3, 48, 48))
        seen = words.see(features.cls.numpy())
        seen /= np.linalg.norm(seen, axis=1, keepdims=True)
        assert np.allclose(seen, space.see(features).numpy(), atol=1e-5)


def test_what_reads_nothing_is_refused(tmp_path, finished):
    config = hf.Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    hf.Dinov2Model(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"holds no text tower that Paribus asks: .*, not dinov2"):
        read_words(tmp_path, TEXTS)
    dino = next(finished.glob("cache/stages/pretrain-dino-*"))
    with pytest.raises(UserError, match="holds no CLIP of ours"):
        read_words(dino, TEXTS)
