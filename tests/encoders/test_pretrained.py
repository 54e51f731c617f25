"""Pretrained towers are locked as open_clip 2.30 locks them and give its vectors; bad folders are named."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from objectives import CAPTIONS, ENCODER, tiny_loader
from pydantic import TypeAdapter
from reference.locking import (
    KINDS,
    bert,
    frozen_names,
    ids_of,
    open_clip_lock,
    open_clip_text,
    roberta,
)
from safetensors.torch import load_file, save_file

from paribus.encoders import weights
from paribus.encoders.pretrained import (
    ASSUMED_TOKENS,
    PretrainedConfig,
    PretrainedTower,
    groups_of,
    lock,
    positions_of,
)
from paribus.encoders.projection import build_projection
from paribus.encoders.text import Material
from paribus.encoders.vision import VisionEncoder
from paribus.errors import UserError
from paribus.objectives import AnyObjective, build_objective
from paribus.study.stages import moved
from paribus.types import Clock

TEXTS = ["", "a", *CAPTIONS[::9], "the flower in the sun " * 9]
STRANGE = {
    "empty": "",
    "blank": " \n\t",
    "a megabyte": "flower " * 150_000,
    "a megabyte without a space": "x" * 1_000_000,
    "another script": "花は赤い ящик עברית 🌸",
    "half characters": "a \ud800 flower \udfff",
    "special tokens": "[PAD] <pad> [SEP] </s> [CLS] <s>",
    "zero": "\0",
}
KIND = pytest.mark.parametrize("kind", ["bert", "roberta"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder of each kind for all tests that only read it."""
    return {kind: KINDS[kind](tmp_path_factory.mktemp(kind))[1] for kind in ("bert", "roberta")}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """RoBERTa-base's twelve layers and 514 positions, thin."""
    folder = tmp_path_factory.mktemp("base")
    return roberta(folder, num_hidden_layers=12, max_position_embeddings=514, hidden_size=8)[1]


def tower_of(folder, **settings):
    """Found as a study finds it."""
    config = PretrainedConfig(weights=str(folder), **{"context": 32} | settings)
    return PretrainedTower(config, Material(folder=weights.find(str(folder))))


# The lock.


@KIND
@pytest.mark.parametrize("freeze_layer_norm", [False, True])
@pytest.mark.parametrize("unlocked", range(5))
def test_the_same_tensors_are_frozen_as_in_open_clip(folders, kind, unlocked, freeze_layer_norm):
    """Embeddings and three layers are four groups; every number of them, name by name."""
    tower = tower_of(folders[kind], unlocked=unlocked, freeze_layer_norm=freeze_layer_norm)
    assert len(groups_of(tower.model)) == 4
    peer = open_clip_text(folders[kind], tower.model, projection="mlp")
    open_clip_lock(peer, unlocked, freeze_layer_norm)
    assert {f"model.{name}" for name in frozen_names(peer.transformer)} == frozen_names(tower)
    assert not frozen_names(peer.proj), "its projection stands outside, too"
    assert bool(frozen_names(tower)) == (unlocked < 4)


@KIND
def test_nothing_is_frozen_where_no_number_is_given(folders, kind):
    assert not frozen_names(tower_of(folders[kind]))
    assert not frozen_names(tower_of(folders[kind], freeze_layer_norm=True)), "the norms go with the lock"


def test_a_smaller_number_freezes_more_and_a_larger_one_is_no_undoing(folders):
    model = tower_of(folders["bert"]).model
    sets = []
    for unlocked in (4, 3, 2, 1, 0):
        lock(model, unlocked, True)
        sets.append(frozen_names(model))
    assert all(less < more for less, more in itertools.pairwise(sets))
    assert sets[-1] == {name for name, _ in model.named_parameters()}


