"""Weights come in from and go out to the peers' real models without a change of function or of a bit."""

import json
import math

import peers  # noqa: F401 - before anything that imports torchvision
import pytest
import safetensors.torch
import timm
import torch
import transformers as hf
from objectives import CAPTIONS, TOKENIZER
from open_clip import factory, get_tokenizer
from open_clip.model import _build_vision_tower
from timm.models.vision_transformer import VisionTransformer, resize_pos_embed

from encoders import checkpoints
from encoders.checkpoints import SIZE, normalised, perturbed, photographs
from paribus.encoders import folders, foreign_timm, towers_exchange
from paribus.encoders.exchange import blank, ratio, register_positions, size_name, to_layout
from paribus.encoders.folders import (
    WRITERS,
    Trained,
    read_folder,
    write_open_clip,
    write_paribus,
    write_timm,
    write_transformers,
)
from paribus.encoders.layouts import CLIP_VISION, SIGLIP_VISION, VIT
from paribus.encoders.text import END, Material, TextConfig, TextTower
from paribus.encoders.towers_exchange import Joint
from paribus.encoders.vision import EncoderConfig, VisionEncoder, preset, weights_digest
from paribus.errors import UserError

CLOSE = 1e-4
PLAIN = EncoderConfig(patch=8, width=32, depth=3, heads=4, mlp_ratio=3.0, image_size=SIZE)
"""What every arm of a study trains, small."""
CLIPS = PLAIN.model_copy(update={"pre_norm": True, "eps": 1e-5, "activation": "quick_gelu"})
SIGLIPS = PLAIN.model_copy(update={"pool": "map", "activation": "gelu_tanh"})


def encoder_of(config, seed=3):
    return perturbed(VisionEncoder(config), seed)


def without_patch_bias(encoder):
    with torch.no_grad():
        encoder.patch_embed.bias.zero_()
    return encoder


def apart(ours, cls, patches):
    assert ours.cls.shape == cls.shape and ours.patches.shape == patches.shape
    assert cls.std() > 0.1, "a model that says the same of everything shows nothing"
    return max((ours.cls - cls).abs().max().item(), (ours.patches - patches).abs().max().item())


# What the peers' models say of the same pixels, as (class token's vector, patches).


def by_vit(model, pixels, **extra):
    tokens = model(pixels, **extra).last_hidden_state
    return tokens[:, 0], tokens[:, 1:]


def by_clip(model, pixels, **extra):
    tower = getattr(model, "vision_model", model)
    out = tower(pixels, **extra)
    return out.pooler_output, tower.post_layernorm(out.last_hidden_state[:, 1:])


def by_siglip(model, pixels, **extra):
    out = getattr(model, "vision_model", model)(pixels, **extra)
    return out.pooler_output, out.last_hidden_state


def by_timm(model, pixels):
    return model(pixels), model.forward_features(pixels)[:, model.num_prefix_tokens :]


def by_open_clip(model, pixels):
    visual = model.visual
    return visual._pool(visual.transformer(visual._embeds(pixels)))


