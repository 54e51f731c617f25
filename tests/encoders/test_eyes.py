"""Any published encoder as an eye: what it sees equals its own library's pipeline, processor and model."""

import json

import numpy as np
import peers  # noqa: F401 - before timm
import pytest
import timm
import torch
import transformers as hf
from open_clip import CLIP, image_transform
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from timm.models._hub import save_for_hf

from encoders.checkpoints import perturbed
from paribus.encoders.eyes import open_eye
from paribus.encoders.folders import write_paribus
from paribus.encoders.vision import EncoderConfig, VisionEncoder
from paribus.errors import UserError

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
TOWER = {**SMALL, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
WORDS = {**SMALL, "vocab_size": 100, "intermediate_size": 64, "bos_token_id": 0, "eos_token_id": 1}
MEAN = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CROP = {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}, "resample": 3, **MEAN}
SQUARE = {"size": {"height": 32, "width": 32}}


def photographs():
    china, flower = load_sample_images().images
    return [china, flower[:300, :211], china[:97, :400], flower[:57, :57]]


def first(out):
    return out.last_hidden_state[:, 0]


def pooled(out):
    return out.pooler_output.flatten(1)


def dinov2(**more):
    return hf.Dinov2Model(hf.Dinov2Config(**SMALL, mlp_ratio=2, image_size=112, patch_size=14, **more))


def registers():
    config = hf.Dinov2WithRegistersConfig(**SMALL, image_size=56, patch_size=14, use_swiglu_ffn=True)
    return hf.Dinov2WithRegistersModel(config)


def clip():
    return hf.CLIPModel(hf.CLIPConfig(text_config=WORDS, vision_config=TOWER))


def mae():
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    config = hf.ViTMAEConfig(**TOWER, **decoder, decoder_intermediate_size=32, mask_ratio=0.0)
    return hf.ViTMAEForPreTraining(config)


def siglip():
    return hf.SiglipModel(hf.SiglipConfig(text_config=WORDS, vision_config=TOWER))


MODELS = {
    "DINOv2 at another size": (dinov2, hf.BitImageProcessorPil(**CROP), first, "class token"),
    "DINOv2 with registers": (registers, hf.BitImageProcessorPil(**CROP), first, "class token"),
    "DINOv3": (
        lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**TOWER)),
        hf.ViTImageProcessorPil(**SQUARE, **MEAN),
        first,
        "class token",
    ),
    "CLIP": (
        clip,
        hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        pooled,
        "class token",
    ),
    "SigLIP": (siglip, hf.SiglipImageProcessorPil(**SQUARE), pooled, "attention-pooling head"),
    "MAE": (mae, hf.ViTImageProcessorPil(**SQUARE, **MEAN, resample=3), first, "class token"),
    "ViT": (
        lambda: hf.ViTModel(hf.ViTConfig(**TOWER), add_pooling_layer=False),
        hf.ViTImageProcessorPil(**SQUARE),
        first,
        "class token",
    ),
    "Swin": (
        lambda: hf.SwinModel(
            hf.SwinConfig(image_size=64, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
        ),
        hf.ViTImageProcessorPil(size={"height": 64, "width": 64}),
        pooled,
        "pooled places",
    ),
    "ConvNeXt": (
        lambda: hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])),
        hf.ConvNextImageProcessorPil(size={"shortest_edge": 64}),
        pooled,
        "pooled places",
    ),
}


def published(folder, name):
    make, processor, reads, read = MODELS[name]
    torch.manual_seed(0)
    model = perturbed(make())
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, reads, read


def theirs(model, processor, **settings):
    """The model's own pipeline on real photographs."""
    tower = getattr(model, "vision_model", getattr(model, "vit", model))
    pixels = processor([Image.fromarray(picture) for picture in photographs()], return_tensors="pt")
    if isinstance(model, hf.ViTMAEForPreTraining):  # it shuffles places by this noise
        settings["noise"] = torch.arange(16.0).repeat(len(photographs()), 1)
    with torch.no_grad():
        return tower(pixel_values=pixels["pixel_values"], output_hidden_states=True, **settings)


@pytest.mark.parametrize("name", MODELS)
def test_it_sees_what_transformers_own_pipeline_sees(tmp_path, name):
    model, processor, reads, read = published(tmp_path / "model", name)
    eye = open_eye(str(tmp_path / "model"))
    out = theirs(model, processor)
    seen = eye.look(eye.prepare(photographs()), layers=True)
    assert eye.about.read == read and eye.about.width == seen.vector.shape[1] and not eye.about.notes
    expected = reads(out)
    scale = expected.abs().max()
    assert (seen.vector - expected).abs().max() < 2e-3 * scale
    assert torch.cosine_similarity(seen.vector, expected).min() > 0.99999
    assert len(seen.layers) == len(out.hidden_states) and torch.equal(seen.layers[-1], seen.vector)
    if read == "class token":
        for ours, state in zip(seen.layers[:-1], out.hidden_states[:-1], strict=True):
            assert (ours - state[:, 0]).abs().max() < 2e-3 * state.abs().max()
    assert torch.equal(eye.look(eye.prepare(photographs()), layers=False).vector, seen.vector)


DINO = {"img_size": 56, "depth": 2, "embed_dim": 32, "num_heads": 2}


def timm_folder(folder, name, **args):
    torch.manual_seed(0)
    model = perturbed(timm.create_model(name, num_classes=7, **args))
    save_for_hf(model, folder, model_args=args)
    return model