EMBEDDINGS = (
    "embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
)
DENSE = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
NORMS = ("attention.output.LayerNorm", "output.LayerNorm")
FROZEN = {
    10: ("embeddings", 0, 1),
    4: ("embeddings", 0, 1, 2, 3, 4, 5, 6, 7),
    1: ("embeddings", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    0: ("embeddings", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11),
    12: ("embeddings",),
    13: (),
    None: (),
}
"""Of RoBERTa-base: what does not train besides LayerNorms, by the number that is unlocked."""


def table(places, parts):
    """The tensors of some groups, written out."""
    names = list(EMBEDDINGS) if "embeddings" in places and parts is DENSE else []
    for place in places:
        if place == "embeddings":
            names += [f"embeddings.LayerNorm.{kind}" for kind in ("weight", "bias") if parts is NORMS]
        else:
            names += [f"encoder.layer.{place}.{part}.{kind}" for part in parts for kind in ("weight", "bias")]
    return set(names)


def test_the_table_has_every_tensor_of_roberta_base(base):
    everything = table(FROZEN[0], DENSE) | table(FROZEN[0], NORMS)
    assert {name for name, _ in tower_of(base).model.named_parameters()} == everything
    assert len(table(FROZEN[0], DENSE)) == 3 + 12 * 12 and len(table(FROZEN[0], NORMS)) == 2 + 12 * 4


@pytest.mark.parametrize("unlocked", FROZEN)
def test_roberta_base_is_locked_as_the_table_says(base, unlocked):
    tower = tower_of(base, unlocked=unlocked)
    assert frozen_names(tower.model) == table(FROZEN[unlocked], DENSE)
    strict = tower_of(base, unlocked=unlocked, freeze_layer_norm=True)
    wanted = table(FROZEN[unlocked], DENSE) | table(FROZEN[unlocked], NORMS)
    assert frozen_names(strict.model) == wanted


@pytest.mark.parametrize(
    ("preset", "unlocked"), [("clip-roberta10-datacomp-12m-16", 10), ("clip-roberta4-datacomp-12m-16", 4)]
)
def test_presets_freeze_and_train_what_their_names_say(base, preset, unlocked):
    """By the lists that a run's record will hold, and by what a real loss reaches."""
    given = {"preset": preset, "embed": 6, "text": {"weights": str(base)}}
    config = TypeAdapter(AnyObjective).validate_python(given)
    objective = build_objective(config, VisionEncoder(ENCODER), Material(folder=base), 0)
    moving, frozen = moved(objective)
    assert Counter(frozen) == Counter(f"joint.text.model.{name}" for name in table(FROZEN[unlocked], DENSE))
    assert Counter(moving + frozen) == Counter(name for name, _ in objective.named_parameters())
    norms = {f"joint.text.model.{name}" for name in table(FROZEN[0], NORMS)}
    projection = {"joint.text_proj.0.weight", "joint.text_proj.2.weight"}
    assert norms | projection <= set(moving)
    batch = tiny_loader("clip").make(0)
    loss = objective.loss(objective.encode(batch), Clock(0, 0, 60)).total
    loss.backward()
    reached = {name for name, value in objective.named_parameters() if value.grad is not None}
    assert reached == set(moving)


# The vectors.


@KIND
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_vectors_and_gradients_equal_open_clips(folders, kind, pooling, projection):
    tower = tower_of(folders[kind], pooling=pooling, projection=projection)
    ours = build_projection(projection, tower.width, 8)
    peer = open_clip_text(folders[kind], tower.model, pooling=pooling, projection=projection)
    peer.proj.load_state_dict(ours.state_dict(), strict=True)
    ids = ids_of(tower.tokenizer, TEXTS, 32)
    weight = torch.randn(len(TEXTS), 8, generator=torch.Generator().manual_seed(0))
    mine, theirs = ours(tower(TEXTS)), peer(ids)
    assert theirs.std(dim=0).min() > 1e-3, "texts differ, so that there is something to compare"
    assert (mine - theirs).abs().max() < 1e-5
    (mine * weight).sum().backward()
    (theirs * weight).sum().backward()
    compared = 0
    pairs = [(tower.model, peer.transformer), (ours, peer.proj)]
    for module, other in pairs:
        expected = dict(other.named_parameters())
        for name, parameter in module.named_parameters():
            assert torch.allclose(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-5), name
            compared += int(parameter.grad.abs().max() > 1e-4)
    assert compared > 30


@KIND
def test_the_first_token_and_the_mean_are_not_the_same(folders, kind):
    first, mean = (tower_of(folders[kind], pooling=pooling)(TEXTS) for pooling in ("cls", "mean"))
    assert (first - mean).abs().max() > 0.1


@KIND
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@torch.no_grad()
def test_neither_padding_nor_neighbours_change_a_text(folders, kind, pooling):
    tower = tower_of(folders[kind], pooling=pooling)
    together = tower(TEXTS)
    for row, text in enumerate(TEXTS):
        assert torch.allclose(tower([text])[0], together[row], atol=1e-5), text
    assert torch.allclose(tower(TEXTS[::-1]), together.flip(0), atol=1e-5)


@KIND
@torch.no_grad()
def test_words_after_the_context_are_not_read(folders, kind):
    tower = tower_of(folders[kind], context=6)
    long = "the left of a flower mostly red " * 3
    assert torch.equal(tower([long]), tower([long + "and blue"]))
    assert not torch.allclose(tower([long]), tower(["blue " + long]), atol=1e-3)


@KIND
def test_there_is_no_dropout_though_the_config_asks_for_it(folders, kind):
    said = json.loads((folders[kind] / "config.json").read_text())
    assert said["hidden_dropout_prob"] == said["attention_probs_dropout_prob"] == 0.1
    tower = tower_of(folders[kind])
    still = tower.eval()(TEXTS)
    tower.train()
    assert tower.model.training
    assert torch.equal(tower(TEXTS), still) and torch.equal(tower(TEXTS), still)
    noisy = open_clip_text(folders[kind], tower.model).train()
    ids = ids_of(tower.tokenizer, TEXTS, 32)
    assert not torch.equal(noisy(ids), noisy(ids)), "the config's dropout would be seen"


@KIND
def test_two_towers_of_a_folder_are_the_same_whatever_the_seed(folders, kind):
    config, material = PretrainedConfig(weights=str(folders[kind])), Material(folder=folders[kind])
    one, other = (PretrainedTower(config, material, seed=seed).state_dict() for seed in (0, 1))
    stored = load_file(folders[kind] / "model.safetensors")
    assert {name.removeprefix("model.") for name in one} == set(stored)
    for name, value in stored.items():
        assert torch.equal(one[f"model.{name}"], value) and torch.equal(other[f"model.{name}"], value)


@KIND
def test_a_tower_that_only_counts_has_the_same_tensors_frozen(folders, kind):
    config = PretrainedConfig(weights=str(folders[kind]), unlocked=2)
    with torch.device("meta"):
        blank = PretrainedTower(config, Material())
        assert blank(["a", "b"]).shape == (2, blank.width) and config.context >= ASSUMED_TOKENS
    real = tower_of(folders[kind], unlocked=2)
    assert frozen_names(blank) == frozen_names(real)
    shapes = [{name: value.shape for name, value in tower.named_parameters()} for tower in (blank, real)]
    assert shapes[0] == shapes[1]


# MiniLM, whose weights are real.


@pytest.fixture(scope="module")
def minilm():
    try:
        return weights.find("minilm")
    except UserError as error:
        pytest.skip(str(error))


@torch.no_grad()
def test_minilm_knows_apples_from_fire_engines(minilm):
    tower = PretrainedTower(PretrainedConfig(weights="minilm"), Material(folder=minilm))
    red, green, engine = F.normalize(tower(["red apple", "green apple", "fire engine"]), dim=-1)
    assert float(red @ green) == pytest.approx(0.80, abs=0.02)
    assert float(red @ engine) == pytest.approx(0.23, abs=0.04)


@torch.no_grad()
def test_minilm_equals_bert_models_mean(minilm):
    from transformers import AutoTokenizer, BertModel

    tower = PretrainedTower(PretrainedConfig(weights="minilm"), Material(folder=minilm))
    peer = BertModel.from_pretrained(minilm, add_pooling_layer=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    for text, vector in zip(TEXTS, tower(TEXTS), strict=True):
        given = tokenizer(text, return_tensors="pt", truncation=True, max_length=77, padding=False)
        expected = peer(**given).last_hidden_state[0].mean(dim=0)
        assert torch.allclose(vector, expected, atol=1e-5), text


# Bad input.


@KIND
@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
@torch.no_grad()
def test_every_text_has_a_finite_vector(folders, kind, text):
    tower = tower_of(folders[kind])
    together = tower([text, *TEXTS])
    assert together.isfinite().all() and together[0].abs().max() > 0
    assert torch.allclose(tower([text])[0], together[0], atol=1e-5)
    assert torch.allclose(together[1:], tower(TEXTS), atol=1e-5), "the neighbours do not notice"


def test_a_half_character_reads_as_a_question_mark(folders):
    tower = tower_of(folders["roberta"])
    assert torch.equal(tower(["a \ud800 flower"]), tower(["a ? flower"]))


def refused(folder, **settings):
    """The one sentence that a folder is refused with."""
    with pytest.raises(UserError) as caught:
        tower_of(folder, **settings)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 400
    return sentence


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    bert(tmp_path, vocab_size=40)
    sentence = refused(tmp_path)
    assert str(tmp_path) in sentence and "40 embeddings" in sentence
    assert "do not belong together" in sentence


def test_a_tokenizer_with_few_tokens_but_large_ids_is_refused(tmp_path):
    """What matters is whether every id has an embedding, not how many there are."""
    bert(tmp_path)
    path = tmp_path / "tokenizer.json"
    said = json.loads(path.read_text())
    said["model"]["vocab"]["flower"] = 5000
    path.write_text(json.dumps(said))
    assert "do not belong together" in refused(tmp_path)


@KIND
@torch.no_grad()
def test_a_context_may_fill_all_positions_and_no_more(folders, kind):
    """BERT has 96; RoBERTa has 98, which begin after the padding id."""
    tower = tower_of(folders[kind], context=96)
    assert positions_of(tower.model) == 96
    long = "a flower " * 500
    assert len(ids_of(tower.tokenizer, [long], 96)[0]) == 96
    assert tower([long]).isfinite().all()
    sentence = refused(folders[kind], context=97)
    assert "text.context is 97" in sentence and "has 96 positions" in sentence and "lower it" in sentence


def test_roberta_base_reads_512_tokens(base):
    assert positions_of(tower_of(base, context=512).model) == 512
    assert "512 positions" in refused(base, context=513)


def test_more_layers_than_there_are_cannot_be_unlocked(folders):
    sentence = refused(folders["bert"], unlocked=5)
    assert "text.unlocked is 5" in sentence and "4 groups" in sentence and "at most 4" in sentence


def test_a_folder_without_weights_is_refused(tmp_path):
    bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    sentence = refused(tmp_path)
    assert str(tmp_path) in sentence and "holds no weights" in sentence and "model.safetensors" in sentence


def test_a_folder_without_a_config_is_refused(tmp_path):
    bert(tmp_path)
    (tmp_path / "config.json").unlink()
    sentence = refused(tmp_path)
    assert str(tmp_path) in sentence and "no config.json" in sentence and "copy" in sentence


@pytest.mark.parametrize("config", ["", "[]", "{}", '{"model_type": "nothing"}', "\ud800 {"])
def test_a_folder_with_a_damaged_config_is_refused(tmp_path, config):
    bert(tmp_path)
    (tmp_path / "config.json").write_bytes(config.encode("utf-8", "surrogatepass"))
    assert str(tmp_path) in refused(tmp_path)


@KIND
def test_a_folder_without_a_tokenizer_is_refused(tmp_path, kind):
    """transformers would make up a tokenizer of five tokens that knows no word."""
    KINDS[kind](tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    sentence = refused(tmp_path)
    assert str(tmp_path) in sentence and "tokenizer" in sentence and "copy the model's" in sentence


@pytest.mark.parametrize("keep", [0, 300])
def test_a_damaged_tokenizer_is_refused(tmp_path, keep):
    bert(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:keep])
    sentence = refused(tmp_path)
    assert str(tmp_path) in sentence and "tokenizer" in sentence and "copy the model's" in sentence


@pytest.mark.parametrize("keep", [0, 4, 0.01, 0.5, -1])
def test_truncated_weights_are_refused(tmp_path, keep):
    bert(tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: round(keep * len(content)) if 0 < keep < 1 else keep])
    sentence = refused(tmp_path)
    assert str(tmp_path) in sentence and "cannot be read" in sentence


def resave(folder, change):
    """Other tensors into a folder's file."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {name: value for name, value in state.items() if "layer.2." not in name},
        lambda state: {name: value for name, value in state.items() if name != "embeddings.LayerNorm.bias"},
        lambda state: {f"other.{name}": value for name, value in state.items()},
    ],
    ids=["a layer short", "a bias short", "other names"],
)
def test_weights_that_lack_a_tensor_are_refused(tmp_path, change):
    """transformers would draw it at random and say so only in its log, which is off."""
    bert(tmp_path)
    resave(tmp_path, change)
    sentence = refused(tmp_path)
    assert str(tmp_path) in sentence


def test_weights_of_other_sizes_are_refused(tmp_path):
    bert(tmp_path)
    resave(tmp_path, lambda state: state | {"embeddings.LayerNorm.bias": torch.zeros(17)})
    assert str(tmp_path) in refused(tmp_path)


def test_weights_with_a_head_are_read_without_it(tmp_path):
    """As published ones come: a pooler and a head for words, which the tower has no use for."""
    model, _ = bert(tmp_path)
    head = {"pooler.dense.weight": torch.zeros(16, 16), "cls.predictions.bias": torch.zeros(330)}
    resave(tmp_path, lambda state: state | head)
    state = tower_of(tmp_path).model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another safetensors"])
def test_no_pickle_is_read(tmp_path, monkeypatch, beside):
    model, _ = bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    if beside:
        save_file({"scale": torch.ones(1)}, tmp_path / "adapter.safetensors")
    opened, load = [], torch.load

    def watched(*args, **settings):
        opened.append(args)
        return load(*args, **settings)

    monkeypatch.setattr(torch, "load", watched)
    sentence = refused(tmp_path)
    assert str(tmp_path) in sentence and not opened


def test_no_code_of_a_folder_is_run(tmp_path, monkeypatch):
    """Not even if a person at a terminal would say yes."""
    folder, marker = tmp_path / "model", tmp_path / "ran"
    bert(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "strange.Strange"}}
    (folder / "config.json").write_text(json.dumps(config))
    code = f"open({str(marker)!r}, 'w').close()\nfrom transformers import BertConfig as Strange\n"
    (folder / "strange.py").write_text(code)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    modules = "transformers.dynamic_module_utils.HF_MODULES_CACHE"
    monkeypatch.setattr(modules, str(tmp_path / "modules"))
    assert str(folder) in refused(folder)
    assert not marker.exists()


@torch.no_grad()
def test_a_model_without_fused_attention_is_read_beside_a_gpu_too(tmp_path, monkeypatch):
    """MPNet and DeBERTa have only their own."""
    config = hf.MPNetConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=330)
    hf.MPNetModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    hf.AutoTokenizer.from_pretrained(roberta(tmp_path / "words")[1]).save_pretrained(tmp_path)
    here = tower_of(tmp_path)(TEXTS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch.equal(tower_of(tmp_path)(TEXTS), here)


def test_a_named_model_without_a_package_asks_for_its_folder():
    sentence = refused(Path("roberta-base"))
    assert "'roberta-base'" in sentence and "give the path of a folder" in sentence
