"""Caption vectors are a language model's hidden states, computed once, whatever interrupts the work."""

import functools
import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
import transformers as hf
from objectives import CAPTIONS, ENCODER, TOKENIZER, same_bits, tiny_loader
from reference.locking import KINDS, bert, llama, qwen2
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from paribus.encoders import vectors, weights
from paribus.encoders.text import Material, clean
from paribus.encoders.vectors import FrozenConfig, VectorTower, compute_vectors, vector_flops
from paribus.encoders.vision import VisionEncoder
from paribus.errors import UserError
from paribus.objectives import OBJECTIVES
from paribus.rng import key_id
from paribus.study.stages import moved
from paribus.types import Clock

CPU = torch.device("cpu")
TEXTS = ["", "a", *CAPTIONS[::3], "the flower in the sun " * 9]
STRANGE = ["花は赤い ящик 🌸", "a \ud800 flower", "flower " * 150_000, "x" * 1_000_000, "\0", "<end> <pad>"]
KIND = pytest.mark.parametrize("kind", ["llama", "qwen2"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder of each kind for all tests that only read it."""
    return {kind: KINDS[kind](tmp_path_factory.mktemp(kind))[1] for kind in ("llama", "qwen2", "bert")}


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory):
    """What an uninterrupted run over all captions leaves."""
    folder = tmp_path_factory.mktemp("whole")
    compute(FrozenConfig(weights=str(folders["llama"])), CAPTIONS, folder)
    return files_of(folder)


@pytest.fixture
def computed(folders, tmp_path):
    """A folder of vectors of all captions, and the config they were made with."""
    config = FrozenConfig(weights=str(folders["llama"]))
    compute(config, CAPTIONS, tmp_path / "vectors")
    return config, tmp_path / "vectors"


def compute(config, captions, folder, weights_folder=None, **settings):
    found = weights.find(config.weights if weights_folder is None else str(weights_folder))
    return compute_vectors(config, found, captions, folder, device=CPU, **{"batch": 4} | settings)


def read(config, folder, texts):
    return VectorTower(config, Material(folder=folder))(texts)


def files_of(folder):
    return {name: (folder / name).read_bytes() for name in ("ids.npy", "vectors.npy", "meta.json")}


# What the vectors are.


@torch.no_grad()
def by_hand(folder, texts, layer, pooling, dtype, context=77):
    """Each text alone through transformers' whole model: nothing is cut, padded or masked."""
    model = hf.AutoModel.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    out = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=context)["input_ids"] or [tokenizer.eos_token_id]
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        hidden = states[layer][0].float()
        pooled = {"mean": hidden.mean(dim=0), "last": hidden[-1], "cls": hidden[0]}[pooling]
        out.append(pooled / pooled.norm())
    return torch.stack(out)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "bert"])
@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_vectors_are_hidden_states_pooled_by_hand(folders, tmp_path, kind, layer, pooling):
    """Alone and in bf16 to float16's precision; in one padded batch and in float32 to bf16's."""
    config = FrozenConfig(weights=str(folders[kind]), layer=layer, pooling=pooling)
    for batch, dtype, tolerance in ((1, torch.bfloat16, 5e-4), (len(TEXTS), torch.float32, 3e-2)):
        compute(config, TEXTS, tmp_path / str(batch), batch=batch)
        found = read(config, tmp_path / str(batch), TEXTS)
        expected = by_hand(folders[kind], TEXTS, layer, pooling, dtype)
        assert (found - expected).abs().max() < tolerance
        assert torch.allclose(found.norm(dim=-1), torch.ones(len(TEXTS)), atol=2e-3)


def test_every_choice_of_layer_and_pooling_gives_other_vectors(folders, tmp_path):
    """Guard of the test above: a wrong layer or pooling would be far outside its tolerance."""
    found = []
    for layer in (-1, -2, -3, -4):
        for pooling in ("mean", "last", "cls"):
            config = FrozenConfig(weights=str(folders["llama"]), layer=layer, pooling=pooling)
            compute(config, TEXTS, tmp_path / f"{layer}{pooling}")
            found.append(read(config, tmp_path / f"{layer}{pooling}", TEXTS))
    for row, one in enumerate(found):
        assert all((one - other).abs().max() > 0.1 for other in found[:row])