PEERS = {
    "ViTModel": (checkpoints.vit, by_vit, {}),
    "ViTModel with quick_gelu": (checkpoints.vit, by_vit, {"hidden_act": "quick_gelu"}),
    "ViTModel without qkv bias": (checkpoints.vit, by_vit, {"qkv_bias": False}),
    "CLIPVisionModel": (checkpoints.clip_vision, by_clip, {}),
    "CLIPVisionModel with gelu": (checkpoints.clip_vision, by_clip, {"hidden_act": "gelu"}),
    "CLIPVisionModelWithProjection": (
        checkpoints.clip_vision,
        by_clip,
        {"made": hf.CLIPVisionModelWithProjection},
    ),
    "CLIPModel": (checkpoints.clip, by_clip, {}),
    "SiglipVisionModel": (checkpoints.siglip_vision, by_siglip, {}),
    "SiglipModel": (checkpoints.siglip, by_siglip, {}),
    "timm": (checkpoints.of_timm, by_timm, {}),
    "timm with gelu_tanh": (checkpoints.of_timm, by_timm, {"act_layer": "gelu_tanh"}),
    "timm with registers": (checkpoints.of_timm, by_timm, {"reg_tokens": 3}),
    "timm with registers without position": (
        checkpoints.of_timm,
        by_timm,
        {"reg_tokens": 3, "no_embed_class": True},
    ),
    "timm of CLIP": (checkpoints.of_timm, by_timm, {"name": "vit_base_patch16_clip_224"}),
    "timm of OpenAI": (checkpoints.of_timm, by_timm, {"name": "vit_base_patch16_clip_quickgelu_224"}),
    "timm of SigLIP": (checkpoints.of_timm, by_timm, {"name": "vit_base_patch16_siglip_224"}),
    "timm of SigLIP with tanh": (checkpoints.of_timm, by_timm, {"name": "vit_base_patch32_siglip_256"}),
    "open_clip": (checkpoints.of_open_clip, by_open_clip, {}),
    "open_clip of OpenAI": (checkpoints.of_open_clip, by_open_clip, {"quick": True}),
    "open_clip with its text tower": (checkpoints.of_open_clip, by_open_clip, {"whole": True}),
    "open_clip without norm before": (checkpoints.of_open_clip, by_open_clip, {"no_ln_pre": True}),
    "open_clip with another eps": (checkpoints.of_open_clip, by_open_clip, {"norm_kwargs": {"eps": 1e-3}}),
    "open_clip with tanh": (checkpoints.of_open_clip, by_open_clip, {"act_kwargs": {"approximate": "tanh"}}),
}


@torch.no_grad()
@pytest.mark.parametrize("name", PEERS)
def test_what_comes_in_says_what_the_peer_says(tmp_path, name):
    make, says, settings = PEERS[name]
    model, folder = make(tmp_path / "theirs", **settings)
    encoder, about = read_folder(folder)
    assert about.notes == ()
    pixels = photographs()
    theirs = says(model, normalised(pixels, encoder.config))
    assert apart(encoder(pixels), *theirs) < CLOSE
    again = tmp_path / "ours"
    write_paribus(encoder, again)
    assert weights_digest(read_folder(again).encoder) == weights_digest(encoder)


# Out, into the real classes of the peers.


def load_vit(folder):
    model, report = hf.AutoModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    assert type(model) is hf.ViTModel
    return model, by_vit, report


def load_clip(folder):
    model, report = hf.CLIPVisionModel.from_pretrained(folder, output_loading_info=True)
    assert type(hf.AutoModel.from_pretrained(folder)) is hf.CLIPVisionModel
    return model, by_clip, report


def load_siglip(folder):
    model, report = hf.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert type(model) is hf.SiglipVisionModel
    return model, by_siglip, report


def load_timm(folder):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert type(model) is VisionTransformer
    return model, by_timm, {}


def load_open_clip(folder):
    said = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    model = torch.nn.Module()
    model.visual = _build_vision_tower(said["embed_dim"], said["vision_cfg"], said["quick_gelu"])
    model.load_state_dict(safetensors.torch.load_file(folder / "open_clip_model.safetensors"), strict=True)
    return model, by_open_clip, {}


def other(config, **update):
    return EncoderConfig.model_validate(config.model_dump() | update)


