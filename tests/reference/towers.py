"""The same weights in transformers' own models: ViTModel and CLIPTextModel as the peers of our towers."""

import peers  # noqa: F401 - before transformers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, ViTConfig, ViTModel


def vit_of(encoder):
    """A transformers ViTModel with an encoder's weights; it wants normalised pixels."""
    config = encoder.config
    peer = ViTModel(
        ViTConfig(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=int(config.width * config.mlp_ratio),
            image_size=config.image_size,
            patch_size=config.patch,
            layer_norm_eps=1e-6,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    ).to(encoder.pos_embed.dtype)
    weights = {
        "embeddings.cls_token": encoder.cls_token,
        "embeddings.position_embeddings": encoder.pos_embed,
        "embeddings.patch_embeddings.projection.weight": encoder.patch_embed.weight,
        "embeddings.patch_embeddings.projection.bias": encoder.patch_embed.bias,
        "layernorm.weight": encoder.norm.weight,
        "layernorm.bias": encoder.norm.bias,
    }
    names = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj",
        "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2",
    }
    for number, block in enumerate(encoder.blocks):
        weights |= _block(block, f"layers.{number}", names, "attention")
    peer.load_state_dict(weights, strict=True)
    return peer.eval()


def clip_text_of(tower):
    """A transformers CLIPTextModel with a text tower's weights, and the map of token ids.

    transformers reads the end token by its id except where that id is 2, an old mistake it keeps; ours is 2,
    so the peer's vocabulary has ids 2 and 3 exchanged.
    """
    config, vocabulary = tower.config, tower.tokenizer.get_vocab_size()
    swap = torch.arange(vocabulary)
    swap[2], swap[3] = 3, 2
    peer = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            max_position_embeddings=config.context,
            hidden_act="gelu",
            layer_norm_eps=1e-5,
            attention_dropout=0.0,
            bos_token_id=1,
            eos_token_id=3,
            pad_token_id=0,
        )
    ).to(tower.pos_embed.dtype)
    names = {
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
        "attn.proj": "self_attn.out_proj",
        "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2",
    }
    weights = {
        "embeddings.token_embedding.weight": tower.token_embed.weight[swap],
        "embeddings.position_embedding.weight": tower.pos_embed,
        "final_layer_norm.weight": tower.norm.weight,
        "final_layer_norm.bias": tower.norm.bias,
    }
    for number, block in enumerate(tower.blocks):
        weights |= _block(block, f"encoder.layers.{number}", names, "self_attn")
    prefix = "text_model." if any(name.startswith("text_model.") for name in peer.state_dict()) else ""
    peer.load_state_dict({prefix + name: value for name, value in weights.items()}, strict=True)
    return peer.eval(), swap


def _block(block, place, names, attention):
    """One block's weights by the peer's names; the joint qkv falls apart into three."""
    state, out = block.state_dict(), {}
    for ours, theirs in names.items():
        for kind in ("weight", "bias"):
            out[f"{place}.{theirs}.{kind}"] = state[f"{ours}.{kind}"]
    for kind in ("weight", "bias"):
        for part, value in zip("qkv", state[f"attn.qkv.{kind}"].chunk(3), strict=True):
            out[f"{place}.{attention}.{part}_proj.{kind}"] = value
    return out
