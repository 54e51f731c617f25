"""The published encoders by name, and their pictures prepared as published."""

import json

import numpy as np
import peers  # noqa: F401 - before anything that imports torchvision
import pytest
import timm
import torch
import transformers as hf
from open_clip import transform as open_transform
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import transforms

from encoders import checkpoints
from encoders.checkpoints import TOWER, normalised, perturbed, photographs
from paribus.encoders.folders import write_open_clip, write_timm, write_transformers
from paribus.encoders.foreign import IMAGENET, OPENAI
from paribus.encoders.published import PUBLISHED, evaluate, load, transform_words
from paribus.encoders.vision import EncoderConfig, VisionEncoder
from paribus.errors import UserError

CONFIG = EncoderConfig(patch=8, width=32, depth=3, heads=4, image_size=32)
MODES = {
    "bicubic": transforms.InterpolationMode.BICUBIC,
    "bilinear": transforms.InterpolationMode.BILINEAR,
}


def pictures():
    """Real photographs of odd and even sides, wide and tall."""
    photos = [np.ascontiguousarray(photo) for photo in load_sample_images().images]
    tall = np.ascontiguousarray(photos[0][:301, :100].transpose(1, 0, 2)[:, ::-1])
    return [photos[0], photos[1][:211, :333].copy(), tall, photos[1][:40, :40].copy()]


def shrunk_release(folder, name):
    """A folder of the layout that a name is published in: the real class, ViT-B made small."""
    size = TOWER | {"patch_size": PUBLISHED[name].patch, "image_size": 64}
    if name.startswith("dino"):
        model = hf.ViTModel(hf.ViTConfig(**size), add_pooling_layer=False)
    elif name.startswith("siglip"):
        model = hf.CLIPVisionModel(hf.CLIPVisionConfig(**size | {"hidden_act": "gelu"}))
    else:
        words = checkpoints.WORDS
        model = hf.CLIPModel(hf.CLIPConfig(text_config=words, vision_config=size | {"hidden_act": "gelu"}))
    perturbed(model).save_pretrained(folder / name)
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_name_is_read_from_its_layout(tmp_path, name):
    model = shrunk_release(tmp_path, name)
    encoder, about = load(name, root=tmp_path)
    config = encoder.config
    assert config.patch == (32 if name.endswith("32") else 16)
    assert (config.mean, config.std) == tuple((IMAGENET if "dino" in name else OPENAI).values())
    assert config.interpolation == "bicubic" and not config.squash and about.notes == ()
    assert "DataComp" in about.trained.objective
    pixels = photographs(64, 8)
    tower = getattr(model, "vision_model", model)
    theirs = tower(normalised(pixels, config))
    cls = theirs.last_hidden_state[:, 0] if theirs.pooler_output is None else theirs.pooler_output
    assert (encoder(pixels).cls - cls).abs().max() < 1e-4


def test_what_a_release_says_of_its_pictures_goes_before_what_is_known(tmp_path):
    shrunk_release(tmp_path, "dino-datacomp-12m-16")
    processor = hf.ViTImageProcessor(size={"height": 64, "width": 64}, image_mean=[0.1, 0.2, 0.3])
    processor.save_pretrained(tmp_path / "dino-datacomp-12m-16")
    config = load("dino-datacomp-12m-16", root=tmp_path).encoder.config
    assert config.mean == (0.1, 0.2, 0.3) and config.squash and config.resize is None


def test_seven_are_known():
    assert len(PUBLISHED) == 7
    assert all(entry.repo == f"Leonardo6/{name}" for name, entry in PUBLISHED.items())


def test_what_is_not_there_is_said_with_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"download the repository Leonardo6/clip-vicuna .* into it"):
        load("clip-vicuna", root=tmp_path)
    with pytest.raises(UserError, match=r"neither a folder nor a published encoder, which are dino-data"):
        load("clip-vicunia", root=tmp_path)
    with pytest.raises(UserError, match="has no config"):
        load(tmp_path)
    shrunk_release(tmp_path, "clip-datacomp-12m-16")
    (tmp_path / "clip-datacomp-12m-16").rename(tmp_path / "clip-datacomp-12m-32")
    with pytest.raises(UserError, match=r"has patches of 16 pixels and clip-datacomp-12m-32 has 32"):
        load("clip-datacomp-12m-32", root=tmp_path)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("resize", "size"), [(None, 32), (37, 32), (256, 224)])