CROPPED = {"mean": (0.4, 0.5, 0.6), "std": (0.3, 0.2, 0.25), "resize": 37, "interpolation": "bilinear"}
OUT = {
    "plain to ViTModel": (PLAIN, write_transformers, load_vit),
    "quick_gelu and a crop to ViTModel": (
        other(PLAIN, activation="quick_gelu", eps=1e-4, **CROPPED),
        write_transformers,
        load_vit,
    ),
    "CLIP to CLIPVisionModel": (CLIPS, write_transformers, load_clip),
    "SigLIP to SiglipVisionModel": (other(SIGLIPS, squash=True), write_transformers, load_siglip),
    "plain to timm": (other(PLAIN, **CROPPED), write_timm, load_timm),
    "registers to timm": (other(PLAIN, registers=2), write_timm, load_timm),
    "eps 1e-5 to timm": (other(PLAIN, eps=1e-5), write_timm, load_timm),
    "CLIP to timm": (CLIPS, write_timm, load_timm),
    "CLIP with registers to timm": (other(CLIPS, registers=2, eps=1e-6), write_timm, load_timm),
    "SigLIP to timm": (other(SIGLIPS, squash=True), write_timm, load_timm),
    "SigLIP with registers to timm": (other(SIGLIPS, registers=2), write_timm, load_timm),
    "plain to open_clip": (PLAIN, write_open_clip, load_open_clip),
    "CLIP to open_clip": (CLIPS, write_open_clip, load_open_clip),
    "tanh to open_clip": (other(CLIPS, activation="gelu_tanh", squash=True), write_open_clip, load_open_clip),
}


@torch.no_grad()
@pytest.mark.parametrize("name", OUT)
def test_what_goes_out_is_the_same_function_and_comes_back_bit_for_bit(tmp_path, name):
    config, write, load = OUT[name]
    encoder = encoder_of(config)
    if config.pre_norm or write is write_open_clip:
        without_patch_bias(encoder)
    write(encoder, tmp_path / "out")
    model, says, report = load(tmp_path / "out")
    assert not any(report.values()), report
    pixels = photographs()
    theirs = says(model.eval(), normalised(pixels, config))
    assert apart(encoder(pixels), *theirs) < CLOSE
    back = read_folder(tmp_path / "out").encoder
    # Whoever reads transformers' folder prepares pictures as transformers does, to half a pixel.
    assert back.config.model_copy(update={"crop": config.crop}) == config
    assert weights_digest(back) == weights_digest(encoder)


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "write", "load"),
    [
        (CLIPS, write_transformers, load_clip),
        (CLIPS, write_timm, load_timm),
        (CLIPS, write_open_clip, load_open_clip),
        (PLAIN, write_open_clip, load_open_clip),
    ],
)
def test_a_bias_of_the_patches_goes_into_the_positions_where_it_has_no_place(tmp_path, config, write, load):
    encoder = encoder_of(config)
    assert encoder.patch_embed.bias.abs().max() > 0.1
    write(encoder, tmp_path / "out")
    model, says, _ = load(tmp_path / "out")
    pixels = photographs()
    assert apart(encoder(pixels), *says(model.eval(), normalised(pixels, config))) < CLOSE
    back, small = read_folder(tmp_path / "out").encoder, photographs(size=24)
    assert apart(encoder(small), *back(small)[::2]) < CLOSE, "also where positions are interpolated"


@torch.no_grad()
@pytest.mark.parametrize("make", ["gelu", "quick_gelu"])
def test_the_wrong_activation_would_be_seen(tmp_path, make):
    model, folder = checkpoints.clip_vision(tmp_path / "theirs", hidden_act=make)
    encoder = read_folder(folder).encoder
    wrong = VisionEncoder(
        other(encoder.config, activation={"gelu": "quick_gelu", "quick_gelu": "gelu"}[make])
    )
    wrong.load_state_dict(encoder.state_dict())
    pixels = photographs()
    theirs = by_clip(model, normalised(pixels, encoder.config))
    assert apart(encoder(pixels), *theirs) < CLOSE
    assert apart(wrong(pixels), *theirs) > 1e-3


