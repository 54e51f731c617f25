"""Small models as published, and pieces of photographs for them to look at."""

import numpy as np
import torch
import transformers as hf
from encoders.checkpoints import perturbed
from PIL import Image
from sklearn.datasets import load_sample_images
from tokenizers import Tokenizer, models, pre_tokenizers

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = {**SMALL, "vocab_size": 100, "intermediate_size": 64, "bos_token_id": 0, "eos_token_id": 1}


def clip(folder):
    """As published: two towers, of which one looks; 32 pixels."""
    torch.manual_seed(0)
    vision = {**SMALL, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
    perturbed(hf.CLIPModel(hf.CLIPConfig(text_config=WORDS, vision_config=vision))).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    hf.CLIPImageProcessorPil(**size).save_pretrained(folder)


def dino(folder):
    """Of another size: 56 pixels."""
    torch.manual_seed(1)
    config = hf.Dinov2Config(**SMALL, mlp_ratio=2, image_size=56, patch_size=14)
    perturbed(hf.Dinov2Model(config)).save_pretrained(folder)
    size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}}
    hf.BitImageProcessorPil(**size, resample=3).save_pretrained(folder)


def pieces(count):
    """Pieces of two photographs, of many sizes and none of them flat; no two are alike."""
    rng, made = np.random.default_rng(0), 0
    while made < count:
        photo = load_sample_images().images[made % 2]
        height, width = rng.integers(40, 120, 2)
        top, left = rng.integers(0, photo.shape[0] - height), rng.integers(0, photo.shape[1] - width)
        piece = photo[top : top + height, left : left + width]
        if piece.std(axis=(0, 1)).min() > 15:
            made += 1
            yield Image.fromarray(piece)


SEES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SEES |= {"image_size": 32, "patch_size": 8}
READS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
READS |= {
    "vocab_size": 12,
    "max_position_embeddings": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def tokenizer(folder):
    words = ["[PAD]", "[BOS]", "[EOS]", "a", "temple", "flower", "photo", "of", "[UNK]"]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = {"pad_token": "[PAD]", "bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]"}
    whole = hf.PreTrainedTokenizerFast(tokenizer_object=made, **marks)
    whole.save_pretrained(folder)
    return whole


def reading_clip(folder):
    model = perturbed(hf.CLIPModel(hf.CLIPConfig(text_config=READS, vision_config=SEES, projection_dim=16)))
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return model, hf.CLIPImageProcessorPil(**size)


COLOURS = {"blue": (40, 60, 200), "green": (30, 170, 60), "red": (210, 40, 40)}


def photograph(image, colour, seed):
    """A piece of a photograph, tinted."""
    rng = np.random.default_rng(seed)
    piece = np.asarray(image.resize((40, 40)), np.float32)
    tinted = 0.5 * piece + 0.5 * np.array(colour) + rng.normal(0, 8, piece.shape)
    return Image.fromarray(tinted.clip(0, 255).astype(np.uint8))


def write_classes(folder, train=12, test=6):
    """Photographs in folders of classes, which a person could tell by their tint."""
    images = list(pieces(len(COLOURS) * (train + test)))
    for place, (name, colour) in enumerate(COLOURS.items()):
        mine = images[place :: len(COLOURS)]
        for number, image in enumerate(mine):
            home = folder / ("train" if number < train else "test") / name
            home.mkdir(parents=True, exist_ok=True)
            photograph(image, colour, number + 100 * place).save(home / f"{name}{number:02d}.png")