@KIND
def test_neither_padding_nor_neighbours_change_a_vector(folders, tmp_path, kind):
    config = FrozenConfig(weights=str(folders[kind]))
    for batch in (1, len(TEXTS)):
        compute(config, TEXTS, tmp_path / str(batch), batch=batch)
    alone, together = (read(config, tmp_path / str(batch), TEXTS) for batch in (1, len(TEXTS)))
    assert (alone - together).abs().max() < 1e-2


def test_only_the_context_is_read(folders, tmp_path):
    config = FrozenConfig(weights=str(folders["llama"]), context=4, pooling="last")
    compute(config, CAPTIONS[:1], tmp_path)
    expected = by_hand(folders["llama"], CAPTIONS[:1], -1, "last", torch.bfloat16, context=4)
    assert (read(config, tmp_path, CAPTIONS[:1]) - expected).abs().max() < 2e-3


@KIND
def test_every_text_has_a_finite_unit_vector(folders, tmp_path, kind):
    config = FrozenConfig(weights=str(folders[kind]))
    assert compute(config, [*STRANGE, ""], tmp_path).captions == len(STRANGE) + 1
    found = read(config, tmp_path, [*STRANGE, ""])
    assert found.isfinite().all()
    assert torch.allclose(found.norm(dim=-1), torch.ones(len(found)), atol=2e-3)


# Once, and whatever happens.


class Watched:
    """``embed`` that keeps what it is given and can stop the work before a block."""

    def __init__(self, monkeypatch, stop=None):
        self.seen, self.stop, self.embed = [], stop, vectors.embed
        monkeypatch.setattr(vectors, "embed", self)

    def __call__(self, model, tokenizer, texts, config):
        if len(self.seen) == self.stop:
            raise KeyboardInterrupt
        self.seen.append(list(texts))
        return self.embed(model, tokenizer, texts, config)


def test_each_caption_goes_through_the_model_once(folders, tmp_path, monkeypatch):
    watched = Watched(monkeypatch)
    meta = compute(FrozenConfig(weights=str(folders["llama"])), [*CAPTIONS, *CAPTIONS[::-2]], tmp_path)
    assert sorted(text for block in watched.seen for text in block) == sorted(CAPTIONS)
    assert max(map(len, watched.seen)) == 4
    lengths = [len(text) for block in watched.seen for text in block]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1], "texts of like length share a block"
    assert meta.captions == len(CAPTIONS) and meta.width == 32
    ids, table = np.load(tmp_path / "ids.npy"), np.load(tmp_path / "vectors.npy")
    assert ids.tolist() == sorted(map(key_id, CAPTIONS))
    assert table.shape == (len(CAPTIONS), 32) and table.dtype == np.float16
    assert json.loads((tmp_path / "meta.json").read_text()) == {"captions": len(CAPTIONS), "width": 32}


def test_the_order_of_the_captions_and_their_repetition_change_no_bit(folders, tmp_path):
    config = FrozenConfig(weights=str(folders["qwen2"]))
    for name, captions in (("once", CAPTIONS), ("again", [*CAPTIONS[::-1], *CAPTIONS[:9]])):
        compute(config, iter(captions), tmp_path / name)
    assert files_of(tmp_path / "once") == files_of(tmp_path / "again")


@pytest.mark.parametrize("every", [1, 3, 20])
@pytest.mark.parametrize("stop", [0, 1, 4, 9])
def test_interrupted_and_resumed_gives_the_same_bits(folders, whole, tmp_path, monkeypatch, stop, every):
    """Forty captions are ten blocks; no block that was noted is computed again."""
    monkeypatch.setattr(vectors, "SAVE_EVERY", every)
    config = FrozenConfig(weights=str(folders["llama"]))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Watched(patch, stop)
        compute(config, CAPTIONS, tmp_path / "broken")
    assert not (tmp_path / "broken" / "vectors.npy").exists(), "half a table is never where a whole one is"
    with monkeypatch.context() as patch:
        watched = Watched(patch)
        compute(config, CAPTIONS, tmp_path / "broken")
        assert len(watched.seen) == 10 - stop // every * every
    assert files_of(tmp_path / "broken") == whole


