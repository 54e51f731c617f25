"""Real models of the peers with weights far from their start, and real photographs to compare them on."""

import json

import numpy as np
import peers  # noqa: F401 - before anything that imports torchvision
import timm
import torch
import transformers as hf
from open_clip.model import CLIP, _build_vision_tower
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from timm.models._hub import save_for_hf

SIZE = 32
TOWER = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": SIZE,
    "patch_size": 8,
}
WORDS = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "max_position_embeddings": 16,
    "vocab_size": 320,
    "bos_token_id": 1,
    "eos_token_id": 3,
    "pad_token_id": 0,
    "hidden_act": "gelu",
}
TIMM = {"img_size": SIZE, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 0}
OPEN = {"layers": 3, "width": 32, "head_width": 8, "patch_size": 8, "image_size": SIZE, "mlp_ratio": 3.0}


def photographs(size=SIZE, count=32):
    """Pieces of two real photographs as [count 3 size size] in [0, 1]."""
    photos, rng = load_sample_images().images, np.random.default_rng(size)
    pieces = []
    for number in range(count):
        photo = photos[number % 2]
        top, left = rng.integers(0, photo.shape[0] - size), rng.integers(0, photo.shape[1] - size)
        pieces.append(photo[top : top + size, left : left + size])
    return torch.from_numpy(np.stack(pieces)).permute(0, 3, 1, 2).float() / 255


def perturbed(model, seed=0):
    """A model whose every parameter is far from its start: no bias is zero and no norm is one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def normalised(images, config):
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (config.mean, config.std))
    return (images - mean) / std


def save_hf(model, folder, processor=None):
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder


def vit(folder, **settings):
    """A published DINO's layout: ViTModel with its own processor."""
    model = perturbed(
        hf.ViTModel(hf.ViTConfig(**TOWER | {"layer_norm_eps": 1e-6} | settings), add_pooling_layer=False)
    )
    square = {"height": SIZE, "width": SIZE}
    processor = hf.ViTImageProcessor(size=square, image_mean=[0.48, 0.45, 0.4], image_std=[0.2, 0.3, 0.25])
    return model, save_hf(model, folder, processor)


def _clip_processor():
    crop = {"height": SIZE, "width": SIZE}
    return hf.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size=crop)


def clip_vision(folder, made=hf.CLIPVisionModel, **settings):
    model = perturbed(made(hf.CLIPVisionConfig(**TOWER | {"projection_dim": 20} | settings)))
    return model, save_hf(model, folder, _clip_processor())


def clip(folder, **settings):
    config = hf.CLIPConfig(text_config=WORDS, vision_config=TOWER | settings, projection_dim=20)
    model = perturbed(hf.CLIPModel(config))
    return model, save_hf(model, folder, _clip_processor())


def siglip_vision(folder):
    model = perturbed(hf.SiglipVisionModel(hf.SiglipVisionConfig(**TOWER)))
    processor = hf.SiglipImageProcessor(size={"height": SIZE, "width": SIZE})
    return model, save_hf(model, folder, processor)


def siglip(folder):
    words = {name: value for name, value in WORDS.items() if "token_id" not in name}
    model = perturbed(hf.SiglipModel(hf.SiglipConfig(text_config=words, vision_config=TOWER)))
    return model, save_hf(model, folder, hf.SiglipImageProcessor(size={"height": SIZE, "width": SIZE}))


def of_timm(folder, name="vit_base_patch16_224", **settings):
    """A model of timm's in a folder as timm itself writes it for the hub."""
    model = perturbed(timm.create_model(name, **TIMM | {"mlp_ratio": 3.0} | settings))
    save_for_hf(model, folder, model_args=TIMM | {"mlp_ratio": 3.0} | settings)
    return model, folder


def of_open_clip(folder, quick=False, embed=20, whole=False, pixels=None, **settings):
    """A model of open_clip's in a folder as open_clip's push_to_hf_hub lays it out."""
    tower = OPEN | settings
    words = {"context_length": 16, "vocab_size": 320, "width": 24, "heads": 3, "layers": 2}
    if whole:
        model = CLIP(embed, tower, words, quick_gelu=quick)
    else:
        model = torch.nn.Module()
        model.visual = _build_vision_tower(embed, tower, quick_gelu=quick)
    perturbed(model)
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    said = {"embed_dim": embed, "quick_gelu": quick, "vision_cfg": tower, "text_cfg": words}
    config = {"model_cfg": said, "preprocess_cfg": {"size": SIZE} | (pixels or {})}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return model, folder
