"""Where transformers, timm and open_clip keep each tensor of ours: tables of names and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Names = dict[str, tuple[str, ...]]

STRUCTURE = {
    "cls_token": "a class token",
    "register_tokens": "register tokens",
    "norm_pre": "a LayerNorm before the blocks",
    "head": "an attention-pooling head",
}
"""Our stem -> what a person calls it."""


@dataclass(frozen=True)
class Layout:
    """Where another library keeps our tensors.

    Args:
        title: the class that reads it.
        names: our stem -> their names; several stand side by side along the first dimension. ``{n}`` is the
            number of the block, ``{kind}`` weight or bias.
        prefix: what their names begin with when we write; any prefix is understood when we read.
        drops: our stem -> how many leading dimensions of size one they leave out.
        bare: stems that have no bias there.
        free: parts of ``names`` that a model in this layout may lack.
        ignored: names, after the prefix, that are no part of the tower: classifiers, poolers, buffers.
    """

    title: str
    names: Names
    prefix: str = ""
    drops: Mapping[str, int] = field(default_factory=dict)
    bare: frozenset[str] = frozenset()
    free: frozenset[str] = frozenset()
    ignored: str = r"(?!)"


def _table(block: str, blocks: Mapping[str, str], rest: Mapping[str, str]) -> Names:
    """Names from templates; parts that stand side by side are separated by a space."""
    inner = {
        f"blocks.{ours}": [f"{block}.{name}" for name in theirs.split()] for ours, theirs in blocks.items()
    }
    outer = {ours: theirs.split() for ours, theirs in rest.items()}
    return {ours: tuple(theirs) for ours, theirs in (inner | outer).items()}


VIT = Layout(
    title="transformers' ViTModel",
    names=_table(
        "encoder.layer.{n}",
        {
            "norm1": "layernorm_before.{kind}",
            "attn.qkv": "attention.attention.query.{kind} attention.attention.key.{kind} "
            "attention.attention.value.{kind}",
            "attn.proj": "attention.output.dense.{kind}",
            "norm2": "layernorm_after.{kind}",
            "mlp.0": "intermediate.dense.{kind}",
            "mlp.2": "output.dense.{kind}",
        },
        {
            "cls_token": "embeddings.cls_token",
            "pos_embed": "embeddings.position_embeddings",
            "patch_embed": "embeddings.patch_embeddings.projection.{kind}",
            "norm": "layernorm.{kind}",
        },
    ),
    ignored=r"pooler\.|classifier\.",
)

HF_BLOCK = {
    "norm1": "layer_norm1.{kind}",
    "attn.qkv": "self_attn.q_proj.{kind} self_attn.k_proj.{kind} self_attn.v_proj.{kind}",
    "attn.proj": "self_attn.out_proj.{kind}",
    "norm2": "layer_norm2.{kind}",
    "mlp.0": "mlp.fc1.{kind}",
    "mlp.2": "mlp.fc2.{kind}",
}

CLIP_VISION = Layout(
    title="transformers' CLIPVisionModel",
    names=_table(
        "encoder.layers.{n}",
        HF_BLOCK,
        {
            "cls_token": "embeddings.class_embedding",
            "pos_embed": "embeddings.position_embedding.weight",
            "patch_embed": "embeddings.patch_embedding.{kind}",
            "norm_pre": "pre_layrnorm.{kind}",
            "norm": "post_layernorm.{kind}",
        },
    ),
    prefix="vision_model.",
    drops={"cls_token": 2, "pos_embed": 1},
    bare=frozenset({"patch_embed"}),
    ignored=r"embeddings\.position_ids$|visual_projection\.",
)

SIGLIP_VISION = Layout(
    title="transformers' SiglipVisionModel",
    names=_table(
        "encoder.layers.{n}",
        HF_BLOCK,
        {
            "pos_embed": "embeddings.position_embedding.weight",
            "patch_embed": "embeddings.patch_embedding.{kind}",
            "norm": "post_layernorm.{kind}",
            "head.probe": "head.probe",
            "head.qkv": "head.attention.in_proj_{kind}",
            "head.proj": "head.attention.out_proj.{kind}",
            "head.norm": "head.layernorm.{kind}",
            "head.mlp.0": "head.mlp.fc1.{kind}",
            "head.mlp.2": "head.mlp.fc2.{kind}",
        },
    ),
    prefix="vision_model.",
    drops={"pos_embed": 1},
    ignored=r"embeddings\.position_ids$",
)

TIMM = Layout(
    title="timm's VisionTransformer",
    names=_table(
        "blocks.{n}",
        {
            "norm1": "norm1.{kind}",
            "attn.qkv": "attn.qkv.{kind}",
            "attn.proj": "attn.proj.{kind}",
            "norm2": "norm2.{kind}",
            "mlp.0": "mlp.fc1.{kind}",
            "mlp.2": "mlp.fc2.{kind}",
        },
        {
            "cls_token": "cls_token",
            "register_tokens": "reg_token",
            "pos_embed": "pos_embed",
            "patch_embed": "patch_embed.proj.{kind}",
            "norm_pre": "norm_pre.{kind}",
            "norm": "norm.{kind}",
            "head.probe": "attn_pool.latent",
            "head.qkv": "attn_pool.q.{kind} attn_pool.kv.{kind}",
            "head.proj": "attn_pool.proj.{kind}",
            "head.norm": "attn_pool.norm.{kind}",
            "head.mlp.0": "attn_pool.mlp.fc1.{kind}",
            "head.mlp.2": "attn_pool.mlp.fc2.{kind}",
        },
    ),
    free=frozenset(STRUCTURE),
    ignored=r"head\.",
)

OPEN_BLOCK = {
    "norm1": "ln_1.{kind}",
    "attn.qkv": "attn.in_proj_{kind}",
    "attn.proj": "attn.out_proj.{kind}",
    "norm2": "ln_2.{kind}",
    "mlp.0": "mlp.c_fc.{kind}",
    "mlp.2": "mlp.c_proj.{kind}",
}

OPEN_VISION = Layout(
    title="open_clip's VisionTransformer",
    names=_table(
        "transformer.resblocks.{n}",
        OPEN_BLOCK,
        {
            "cls_token": "class_embedding",
            "pos_embed": "positional_embedding",
            "patch_embed": "conv1.{kind}",
            "norm_pre": "ln_pre.{kind}",
            "norm": "ln_post.{kind}",
        },
    ),
    prefix="visual.",
    drops={"cls_token": 2, "pos_embed": 1},
    bare=frozenset({"patch_embed"}),
    free=frozenset({"norm_pre"}),
    ignored=r"proj$",
)

_TEXT = {
    "token_embed": "token_embedding.{kind}",
    "pos_embed": "positional_embedding",
    "norm": "ln_final.{kind}",
}
OPEN_TEXT = Layout(
    title="open_clip's TextTransformer",
    names=_table("transformer.resblocks.{n}", OPEN_BLOCK, _TEXT),
    ignored=r"visual\.|logit_|text_projection$|attn_mask$",
)
HF_TEXT = Layout(
    title="transformers' CLIPTextModel",
    names=_table(
        "encoder.layers.{n}",
        HF_BLOCK,
        {
            "token_embed": "embeddings.token_embedding.{kind}",
            "pos_embed": "embeddings.position_embedding.weight",
            "norm": "final_layer_norm.{kind}",
        },
    ),
    prefix="text_model.",
    ignored=r"embeddings\.position_ids$",
)