@pytest.mark.parametrize("step", range(4))
def test_stopped_between_its_last_writes_it_ends_the_same(folders, whole, tmp_path, monkeypatch, step):
    """While the two tables are moved to their place and the note about them is written."""
    monkeypatch.setattr(vectors, "SAVE_EVERY", 3)
    config = FrozenConfig(weights=str(folders["llama"]))
    last = ["ids.npy", "vectors.npy", "meta.json"]
    taken = []

    def stopping(function):
        def stopped(target, *rest):
            if target.name in last:
                taken.append(target.name)
                if len(taken) > step:
                    raise KeyboardInterrupt
            return function(target, *rest)

        return stopped

    with monkeypatch.context() as patch:
        patch.setattr(vectors.shutil, "move", stopping(shutil.move))
        patch.setattr(vectors, "write_json", stopping(vectors.write_json))
        if step < 3:
            with pytest.raises(KeyboardInterrupt):
                compute(config, CAPTIONS, tmp_path / "broken")
        else:
            compute(config, CAPTIONS, tmp_path / "broken")
            assert taken == last, "there is nothing else to be stopped at"
    compute(config, CAPTIONS, tmp_path / "broken")
    assert files_of(tmp_path / "broken") == whole


def empty(path):
    path.write_bytes(b"")


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribble(path):
    path.write_bytes(b"[1] and nothing of numpy's" * 99)


def a_list(path):
    path.write_text("[1]")


def pickled(path):
    np.save(path, np.array([{}, {}], dtype=object), allow_pickle=True)


def gone(path):
    path.unlink()


@pytest.mark.parametrize("name", ["done.json", "vectors.npy"])
@pytest.mark.parametrize("damage", [empty, halve, scribble, a_list, gone])
def test_damage_to_unfinished_work_costs_only_time(folders, whole, tmp_path, monkeypatch, name, damage):
    """A table cut short would be filled up with zeros by numpy."""
    monkeypatch.setattr(vectors, "SAVE_EVERY", 1)
    config = FrozenConfig(weights=str(folders["llama"]))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Watched(patch, 7)
        compute(config, CAPTIONS, tmp_path / "broken")
    damage(tmp_path / "broken" / vectors.CHECKPOINTS / name)
    compute(config, CAPTIONS, tmp_path / "broken")
    assert files_of(tmp_path / "broken") == whole


@pytest.mark.parametrize("changed", ["captions", "weights"])
def test_work_on_something_else_is_not_resumed(tmp_path, monkeypatch, changed):
    """As many captions of the same width, so that the half-filled table would fit."""
    monkeypatch.setattr(vectors, "SAVE_EVERY", 1)
    folder, captions = llama(tmp_path / "model")[1], list(CAPTIONS)
    config = FrozenConfig(weights=str(folder))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Watched(patch, 5)
        compute(config, captions, tmp_path / "broken")
    if changed == "captions":
        captions = [f"not {caption}" for caption in captions]
    else:
        model = hf.LlamaModel.from_pretrained(folder)
        model.embed_tokens.weight.data.neg_()
        model.save_pretrained(folder)
    compute(config, captions, tmp_path / "whole")
    compute(config, captions, tmp_path / "broken")
    assert files_of(tmp_path / "broken") == files_of(tmp_path / "whole")


# What training sees of it.


def test_rows_come_in_the_order_of_the_texts(computed):
    config, folder = computed
    tower = VectorTower(config, Material(folder=folder))
    table = dict(zip(np.load(folder / "ids.npy").tolist(), np.load(folder / "vectors.npy"), strict=True))
    wanted = [CAPTIONS[7], CAPTIONS[0], CAPTIONS[7], CAPTIONS[-1]]
    found = tower(wanted)
    assert found.dtype == torch.float32 and tower.width == 32
    for text, row in zip(wanted, found.numpy(), strict=True):
        assert np.array_equal(row, table[key_id(text)].astype(np.float32))


def test_the_tower_has_nothing_to_train_and_nothing_to_save(computed):
    config, folder = computed
    tower = VectorTower(config, Material(folder=folder))
    assert not list(tower.parameters()) and not tower.state_dict()
    assert not tower(CAPTIONS[:2]).requires_grad
    assert tower.double()(CAPTIONS[:2]).dtype == torch.float64, "what it gives goes where the tower goes"