@pytest.mark.parametrize(
    ("name", "args", "read"),
    [
        ("resnet10t", {}, "pooled places"),
        (
            "vit_small_patch14_dinov2",
            {"img_size": 56, "depth": 2, "embed_dim": 32, "num_heads": 2},
            "class token",
        ),
    ],
)
def test_it_sees_what_timm_sees(tmp_path, name, args, read):
    model = timm_folder(tmp_path / "model", name, **args)
    if args:
        config = tmp_path / "model" / "config.json"
        said = json.loads(config.read_text())
        said["pretrained_cfg"]["input_size"] = [3, 56, 56]
        config.write_text(json.dumps(said))
    loaded = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True, num_classes=0, **args)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(loaded), is_training=False)
    pixels = torch.stack([transform(Image.fromarray(picture)) for picture in photographs()])
    with torch.no_grad():
        expected = model.eval().forward_head(model.forward_features(pixels), pre_logits=True)
    eye = open_eye(str(tmp_path / "model"))
    seen = eye.look(eye.prepare(photographs()), layers=True)
    assert eye.about.format == "timm" and eye.about.read == read
    assert (seen.vector - expected).abs().max() < 2e-3 * expected.abs().max()
    assert len(seen.layers) > 1 and torch.equal(seen.layers[-1], seen.vector)


TEXT = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
OPEN = {
    "ResNet": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 32, "image_size": 64},
    "CoCa": {
        "layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 64,
        "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True,
    },
    "timm's ResNet": {
        "timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", OPEN)
def test_it_sees_what_open_clip_sees(tmp_path, kind):
    torch.manual_seed(0)
    model = perturbed(CLIP(24, OPEN[kind], TEXT, output_dict=True)).eval()
    pixels = {"size": 64, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic"}
    said = {
        "model_cfg": {"embed_dim": 24, "vision_cfg": OPEN[kind], "text_cfg": TEXT},
        "preprocess_cfg": pixels,
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(said))
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    transform = image_transform(64, is_train=False, mean=pixels["mean"], std=pixels["std"])
    shown = torch.stack([transform(Image.fromarray(picture)) for picture in photographs()])
    with torch.no_grad():
        expected = model.visual.trunk(shown) if "timm" in kind else model.encode_image(shown)
        expected = expected[0] if isinstance(expected, tuple) else expected
    eye = open_eye(str(tmp_path))
    seen = eye.look(eye.prepare(photographs()), layers=True)
    assert eye.about.format == "open_clip" and eye.about.size == 64
    assert (seen.vector - expected).abs().max() < 5e-3 * expected.abs().max()
    assert len(seen.layers) > 1 and torch.equal(seen.layers[-1], seen.vector)


def test_our_own_are_read_as_everywhere(tmp_path):
    encoder = perturbed(VisionEncoder(EncoderConfig(patch=8, width=32, depth=2, heads=2, image_size=32)))
    write_paribus(encoder, tmp_path / "own")
    eye = open_eye(str(tmp_path / "own"))
    pixels = eye.prepare(photographs())
    seen = eye.look(pixels, layers=True)
    with torch.no_grad():
        assert torch.equal(seen.vector, encoder(pixels).cls)
        for place, layer in enumerate(seen.layers[1:], start=-2):
            assert torch.equal(layer, encoder(pixels, layer=place).cls)
    assert eye.to(torch.device("cpu")) is eye


# What cannot be an eye.


def bert(folder):
    hf.BertModel(hf.BertConfig(**WORDS)).save_pretrained(folder)


def naflex(folder):
    vision = {**SMALL, "intermediate_size": 64, "patch_size": 8, "num_patches": 16}
    hf.Siglip2Model(hf.Siglip2Config(text_config=WORDS, vision_config=vision)).save_pretrained(folder)


def torn(folder):
    published(folder, "DINOv2 at another size")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def unknown(folder):
    published(folder, "DINOv2 at another size")
    (folder / "config.json").write_text(json.dumps({"model_type": "dinov9"}))


def scaled(folder):
    published(folder, "DINOv2 at another size")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rescale_factor": 2.0}))


def wordless(folder):
    timm_folder(folder, "resnet10t")
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet10t"}))


def odd(folder):
    timm_folder(folder, "resnet10t")
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"architecture": "resnet9000"}))


def other(folder):
    timm_folder(folder, "resnet10t")
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"architecture": "resnet14t"}))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (bert, r"BertModel cannot be run on pictures alone \(You must specify"),
        (naflex, "Siglip2VisionModel cannot be run on pictures alone"),
        (torn, "cannot be read as a transformers model"),
        (unknown, "cannot be read as a transformers model: .*dinov9"),
        (scaled, "scales pixels by 2.0"),
        (wordless, "does not say how pictures are prepared"),
        (odd, "cannot be built by timm"),
        (other, "is not the (model|resnet14t) that its config describes"),
        (lambda folder: None, "is neither a folder nor a published encoder"),
        (lambda folder: folder.mkdir(), "has no config"),
    ],
)
def test_what_cannot_be_an_eye_is_refused_in_a_sentence(tmp_path, make, told):
    make(tmp_path / "model")
    with pytest.raises(UserError, match=told) as caught:
        open_eye(str(tmp_path / "model"))
    assert "\n" not in str(caught.value)


def test_a_guess_at_the_preparation_is_told(tmp_path):
    published(tmp_path / "model", "DINOv2 at another size")
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    eye = open_eye(str(tmp_path / "model"))
    assert "no preprocessor_config.json" in eye.about.notes[0] and eye.about.size == 112
    assert np.allclose(eye.pixels.mean, MEAN["image_mean"])