@torch.no_grad()
def test_other_sizes_interpolate_as_the_peers_do(tmp_path):
    """transformers and SigLIP: bicubic as ours; timm too without its antialiasing (see test_vit_timm)."""
    for name, make, says in (
        ("vit", checkpoints.vit, by_vit),
        ("clip", checkpoints.clip_vision, by_clip),
        ("siglip", checkpoints.siglip_vision, by_siglip),
    ):
        model, folder = make(tmp_path / name)
        encoder = read_folder(folder).encoder
        for size in (24, 48):
            pixels = photographs(size, 8)
            theirs = says(model, normalised(pixels, encoder.config), interpolate_pos_encoding=True)
            assert apart(encoder(pixels), *theirs) < CLOSE
    model, folder = checkpoints.of_timm(tmp_path / "timm", name="vit_base_patch16_clip_224")
    encoder = read_folder(folder).encoder
    large = resize_pos_embed(model.pos_embed, torch.empty(1, 37, 32), 1, (6, 6))
    assert (encoder.positions(6, 6) - large).abs().max() < CLOSE, "timm's plain bicubic"


@torch.no_grad()
@pytest.mark.parametrize("name", ["ViTModel", "CLIPVisionModel", "SiglipVisionModel"])
def test_lower_layers_are_the_peers_hidden_states(tmp_path, name):
    make, _, _ = PEERS[name]
    model, folder = make(tmp_path / "theirs")
    encoder, pixels = read_folder(folder).encoder, photographs()
    states = model(normalised(pixels, encoder.config), output_hidden_states=True).hidden_states
    for layer in (-2, -3):
        lead = encoder.config.lead
        assert (encoder(pixels, layer=layer).patches - states[layer][:, lead:]).abs().max() < CLOSE


@torch.no_grad()
def test_an_open_clip_model_with_a_tower_of_timms_is_read(tmp_path):
    model, _ = checkpoints.of_timm(tmp_path / "theirs", name="vit_base_patch16_siglip_224")
    whole = {f"visual.trunk.{name}": value for name, value in model.state_dict().items()}
    timms = json.loads((tmp_path / "theirs" / "config.json").read_text())
    folder = tmp_path / "open"
    folder.mkdir()
    safetensors.torch.save_file(whole, folder / "open_clip_model.safetensors")
    tower = {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "image_size": SIZE}
    said = {"model_cfg": {"embed_dim": 32, "vision_cfg": tower}, "preprocess_cfg": {"mean": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match=r"it looks like .*width 32, patch 8"):
        read_folder(folder)
    assert timms["architecture"] == tower["timm_model_name"]


def test_every_plain_architecture_of_timm_is_described_as_timm_builds_it(tmp_path):
    """The table of names against timm itself: all its VisionTransformers that ours can be."""
    seen = 0
    for name in timm.list_models("vit_*", module="vision_transformer"):
        if not foreign_timm.NAME.fullmatch(name):
            continue
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0, depth=2)
        pixels = dict(model.pretrained_cfg)
        theirs = {key: value.shape for key, value in model.state_dict().items()}
        cut = model.patch_embed.img_size[0] % model.patch_embed.patch_size[0]
        if cut or "blocks.0.ls1.gamma" in theirs or "blocks.0.attn.qkv.bias" not in theirs:
            continue  # ours never drops pixels at the edge, and has no LayerScale; other tests have no bias
        said = {"architecture": name, "pretrained_cfg": pixels, "model_args": {"depth": 2}}
        config = foreign_timm.read_config(said, tmp_path)
        block = model.blocks[0]
        assert config.eps == model.norm.eps, name
        assert config.heads == block.attn.num_heads, name
        acts = {"GELU": "gelu", "QuickGELU": "quick_gelu", "GELUTanh": "gelu_tanh"}
        assert config.activation == acts[type(block.mlp.act).__name__], name
        assert config.image_size == model.patch_embed.img_size[0], name
        ours = register_positions(to_layout(blank(config), foreign_timm.layout_of(config)), config, add=True)
        assert {key: value.shape for key, value in ours.items()} == theirs, name
        seen += 1
    assert seen > 50