def test_training_never_touches_the_language_model(tmp_path, monkeypatch):
    """With the model's folder gone and the door to it shut, the loss and all gradients are what they were."""
    folder = qwen2(tmp_path / "model")[1]
    config = FrozenConfig(weights=str(folder))
    batch = tiny_loader("clip").make(0)
    compute(config, {*CAPTIONS, *batch.texts}, tmp_path / "vectors")

    def step():
        material, clip = Material(folder=tmp_path / "vectors"), OBJECTIVES["clip"]
        made = clip(clip.Config(embed=8, text=config), VisionEncoder(ENCODER), material, 0)
        loss = made.loss(made.encode(batch), Clock(0, 0, 60)).total
        loss.backward()
        return made, loss

    before, loss = step()
    shutil.rmtree(folder)
    for name in ("load_model", "load_tokenizer", "embed"):
        monkeypatch.delattr(vectors, name)
    after, again = step()
    assert torch.equal(loss, again)
    grads = [{name: p.grad for name, p in made.named_parameters()} for made in (before, after)]
    assert same_bits(*grads)
    moving, frozen = moved(after)
    assert not frozen and not [name for name in moving if name.startswith("joint.text.")]
    adaptor = [name for name in moving if name.startswith("joint.text_proj.")]
    assert len(adaptor) == 4 * 6 + 4
    assert all(grads[0][name].abs().max() > 0 for name in adaptor)


@pytest.mark.parametrize(("name", "width"), [("vicuna-7b-v1.5", 4096), ("qwen2-7b", 3584), ("smollm2", 576)])
def test_a_tower_that_only_counts_needs_no_vectors(name, width):
    with torch.device("meta"):
        tower = VectorTower(FrozenConfig(weights=name), Material())
        assert tower(["a", "b"]).shape == (2, width)


def gpt2(folder):
    """Learnt positions, and names of its own for its sizes."""
    config = hf.GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=16, n_inner=72)
    hf.GPT2Model(config).save_pretrained(folder)
    hf.PreTrainedTokenizerFast(tokenizer_object=TOKENIZER, eos_token="<end>").save_pretrained(folder)
    return folder


def test_a_tower_that_only_counts_knows_the_width_under_every_name(tmp_path):
    config = FrozenConfig(weights=str(gpt2(tmp_path)), context=16)
    assert VectorTower(config, Material()).width == 32


@pytest.mark.parametrize("text", ["never seen", CAPTIONS[0] + "!", "", "\ud800"])
def test_a_caption_that_was_never_computed_is_named(computed, text):
    config, folder = computed
    with pytest.raises(UserError) as caught:
        read(config, folder, [CAPTIONS[0], text])
    sentence = str(caught.value)
    assert repr(clean(text)) in sentence and str(folder) in sentence and "run the study again" in sentence


def test_a_long_caption_is_named_by_its_beginning(computed):
    config, folder = computed
    with pytest.raises(UserError) as caught:
        read(config, folder, ["no " * 400_000])
    assert len(str(caught.value)) < 400 and "'no no no" in str(caught.value)


def test_no_caption_at_all_leaves_none_to_be_found(folders, tmp_path):
    config = FrozenConfig(weights=str(folders["llama"]))
    assert compute(config, [], tmp_path).captions == 0
    with pytest.raises(UserError, match="has no vector"):
        read(config, tmp_path, ["a"])


@pytest.mark.parametrize("name", ["ids.npy", "vectors.npy"])
@pytest.mark.parametrize("damage", [gone, empty, halve, scribble, pickled])
def test_a_folder_without_vectors_is_named(computed, name, damage):
    config, folder = computed
    damage(folder / name)
    with pytest.raises(UserError) as caught:
        VectorTower(config, Material(folder=folder))
    sentence = str(caught.value)
    assert str(folder) in sentence and "run the study again" in sentence


def test_no_folder_at_all_is_named(tmp_path):
    with pytest.raises(UserError, match="run the study again"):
        VectorTower(FrozenConfig(weights="smollm2"), Material(folder=tmp_path / "nowhere"))


# Bad models.


def refused(config, folder, captions=CAPTIONS):
    with pytest.raises(UserError) as caught:
        compute(config, captions, folder)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 400
    assert not (folder / "vectors.npy").exists()
    return sentence


@pytest.mark.parametrize("layer", [-5, -99])
def test_a_layer_deeper_than_the_model_is_refused(folders, tmp_path, layer):
    sentence = refused(FrozenConfig(weights=str(folders["llama"]), layer=layer), tmp_path)
    assert f"text.layer is {layer}" in sentence and "4 layers" in sentence and "-1 to -4" in sentence


def test_the_deepest_layer_is_the_first_ones_output(folders, tmp_path):
    config = FrozenConfig(weights=str(folders["llama"]), layer=-4, pooling="last")
    compute(config, CAPTIONS[:5], tmp_path)
    expected = by_hand(folders["llama"], CAPTIONS[:5], 1, "last", torch.bfloat16)
    assert (read(config, tmp_path, CAPTIONS[:5]) - expected).abs().max() < 1e-2


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    llama(tmp_path / "model", vocab_size=100)
    sentence = refused(FrozenConfig(weights=str(tmp_path / "model")), tmp_path / "vectors")
    assert str(tmp_path / "model") in sentence and "320" in sentence and "100" in sentence