def test_pictures_are_prepared_as_torchvision_does(interpolation, resize, size):
    """open_clip's and timm's transform: the same bytes for every picture."""
    config = CONFIG.model_copy(
        update={"interpolation": interpolation, "resize": resize, "image_size": size, "patch": 8}
    )
    side = resize or size
    peer = transforms.Compose(
        [transforms.Resize(side, MODES[interpolation]), transforms.CenterCrop(size), transforms.PILToTensor()]
    )
    theirs = torch.stack([peer(Image.fromarray(picture)) for picture in pictures()]).float() / 255
    assert torch.equal(evaluate(config, pictures()), theirs)


@pytest.mark.parametrize("make", ["clip", "vit", "siglip"])
def test_pictures_are_prepared_as_the_published_processor_does(tmp_path, make):
    """The PIL processors of transformers, whatever the margins of the crop."""
    made = {"clip": checkpoints.clip_vision, "vit": checkpoints.vit, "siglip": checkpoints.siglip_vision}
    _, folder = made[make](tmp_path / "theirs")
    config = load(folder).encoder.config
    processor = hf.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    longer = [int(40 * max(picture.shape) / min(picture.shape[:2])) for picture in pictures()]
    assert {side % 2 for side in longer} == {0, 1}
    theirs = processor([Image.fromarray(picture) for picture in pictures()], return_tensors="pt")[
        "pixel_values"
    ]
    ours = normalised(evaluate(config, pictures()), config)
    assert ours.shape == theirs.shape
    step = 1 / 255 / min(config.std)
    assert (ours - theirs).abs().max() <= 1.01 * step, "at most a rounding of the last bit"
    assert (ours - theirs).abs().mean() < 0.01 * step


SENT = {"mean": (0.4, 0.5, 0.6), "std": (0.3, 0.2, 0.25)}


def by_transformers(encoder, folder):
    write_transformers(encoder, folder)
    processor = hf.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    return lambda picture: processor(picture, return_tensors="pt")["pixel_values"][0]


def by_timm(encoder, folder):
    write_timm(encoder, folder)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)


def by_open_clip(encoder, folder):
    write_open_clip(encoder, folder)
    said = json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]
    return open_transform.image_transform_v2(open_transform.PreprocessCfg(**said), is_train=False)


@pytest.mark.parametrize("peer", [by_transformers, by_timm, by_open_clip])
@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize(("interpolation", "resize"), [("bicubic", None), ("bilinear", 38)])
def test_the_transform_goes_out_with_the_weights(tmp_path, peer, squash, interpolation, resize):
    """What the peer makes of a picture, from the exported folder alone, is what we make of it."""
    update = {"squash": squash, "interpolation": interpolation, "resize": resize, **SENT}
    encoder = VisionEncoder(CONFIG.model_copy(update=update))
    if peer is by_open_clip and resize:
        with pytest.raises(UserError, match="not to 38"):
            peer(encoder, tmp_path / "out")
        return
    transform = peer(encoder, tmp_path / "out")
    wide = pictures()[0][:400, :600].copy()
    ours = normalised(evaluate(encoder.config, [wide]), encoder.config)[0]
    assert (ours - transform(Image.fromarray(wide))).abs().max() <= 1.01 / 255 / 0.2
    assert (ours - transform(Image.fromarray(wide))).abs().mean() < 1e-3


def test_the_transform_in_words():
    assert transform_words(CONFIG) == "resize the shorter side to 32 (bicubic), crop the centre 32"
    squash = CONFIG.model_copy(update={"squash": True, "interpolation": "bilinear"})
    assert transform_words(squash) == "resize both sides to 32 (bilinear)"