# Pre-processing.


@pytest.mark.parametrize("name", ["ViTModel", "CLIPVisionModel", "SiglipVisionModel"])
def test_preprocessing_comes_along(tmp_path, name):
    make, _, settings = PEERS[name]
    _, folder = make(tmp_path / "theirs", **settings)
    said = json.loads((folder / "preprocessor_config.json").read_text())
    config = read_folder(folder).encoder.config
    assert list(config.mean) == said["image_mean"] and list(config.std) == said["image_std"]
    assert config.interpolation == {2: "bilinear", 3: "bicubic"}[said["resample"]]
    assert config.squash == ("height" in said["size"])
    assert config.resize == (40 if "shortest_edge" in said["size"] else None)


def test_without_a_preprocessor_config_the_class_default_is_taken_and_told(tmp_path):
    _, folder = checkpoints.clip_vision(tmp_path / "theirs")
    (folder / "preprocessor_config.json").unlink()
    encoder, about = read_folder(folder)
    assert about.notes and "no preprocessor_config.json" in about.notes[0]
    assert encoder.config.mean == tuple(hf.CLIPImageProcessor().image_mean)


# Files.


def test_shards_and_pickles_without_code_are_read(tmp_path):
    model, folder = checkpoints.vit(tmp_path / "whole")
    whole = read_folder(folder).encoder
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert weights_digest(read_folder(tmp_path / "shards").encoder) == weights_digest(whole)
    pickled = safetensors.torch.load_file(folder / "model.safetensors")
    torch.save(pickled, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert weights_digest(read_folder(folder).encoder) == weights_digest(whole)


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, capsys):
    _, folder = checkpoints.vit(tmp_path / "theirs")
    (folder / "model.safetensors").unlink()
    torch.save({"a": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is damaged or holds more than tensors"):
        read_folder(folder)
    assert "ran" not in capsys.readouterr().out


def test_half_precision_weights_are_read_as_they_are(tmp_path):
    model, folder = checkpoints.vit(tmp_path / "theirs")
    model.half().save_pretrained(folder)
    encoder = read_folder(folder).encoder
    assert encoder.norm.weight.dtype == torch.float32
    assert torch.equal(encoder.norm.weight.half(), model.layernorm.weight)


def test_a_stage_of_a_study_is_read_with_what_it_was_trained_with(tmp_path):
    folder, encoder = tmp_path / "pretrain-x-0123", encoder_of(PLAIN)
    folders.save_weights(encoder, folder / "encoder.safetensors")
    config = {
        "encoder": json.loads(PLAIN.model_dump_json()),
        "objective": {"kind": "x", "embed": 8},
        "recipe": {"lr": 1e-3},
        "seed": 4,
    }
    record = {"data": "d" * 64, "order": "o" * 64, "samples": 640, "end": weights_digest(encoder)}
    (folder / "record.json").write_text(json.dumps({"config": config, "record": record, "files": {}}))
    loaded = read_folder(folder)
    assert weights_digest(loaded.encoder) == record["end"]
    trained = loaded.about.trained
    assert (trained.objective, trained.samples, trained.seed) == ("x", 640, 4)
    assert (trained.data, trained.order) == (record["data"], record["order"])
    old = {name: value for name, value in config["encoder"].items() if name not in ("activation", "pool")}
    stored = {"config": config | {"encoder": old}, "record": record, "files": {}}
    (folder / "record.json").write_text(json.dumps(stored))
    assert read_folder(folder).encoder.config == PLAIN, "a record of before these settings"
    write_paribus(loaded.encoder, tmp_path / "own", trained.model_copy(update={"study": "s", "arm": "a"}))
    again = read_folder(tmp_path / "own").about.trained
    assert again == trained.model_copy(update={"study": "s", "arm": "a"})
    assert isinstance(again, Trained)
    stored["files"] = {"encoder.safetensors": "0" * 64}
    (folder / "record.json").write_text(json.dumps(stored))
    bad(folder, r"encoder\.safetensors is not what record\.json says")
    (folder / "record.json").write_text(json.dumps({"config": {"source": {}}, "record": {}, "files": {}}))
    bad(folder, "has no field 'encoder': it is no checkpoint of an encoder")


# What does not fit is said in one sentence.


def bad(folder, match):
    with pytest.raises(UserError, match=match) as told:
        read_folder(folder)
    assert "\n" not in str(told.value)
    return str(told.value)


def edit(folder, name="config.json", **changes):
    said = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps(said))


def test_weights_of_another_size_are_named(tmp_path):
    small = VisionEncoder(preset("small", 16, 32).model_copy(update={"depth": 2}))
    write_transformers(small, tmp_path / "small")
    edit(tmp_path / "small", hidden_size=768, num_attention_heads=12, intermediate_size=3072)
    told = bad(tmp_path / "small", r"it looks like ViT-S/16 \(width 384, patch 16\)")
    assert " more" in told and told.count(" and not ") == 5


def test_missing_and_unknown_names_are_listed(tmp_path):
    _, folder = checkpoints.vit(tmp_path / "theirs")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    gone = tensors.pop("encoder.layer.1.output.dense.bias")
    safetensors.torch.save_file(tensors | {"layer_scale": gone}, folder / "model.safetensors")
    bad(folder, "encoder.layer.1.output.dense.bias is missing, layer_scale is unknown")
    edit(folder, num_hidden_layers=2)
    bad(folder, r"encoder\.layer\.2\..* is unknown.*more")


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 40), r"model\.safetensors is damaged"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "is no JSON object"),
        (lambda f: edit(f, model_type="resnet"), r"model_type 'resnet'.*it reads vit, clip_vision_model"),
        (lambda f: edit(f, model_type=None), "model_type None"),
        (lambda f: edit(f, hidden_act="relu"), "hidden_act 'relu' is none of gelu"),
        (lambda f: edit(f, hidden_size="wide"), "describes no encoder"),
        (lambda f: edit(f, image_size=30), "image_size 30 is not a multiple of patch 8"),
        (lambda f: edit(f, num_channels=1), "num_channels 1"),
        (lambda f: edit(f, "preprocessor_config.json", resample=1), "resample 1.*it reads 3, 2"),
        (lambda f: edit(f, "preprocessor_config.json", rescale_factor=1.0), "scales pixels by 1.0"),
    ],
)
def test_spoilt_folders_are_refused_in_one_sentence(tmp_path, spoil, match):
    _, folder = checkpoints.vit(tmp_path / "theirs")
    spoil(folder)
    bad(folder, match)