def test_a_context_longer_than_the_positions_is_refused(tmp_path):
    config = FrozenConfig(weights=str(gpt2(tmp_path / "model")), context=17)
    sentence = refused(config, tmp_path / "vectors", ["a flower " * 99])
    assert "text.context is 17" in sentence and "16 positions" in sentence


# What it costs.


def counted(config, captions, folder):
    """Operations of the linear layers in the whole computation: attention's own products are batched ones."""
    with FlopCounterMode(display=False) as counter:
        compute(config, captions, folder, batch=len(captions))
    counts = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    assert set(counts) <= {"aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm"}
    return counts.get("aten.mm", 0) + counts.get("aten.addmm", 0)


def alike(folder, count):
    """Different captions of the same number of tokens, so that nothing is padded, and that number."""
    tokenizer = weights.load_tokenizer(folder)
    texts = [f"the {number} of a flower" for number in range(10, 100)]
    lengths = [len(row) for row in tokenizer(texts)["input_ids"]]
    tokens = max(lengths, key=lengths.count)
    found = [text for text, length in zip(texts, lengths, strict=True) if length == tokens]
    assert len(found) >= count
    return found[:count], tokens


@KIND
@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_flops_are_those_of_the_linear_layers(folders, tmp_path, kind, layer):
    """Left out: attention's products of queries, keys and values, norms, rotations, the look-up of tokens."""
    config = FrozenConfig(weights=str(folders[kind]), layer=layer)
    captions, tokens = alike(folders[kind], 6)
    real = counted(config, captions, tmp_path)
    assert real > 0 and vector_flops(config, 6, tokens) == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("name", weights.known())
def test_flops_of_known_weights_are_two_a_weight_of_their_layers(name):
    with torch.device("meta"):
        model = weights.blank_model(name)
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    assert vector_flops(FrozenConfig(weights=name), 3, 7) == pytest.approx(2 * linear * 21, rel=0.02)


def wide_heads(folder):
    """Heads wider than the model divided by their number, as Qwen 3's and Gemma's are."""
    return llama(folder, head_dim=24)[1]


def old_llama(folder):
    """Llama 1's config, which does not speak of shared keys and values."""
    llama(folder, num_key_value_heads=4)
    path = folder / "config.json"
    said = json.loads(path.read_text())
    del said["num_key_value_heads"]
    path.write_text(json.dumps(said))
    return folder


def two_matrices(folder):
    """BERT's feed-forward has no gate."""
    return bert(folder)[1]


@pytest.mark.parametrize("make", [two_matrices, wide_heads, old_llama, gpt2])
def test_flops_of_any_folder_are_those_of_its_linear_layers(tmp_path, make):
    """GPT-2 keeps its layers' weights in modules of its own, but the products are the same."""
    config = FrozenConfig(weights=str(make(tmp_path / "model")), context=16)
    captions, tokens = alike(tmp_path / "model", 6)
    real = counted(config, captions, tmp_path / "vectors")
    assert vector_flops(config, 6, tokens) == pytest.approx(real, rel=0.02)


# SmolLM2, whose weights are real.


@pytest.mark.slow
def test_smollm2_reads_captions(tmp_path, monkeypatch):
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    try:
        weights.find("smollm2")
    except UserError as error:
        pytest.skip(str(error))
    # Unpacking it is what takes long: once is enough, and the deeper layer cuts away what the first has read.
    for name in ("load_model", "load_tokenizer"):
        monkeypatch.setattr(vectors, name, functools.cache(getattr(vectors, name)))
    captions, found = ["a red apple", "a green apple", "", *STRANGE[:2]], {}
    for layer in (-1, -15):
        config = FrozenConfig(weights="smollm2", layer=layer)
        meta = compute(config, captions, tmp_path / str(layer))
        assert (meta.captions, meta.width) == (5, weights.architecture("smollm2")["hidden_size"])
        found[layer] = read(config, tmp_path / str(layer), captions)
        assert found[layer].isfinite().all()
        assert torch.allclose(found[layer].norm(dim=-1), torch.ones(5), atol=2e-3)
        red, green, _, flowers, _ = found[layer]
        assert red @ green > red @ flowers
    assert (found[-1] - found[-15]).abs().max() > 0.01