def test_a_missing_shard_and_a_shard_elsewhere_are_refused(tmp_path):
    model, _ = checkpoints.vit(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    next((tmp_path / "shards").glob("model-00002*")).unlink()
    bad(tmp_path / "shards", r"model-00002-of-\d+\.safetensors is missing")
    edit(tmp_path / "shards", "model.safetensors.index.json", weight_map={"a": "../b.safetensors"})
    bad(tmp_path / "shards", "has no weight_map of files beside it")


def test_unknown_architectures_of_timm_and_open_clip_are_named(tmp_path):
    _, folder = checkpoints.of_timm(tmp_path / "timm")
    edit(folder, architecture="resnet50")
    bad(folder, "architecture 'resnet50', which Paribus does not know")
    edit(folder, architecture="vit_base_patch16_224", global_pool="avg", model_args={"global_pool": "avg"})
    bad(folder, "global_pool 'avg'")
    _, folder = checkpoints.of_open_clip(tmp_path / "open")
    said = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    edit(folder, "open_clip_config.json", model_cfg={"vision_cfg": said["vision_cfg"] | {"layers": [2, 2]}})
    bad(folder, "no plain VisionTransformer")
    edit(folder, "open_clip_config.json", model_cfg={})
    bad(folder, "has no field 'vision_cfg'")


@pytest.mark.parametrize(
    ("config", "write", "match"),
    [
        (PLAIN, lambda e, o: write_transformers(e, o, SIGLIP_VISION), "no place for a class token"),
        (CLIPS, lambda e, o: write_transformers(e, o, VIT), "no place for a LayerNorm before the blocks"),
        (PLAIN, lambda e, o: write_transformers(e, o, CLIP_VISION), "always has a LayerNorm before"),
        (other(PLAIN, registers=2), write_transformers, "no place for register tokens"),
        (SIGLIPS, write_open_clip, "no place for an attention-pooling head"),
        (other(PLAIN, eps=1e-12), write_timm, "1e-6 or 1e-5 in its norms and not 1e-12"),
        (other(PLAIN, resize=40), write_open_clip, "not to 40"),
    ],
)
def test_what_has_no_place_is_refused_and_nothing_is_written(tmp_path, config, write, match):
    with pytest.raises(UserError, match=match):
        write(encoder_of(config), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_sizes_have_their_published_names():
    assert size_name(preset("base", 32)) == "ViT-B/32" and size_name(preset("tiny", 16)) == "ViT-Ti/16"
    assert size_name(PLAIN) is None
    for width, hidden in ((1152, 4304), (1408, 6144), (1664, 8192), (768, 3072), (7, 11)):
        assert int(width * ratio(width, hidden)) == hidden
    assert set(WRITERS) == {"paribus", "transformers", "timm", "open_clip"}


# A whole CLIP.


def joint_of(config, **update):
    text = TextConfig(context=16, vocabulary=TOKENIZER.get_vocab_size(), width=24, depth=2, heads=3)
    tower = perturbed(TextTower(text, Material(tokenizer=TOKENIZER)), 5)
    generator = torch.Generator().manual_seed(1)
    projections = [torch.randn(20, width, generator=generator) / 4 for width in (config.width, 24)]
    joint = Joint(
        without_patch_bias(encoder_of(config)), tower, *projections, scale_log=torch.tensor(math.log(20.0))
    )
    return joint._replace(**update)


def embeddings(joint, texts):
    image = joint.image(photographs()).cls @ joint.image_proj.T
    return image, joint.text(texts) @ joint.text_proj.T


TEXTS = [*CAPTIONS[:8], "temple", "", "a text that is longer than the context " * 5]


def same_parts(one, other):
    assert weights_digest(one.image) == weights_digest(other.image)
    assert weights_digest(one.text) == weights_digest(other.text)
    assert one.text.config == other.text.config
    assert one.text.tokenizer.to_str() == other.text.tokenizer.to_str()
    for name in ("image_proj", "text_proj", "scale_log"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@torch.no_grad()
@pytest.mark.parametrize("config", [PLAIN, CLIPS], ids=["plain", "clip"])
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_a_whole_clip_is_transformers_model_of_it(tmp_path, config, activation):
    """Words in, similarities out, with nothing of ours in between: AutoModel and AutoTokenizer."""
    joint = joint_of(config)
    towers_exchange.with_activation(joint.text, activation)
    towers_exchange.write_transformers_joint(joint, tmp_path / "out")
    model, report = hf.AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")["input_ids"]
    swap = torch.arange(len(joint.text.token_embed.weight))
    swap[2], swap[3] = 3, 2
    assert torch.equal(swap[ids], joint.text.tokenize(TEXTS))
    pixels = normalised(photographs(), config)
    image, text = embeddings(joint, TEXTS)
    theirs = model.get_image_features(pixels).pooler_output, model.get_text_features(ids).pooler_output
    assert (image - theirs[0]).abs().max() < CLOSE and image.std() > 0.1
    assert (text - theirs[1]).abs().max() < CLOSE and text.std() > 0.1
    out = model(input_ids=ids, pixel_values=pixels)
    units = [part / part.norm(dim=-1, keepdim=True) for part in (image, text)]
    assert (20 * units[0] @ units[1].T - out.logits_per_image).abs().max() < 1e-3
    back = towers_exchange.read_transformers_joint(tmp_path / "out")
    same_parts(joint, back)
    assert towers_exchange.activation_of(back.text) == activation
    assert torch.equal(back.text(TEXTS), joint.text(TEXTS))


@torch.no_grad()
def test_transformers_reads_texts_at_our_end_token_and_would_not_without_the_exchange(tmp_path):
    joint = joint_of(PLAIN)
    towers_exchange.write_transformers_joint(joint, tmp_path / "out")
    model = hf.AutoModel.from_pretrained(tmp_path / "out")
    assert model.config.text_config.eos_token_id == 3
    ids = hf.AutoTokenizer.from_pretrained(tmp_path / "out")(TEXTS[:4], padding=True, return_tensors="pt")
    ids = ids["input_ids"]
    right = model.get_text_features(ids).pooler_output
    model.text_model.eos_token_id = 2
    legacy = model.get_text_features(ids).pooler_output
    assert (right - embeddings(joint, TEXTS[:4])[1]).abs().max() < CLOSE
    assert (right - legacy).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("bias", [None, -10.0])
@pytest.mark.parametrize("config", [PLAIN, CLIPS], ids=["plain", "clip"])
def test_a_whole_clip_is_open_clips_model_of_it(tmp_path, config, bias):
    joint = joint_of(config, bias=None if bias is None else torch.tensor(bias))
    towers_exchange.with_activation(joint.text, config.activation)
    towers_exchange.write_open_clip_joint(joint, tmp_path / "out")
    model, pre = factory.create_model_from_pretrained(f"local-dir:{tmp_path / 'out'}")
    assert f"mean={config.mean}" in str(pre).replace("[", "(").replace("]", ")")
    tokenizer = get_tokenizer(f"local-dir:{tmp_path / 'out'}")
    texts = [text for text in TEXTS if text]
    pixels = normalised(photographs(), config)
    image, text = embeddings(joint, texts)
    assert (image - model.eval().encode_image(pixels)).abs().max() < CLOSE
    assert (text - model.encode_text(tokenizer(texts))).abs().max() < CLOSE
    assert model.logit_scale == joint.scale_log
    assert (model.logit_bias if bias is None else model.logit_bias.item()) == bias
    back = towers_exchange.read_open_clip_joint(tmp_path / "out")
    same_parts(joint, back)
    assert (back.bias if bias is None else back.bias.item()) == bias


def test_a_clip_of_another_vocabulary_is_refused_whole_and_read_as_an_encoder(tmp_path):
    _, folder = checkpoints.clip(tmp_path / "theirs")
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=TOKENIZER)
    tokenizer.save_pretrained(folder)
    said = (folder / "tokenizer.json").read_text().replace(END, "<|endoftext|>")
    (folder / "tokenizer.json").write_text(said)
    with pytest.raises(UserError, match=r"has no token <end>.*image tower alone"):
        towers_exchange.read_transformers_joint(folder)
    assert read_folder(folder).encoder.config.pre_norm
    write_transformers(encoder_of(CLIPS), tmp_path / "alone")
    with pytest.raises(UserError, match="it is no whole CLIP"):
        towers_exchange.read_transformers_joint(tmp_path / "alone")


def test_what_a_whole_clip_has_no_place_for_is_refused(tmp_path):
    with pytest.raises(UserError, match="no place for a bias of the logits"):
        towers_exchange.write_transformers_joint(joint_of(PLAIN, bias=torch.tensor(-10.0)), tmp_path / "a")
    with pytest.raises(UserError, match="one activation for both towers"):
        towers_exchange.write_open_clip_joint(joint_of(CLIPS), tmp_path / "b")
    assert not list(tmp_path.iterdir())
