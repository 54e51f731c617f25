"""Arms that cannot be: one sentence that names the field by its own path, before anything is trained."""

import functools
import json
import math
import shutil
from copy import deepcopy

import numpy as np
import peers  # noqa: F401 - before transformers, which imports torchvision
import pytest
import torch
import transformers as hf
import yaml
from data.test_shards import crop, saved, write_tar
from encoders.checkpoints import vit
from objectives import CAPTIONS, TOKENIZER
from safetensors.torch import load_file, save_file

from paribus.encoders.folders import write_paribus, write_transformers
from paribus.encoders.text import END, PAD
from paribus.encoders.vision import EncoderConfig, VisionEncoder, preset
from paribus.errors import UserError
from paribus.study.reading import _Once
from paribus.study.study import load_study
from study import edit_json, leftovers, paribus, records, small_settings, write_study
from study.test_bad_input import tells

COMMANDS = ("plan", "audit", "run")
TEXT = {"context": 16, "vocabulary": 400, "width": 16, "depth": 1, "heads": 2}
CLIP = {"kind": "clip", "embed": 16, "text": TEXT}
SIMCLR = {"kind": "simclr", "hidden": 32, "out": 16}
DINO = {"kind": "dino", "out": 32, "hidden": 32, "bottleneck": 16, "local_crops": 2, "local_size": 0.5}
DINOTXT = CLIP | {"kind": "dinotxt", "blocks": 1}
TRANSFORMER = {
    "vocab_size": TOKENIZER.get_vocab_size(),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def arm(objective, **more):
    return {"objective": objective, "because": "it is tested"} | more


def text(**changes):
    """CLIP with another text tower, or another setting of its own."""
    return CLIP | {"text": changes if "kind" in changes else TEXT | changes}


def hybrid(**parts):
    """Parts as (objective, settings of the part)."""
    return {"kind": "hybrid", "parts": {name: {"objective": o} | more for name, (o, more) in parts.items()}}


def confound(path, value):
    return [{"path": path, "value": value, "why": "it is tested", "source": "this test"}]


def on_glyphs(**arms):
    """A study that is only read: nothing is drawn for it."""
    return small_settings() | {"arms": arms}


def on_shards(root, **arms):
    """A study that can be run to its end in a second: pairs of one's own, nothing measured."""
    settings = on_glyphs(**arms) | {"measure": [], "baselines": [], "seeds": [0]}
    settings["control"] |= {"budget": {"samples": 24, "batch": 8}, "precision": "fp32"}
    source = {"kind": "shards", "root": str(root)}
    settings["control"]["data"] = {"source": source, "vocabulary": TEXT["vocabulary"]}
    return settings


def refusal(folder, settings, *changes):
    """The one sentence of a study that is refused when it is read."""
    with pytest.raises(UserError) as caught:
        load_study(write_study(folder, settings), changes)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 500, sentence
    return sentence


def go(folder, command, study):
    """``paribus COMMAND`` with cache and runs in the folder."""
    more = ("--runs", folder / "runs", "--workers", "1") if command == "run" else ()
    return paribus(folder, command, study, "--cache", folder / "cache", *more)


def trained(folder):
    """What any training or language model has left."""
    return [name for name in records(folder / "cache") if name.startswith(("pretrain", "vectors"))]


def pairs(root, captions):
    """A shard of real pictures, each with the bytes of a caption."""
    members = [
        member
        for number, caption in enumerate(captions)
        for member in ((f"{number:04d}.jpg", saved(crop(number), "JPEG")), (f"{number:04d}.txt", caption))
    ]
    write_tar(root / "0.tar", members)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Sixteen pairs. Read only."""
    return pairs(tmp_path_factory.mktemp("pairs"), [caption.encode() for caption in CAPTIONS[:16]])


# Text models, tiny and with random weights.


def bert(folder, **changes):
    return with_words(hf.BertModel(hf.BertConfig(**TRANSFORMER | changes)), folder)


def llama(folder, **changes):
    return with_words(hf.LlamaModel(hf.LlamaConfig(**TRANSFORMER | changes)), folder)


def with_words(model, folder, **tokens):
    model.save_pretrained(folder)
    tokens = tokens or {"pad_token": PAD, "eos_token": END}
    hf.PreTrainedTokenizerFast(tokenizer_object=TOKENIZER, **tokens).save_pretrained(folder)
    return folder


def pretrained(folder, **changes):
    return text(**{"kind": "pretrained", "weights": str(folder), "context": 16} | changes)


def frozen(folder, **changes):
    return text(**{"kind": "frozen", "weights": str(folder), "context": 16} | changes)


def said(folder, **changes):
    """The folder with another config.json."""
    edit_json(folder / "config.json", lambda config: config.update(changes))
    return folder


def without(folder, *patterns):
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        path.unlink()
    return folder


def renamed(folder, change):
    """The folder with other names in its weights."""
    path = folder / "model.safetensors"
    tensors = {change(name): value for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    return without(folder, "*.safetensors")


# What the file alone tells.


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        (text(vocabulary=299), r"text\.vocabulary: .*300, not 299"),
        (text(heads=3), r"text: width 16 is not a multiple of heads 3"),
        (text(context=2), r"text\.context: .*3, not 2"),
        (text(kind="lstm"), r"text: .*'lstm'.*'scratch', 'pretrained', 'frozen'"),
        (text(kind="pretrained", weights="minilm", unlocked=-1), r"text\.unlocked: .*0, not -1"),
        (text(kind="pretrained", weights="minilm", pooling="max"), r"text\.pooling: .*'mean' or 'cls'"),
        (text(kind="pretrained", weights=""), r"text\.weights: .*at least 1 character"),
        (text(kind="frozen", weights="smollm2", layer=3), r"text\.layer: .*-1, not 3"),
        (CLIP | {"kind": "clap"}, r"objective: .*'clap'.*'clip', 'dino', .*'hybrid'"),
        (
            hybrid(a=(CLIP | {"kind": "clap"}, {})),
            r"objective\.parts\.a\.objective: .*'clap'.*'clip', 'dino'",
        ),
    ],
)
def test_what_an_arm_cannot_be_is_told_by_the_path_in_the_file(tmp_path, objective, told):
    """The path is what ``--set`` takes: no names of types between the keys."""
    place = r"tiny\.yaml: arms\.h\.(objective\.)?"
    tells(refusal(tmp_path, on_glyphs(h=arm(objective))), place + told)


def test_a_vocabulary_of_captions_under_300_is_refused(tmp_path):
    settings = on_glyphs(h=arm(CLIP))
    settings["control"]["data"]["vocabulary"] = 299
    tells(refusal(tmp_path, settings), r"tiny\.yaml: control\.data\.vocabulary: .*300, not 299")


SLIP = {"preset": "slip", "parts": {"clip": {"objective": {"text": TEXT}}}}
BOTH = hybrid(clip=(CLIP, {}), simclr=(SIMCLR, {}))


@pytest.mark.parametrize(
    ("objective", "path"),
    [
        (CLIP, "embd"),
        (CLIP, "text.contxt"),
        (pretrained("minilm"), "text.unlockd"),
        (frozen("smollm2"), "text.layr"),
        (BOTH, "prats"),
        (BOTH, "parts.clip.wieght"),
        (BOTH, "parts.simclr.objective.hiden"),
        (BOTH, "parts.clip.objective.text.contxt"),
        (SLIP, "parts.clip.objective.text.contxt"),
        (SLIP, "embed"),
        ({"preset": "clip-datacomp-12m-16"}, "patch"),
    ],
)
def test_a_misspelt_key_is_named_by_its_whole_path_and_nothing_else_is(tmp_path, objective, path):
    settings = on_glyphs(h=arm(deepcopy(objective)))
    *parents, last = path.split(".")
    place = settings["arms"]["h"]["objective"]
    for parent in parents:
        place = place[parent]
    place[last] = 3
    sentence = refusal(tmp_path, settings)
    wanted = f"arms.h.objective.{path} is not a known key; remove it or correct its spelling."
    assert sentence == f"{tmp_path / 'tiny.yaml'}: {wanted}"


@pytest.mark.parametrize("path", ["data.source", "vlm.language", "vlm.questions"])
def test_so_is_one_in_the_control(tmp_path, path):
    change = f"control.{path}.siez=3"
    tells(refusal(tmp_path, on_glyphs(h=arm(CLIP)), change), rf"control\.{path}\.siez is not a known key")


@pytest.mark.parametrize("key", ["budget", "recipe", "encoder", "views", "seed", "precision"])
def test_an_arm_differs_by_its_treatment_and_confounds_alone(tmp_path, key):
    settings = on_glyphs(clip=arm(CLIP, **{key: {"samples": 3}}))
    tells(refusal(tmp_path, settings), rf"tiny\.yaml: arms\.clip\.{key} is not a known key")


@pytest.mark.parametrize("name", ["slipp", 3, None, ["slip"], {"slip": 1}])
def test_an_unknown_preset_is_told_with_those_there_are(tmp_path, name):
    sentence = refusal(tmp_path, on_glyphs(h=arm({"preset": name})))
    tells(sentence, r"arms\.h\.objective: there is no preset ", "slipp|3|None|slip", "clip-vicuna.*, slip,")


@pytest.mark.parametrize(
    "objective",
    [{"embed": 16}, hybrid(clip=({"embed": 16}, {})), hybrid(clip=({"preset": "clip-vicuna"}, {}))],
)
def test_an_objective_of_no_kind_is_told_the_kinds(tmp_path, objective):
    """Where a key is missing, what it could say is worth more than that it could not be read."""
    tells(refusal(tmp_path, on_glyphs(h=arm(objective))), r"arms\.h\.objective", "kind", "clip.*dino.*simclr")


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        (hybrid(clip=(CLIP, {"weight": 0}), simclr=(SIMCLR, {"weight": 0})), ": all weights are zero"),
        (hybrid(), r"\.parts: .*at least 1 item"),
        ({"kind": "hybrid"}, r"\.parts: field required"),
        (
            hybrid(clip=(CLIP | {"reads": ["global1"]}, {}), simclr=(SIMCLR, {})),
            ": part clip reads global1, but the views are ssl1, ssl2",
        ),
        (hybrid(clip=(CLIP, {}), simclr=(SIMCLR, {"start": 1.0})), r"\.parts\.simclr\.start: .*not 1\.0"),
        (hybrid(clip=(CLIP, {"start": 0.5})), ": no part starts at 0"),
        (hybrid(clip=(CLIP, {"weight": -1})), r"\.parts\.clip\.weight: .*0, not -1"),
        (hybrid(clip=(CLIP, {})) | {"leads": "dino"}, ": leads: there is no part 'dino'"),
        (hybrid(clip=(CLIP, {}), words=(DINOTXT, {})), ": part words freezes the encoder"),
    ],
)
def test_what_cannot_be_a_hybrid_is_told_by_its_path(tmp_path, objective, told):
    tells(refusal(tmp_path, on_glyphs(h=arm(objective))), rf"tiny\.yaml: arms\.h\.objective{told}")


@pytest.mark.parametrize(
    "objective",
    [
        CLIP,
        CLIP | {"kind": "siglip"},
        SIMCLR,
        hybrid(dino=(DINO, {}), clip=(CLIP, {})),
        hybrid(dino=(DINO, {}), simclr=(SIMCLR, {"start": 0.9, "weight": 0.1})),
    ],
)
def test_nothing_is_contrasted_with_a_batch_of_one(tmp_path, objective):
    sentence = refusal(tmp_path, on_glyphs(h=arm(objective)), "control.budget.batch=1")
    tells(sentence, r"arms\.h: a batch of 1", r"set control\.budget\.batch to at least 2")


def test_a_batch_of_one_is_enough_where_nothing_is_contrasted(tmp_path):
    one = hybrid(dino=(DINO, {}), clip=(CLIP, {"weight": 0}))
    study = load_study(write_study(tmp_path, on_glyphs(h=arm(one))), ("control.budget.batch=1",))
    assert study.all_arms()[0].encoder.budget.batch == 1


def test_a_frozen_encoder_is_no_way_round_a_batch_of_one(tmp_path):
    settings = on_glyphs(dino=arm(DINO), words=arm(DINOTXT, after="dino"))
    tells(refusal(tmp_path, settings, "control.budget.batch=1"), r"arms\.words: a batch of 1")


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ({"words": "dion"}, r"arms\.words\.after: there is no arm 'dion'; there are dino, words"),
        ({"words": "words"}, r"arms\.words\.after: words would begin with its own result"),
        ({"words": "dino", "dino": "words"}, r"arms\.\w+\.after: \w+ would begin with its own result"),
        ({}, r"arms\.words: this objective trains no encoder: say with after: which arm"),
    ],
)
def test_an_arm_can_only_follow_another(tmp_path, after, told):
    settings = on_glyphs(dino=arm(DINO), words=arm(DINOTXT))
    for name, below in after.items():
        settings["arms"][name]["after"] = below
    tells(refusal(tmp_path, settings), told)


@pytest.mark.parametrize(
    "change", ["arms.clop.objective.embed=8", "arms.clop.because=x", "arms.clop.after=clip"]
)
def test_a_setting_of_an_arm_that_is_not_there_is_told_with_those_there_are(tmp_path, change):
    sentence = refusal(tmp_path, on_glyphs(clip=arm(CLIP), dino=arm(DINO)), change)
    tells(sentence, r"arms\.clop|no arm 'clop'", "there are clip, dino")


def test_a_whole_new_arm_can_be_set(tmp_path):
    change = f"arms.more={json.dumps(arm(SIMCLR))}"
    study = load_study(write_study(tmp_path, on_glyphs(clip=arm(CLIP))), (change,))
    assert list(study.arms) == ["clip", "more"]


def test_an_arm_told_twice_is_not_lost(tmp_path):
    """YAML takes the last of two keys; an arm would be gone without a word."""
    path = write_study(tmp_path, on_glyphs(clip=arm(CLIP), clop=arm(SIMCLR)))
    path.write_text(path.read_text().replace("  clop:", "  clip:"))
    assert len(yaml.safe_load(path.read_text())["arms"]) == 1
    with pytest.raises(UserError, match=r"tiny\.yaml.*clip.*(twice|already|again)"):
        load_study(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("seeds=[]", "seeds: .*at least 1 item"),
        ("seeds=[0, 3, 0]", "seeds: .*0.* (twice|already|again)"),
        ("baselines=[untrained, untrained]", "baselines: .*untrained.* (twice|already|again)"),
        ("reference=clop", r"reference: there is no arm 'clop'; there are clip"),
    ],
)
def test_lists_of_a_study_say_each_thing_once(tmp_path, change, told):
    """What is there twice would be counted twice in every mean."""
    tells(refusal(tmp_path, on_glyphs(clip=arm(CLIP)), change), told)


def test_measures_need_a_corpus_whose_factors_are_known(tmp_path, root):
    settings = on_shards(root, clip=arm(CLIP))
    tells(
        refusal(tmp_path, settings, "measure=[probes]"),
        r"control\.measured_on",
        r"\{kind: glyphs, size: 224\}",
        r"or set measure: \[\]",
    )
    named = ("measure=[probes]", "control.measured_on={kind: glyphs, size: 32}")
    assert load_study(write_study(tmp_path, settings), named).measured_on.source.size == 32


def test_captions_of_ones_own_cannot_be_chosen_among(tmp_path, root):
    """Two arms would be called treated otherwise and be the same."""
    settings = on_shards(root, clip=arm(CLIP), told=arm(CLIP, captions="style"))
    tells(refusal(tmp_path, settings), r"arms\.told\.captions", "shards")


# The same sentence whichever command is asked, and nothing begun.


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        (text(contxt=3), "contxt is not a known key"),
        ({"preset": "slipp"}, "no preset 'slipp'"),
        (hybrid(clip=(CLIP, {"weight": 0})), "all weights are zero"),
        (DINOTXT, "trains no encoder"),
        (CLIP | {"reads": ["global1"]}, "global1"),
    ],
)
def test_every_command_refuses_alike_and_begins_nothing(tmp_path, root, objective, told):
    study = write_study(tmp_path, on_shards(root, good=arm(CLIP), bad=arm(objective)))
    sentences = {go(tmp_path, command, study).refused() for command in COMMANDS}
    assert len(sentences) == 1
    tells(*sentences, told)
    assert not (tmp_path / "cache").exists() and not (tmp_path / "runs").exists()


def pictures(folder):
    """A model of pictures, with a tokenizer beside it."""
    vit(folder)
    hf.PreTrainedTokenizerFast(tokenizer_object=TOKENIZER, pad_token=PAD).save_pretrained(folder)
    return folder


def a_file(folder):
    folder.write_text("weights")
    return folder


FORESEEN = {
    "more unlocked than there is": (
        lambda f: arm(pretrained(bert(f), unlocked=4)),
        (r"text\.unlocked is 4", "3 groups", "at most 3"),
    ),
    "a context beyond the positions": (
        lambda f: arm(pretrained(bert(f), context=33)),
        (r"text\.context is 33", "32 positions", "lower it"),
    ),
    "a context beyond a language model's positions": (
        lambda f: arm(frozen(llama(f), context=33)),
        (r"text\.context is 33", "32 positions", "lower it"),
    ),
    "a layer that is not there": (
        lambda f: arm(frozen(llama(f), layer=-3)),
        (r"text\.layer is -3", "2 layers", "choose -1 to -2"),
    ),
    "heads that do not divide the width": (
        lambda f: arm(pretrained(said(bert(f), num_attention_heads=3))),
        (r"/model\b", "16.* multiple of.*heads.*3"),
    ),
    "heads that do not divide a language model's width": (
        lambda f: arm(frozen(said(llama(f), num_attention_heads=3))),
        (r"/model\b", "16.* multiple of.*heads.*3"),
    ),
    "a model of pictures": (lambda f: arm(pretrained(pictures(f))), (r"/model\b", "text|words|ViTModel")),
    "a language model of pictures": (
        lambda f: arm(frozen(pictures(f))),
        (r"/model\b", "text|words|ViTModel"),
    ),
    "a rate of what is not there": (
        lambda _: arm(CLIP, confounds=confound("recipe.rates", {"txet": 1e-4})),
        (r"recipe\.rates: nothing that trains is called txet", "there are .*image.*text"),
    ),
    "a rate of words in an arm without": (
        lambda _: arm(SIMCLR, confounds=confound("recipe.rates", {"text": 1e-4})),
        (r"recipe\.rates: nothing that trains is called text", "there are .*head.*image"),
    ),
}
"""What the study file and a config.json tell: no weights are needed to know it."""

PRESET = "a preset whose weights are not there"
FOUND = {
    "a tokenizer larger than the embeddings": (
        lambda f: arm(pretrained(bert(f, vocab_size=200))),
        ("model has 320 tokens", "200 embeddings", "do not belong together"),
    ),
    "a tokenizer larger than a language model's embeddings": (
        lambda f: arm(frozen(llama(f, vocab_size=200))),
        ("model has 320 tokens", "200 embeddings", "do not belong together"),
    ),
    "no weights": (
        lambda f: arm(frozen(without(llama(f), "*.safetensors"))),
        ("/model holds no weights", r"put model\.safetensors"),
    ),
    "pickled weights": (
        lambda f: arm(frozen(pickled(llama(f)))),
        ("/model holds no weights", "pickled weights are not read"),
    ),
    "no config": (
        lambda f: arm(frozen(without(llama(f), "config.json"))),
        (r"/model.*config\.json", "copy|give"),
    ),
    "no tokenizer": (
        lambda f: arm(frozen(without(llama(f), "tokenizer*"))),
        ("/model holds no tokenizer", "copy the model's whole folder"),
    ),
    "no tokenizer where one could be made up": (
        lambda f: arm(frozen(without(bert(f), "tokenizer*"))),
        ("/model holds no tokenizer", "copy the model's whole folder"),
    ),
    "weights that nobody knows": (
        lambda _: arm(frozen("smolm2")),
        ("weights: 'smolm2'", "give a.* folder", "minilm, smollm2"),
    ),
    "a file": (lambda f: arm(frozen(a_file(f))), ("/model'", "give a.* folder")),
    "a name of which only the architecture is known": (
        lambda _: arm(frozen("vicuna-7b-v1.5")),
        ("'vicuna-7b-v1.5'", "give the path of a folder with these weights"),
    ),
    PRESET: (
        lambda _: arm({"preset": "clip-roberta4-datacomp-12m-16"}),
        ("'roberta-base'", "give the path of a folder with these weights"),
    ),
}
"""What lies in the folder tells: the weights need not be loaded to know it."""


@pytest.fixture(scope="module")
def asked(tmp_path_factory, root):
    """How a command on a study of a good arm and then a bad one ended, and where; asked once."""

    @functools.cache
    def study(case):
        make, _ = (FORESEEN | FOUND)[case]
        folder = tmp_path_factory.mktemp("unlike")
        return write_study(folder, on_shards(root, good=arm(CLIP), bad=make(folder / "model")))

    @functools.cache
    def ask(case, command):
        return go(study(case).parent, command, study(case)), study(case).parent

    return ask


@pytest.mark.parametrize("case", FORESEEN | FOUND)
def test_run_says_what_of_a_tower_or_a_recipe_does_not_fit(asked, case):
    done, folder = asked(case, "run")
    tells(done.refused(), *(FORESEEN | FOUND)[case][1])
    assert not (folder / "runs").exists() and not leftovers(folder)


@pytest.mark.parametrize("case", FORESEEN | FOUND)
def test_run_says_it_before_other_arms_have_been_trained_for_an_hour(asked, case):
    done, folder = asked(case, "run")
    assert done.code == 2 and not trained(folder)


@pytest.mark.parametrize("case", FORESEEN)
def test_plan_and_audit_say_the_same(asked, case):
    sentences = [asked(case, command)[0].refused() for command in COMMANDS]
    assert len(set(sentences)) == 1, sentences


def test_plan_knows_no_unknown_weights_either(asked):
    tells(asked("weights that nobody knows", "plan")[0].refused(), "'smolm2'", "give a.* folder", "smollm2")


def test_a_preset_is_held_to_its_model_though_its_weights_are_not_there(tmp_path, root):
    layers = arm({"preset": "clip-roberta10-datacomp-12m-16", "text": {"unlocked": 14}})
    done = go(tmp_path, "plan", write_study(tmp_path, on_shards(root, bad=layers)))
    tells(done.refused(), r"text\.unlocked is 14", "13 groups", "at most 13")


@pytest.mark.parametrize(
    "case", ["a name of which only the architecture is known", "a preset whose weights are not there"]
)
def test_what_is_known_by_its_architecture_can_still_be_planned(asked, case):
    done, _ = asked(case, "plan")
    assert done.code == 0 and "FLOPs" in done.out, done.err


OTHER_WEIGHTS = {
    "fewer layers than its config says": (
        lambda folder, make: said(make(folder), num_hidden_layers=4),
        r"layers?\.[23]\.\S+ is missing|missing.*layers?\.[23]",
    ),
    "names of another model": (
        lambda folder, make: renamed(make(folder), lambda name: f"other.{name}"),
        r"embed\S+ is missing|missing.*embed",
    ),
    "another width than its config says": (
        lambda folder, make: said(make(folder), hidden_size=32, head_dim=16),
        r"embed\S+ is \[.*16\] and not \[.*32\]",
    ),
}


@pytest.mark.parametrize("kind", ["pretrained", "frozen"])
@pytest.mark.parametrize("case", OTHER_WEIGHTS)
def test_weights_that_are_not_the_models_are_listed_and_nothing_is_made_up(tmp_path, root, case, kind):
    """transformers draws at random what it does not find, and says so in a log that nobody reads."""
    spoil, told = OTHER_WEIGHTS[case]
    tower, make = {"pretrained": (pretrained, bert), "frozen": (frozen, llama)}[kind]
    settings = on_shards(root, bad=arm(tower(spoil(tmp_path / "model", make))))
    tells(go(tmp_path, "run", write_study(tmp_path, settings)).refused(), f"{tmp_path}/model", told)
    assert not trained(tmp_path) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("tower", [pretrained, frozen])
def test_a_tokenizer_that_knows_no_padding_is_used_or_refused(tmp_path, root, tower):
    make = {pretrained: hf.BertModel, frozen: hf.LlamaModel}[tower]
    config = {pretrained: hf.BertConfig, frozen: hf.LlamaConfig}[tower]
    folder = with_words(make(config(**TRANSFORMER)), tmp_path / "model", pad_token=PAD)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            edit_json(folder / name, lambda settings: settings.pop("pad_token", None))
    done = go(tmp_path, "run", write_study(tmp_path, on_shards(root, bad=arm(tower(folder)))))
    if done.code:
        tells(done.refused(), f"{folder}", "tokenizer", "pad")


def test_a_language_model_with_names_of_its_own_is_planned_or_refused(tmp_path, root):
    """GPT-2 calls its width n_embd."""
    config = hf.GPT2Config(
        vocab_size=320, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2
    )
    folder = with_words(hf.GPT2Model(config), tmp_path / "model")
    done = go(tmp_path, "plan", write_study(tmp_path, on_shards(root, gpt=arm(frozen(folder)))))
    if done.code:
        tells(done.refused(), f"{folder}")


# Captions.

LONG = " ".join(CAPTIONS) * 300
ODD = {
    "empty": b"",
    "blank": b" \n\t\x00",
    "invisible": "\u200b\u200d".encode(),
    "Japanese": "寺の屋根".encode(),
    "Russian": "крыша храма".encode(),
    "Arabic": "سقف المعبد".encode(),
    "emoji": "🏯👩‍🚀".encode(),
    "latin-1": b"caf\xe9 au lait",
    "no text": b"\xff\xfe\x81\x82",
    "long": LONG.encode()[:1_000_000],
    "one long word": b"x" * 1_000_000,
}


def towers(folder):
    """An arm for every kind of tower."""
    return {
        "scratch": arm(CLIP),
        "pretrained": arm(pretrained(bert(folder / "bert"))),
        "frozen": arm(frozen(llama(folder / "llama"))),
    }


def losses(folder):
    """Every arm's logged losses."""
    paths = (folder / "cache" / "stages").glob("pretrain-*/history.json")
    return [[line["loss"] for line in json.loads(path.read_text())] for path in paths]


def finite(folder, arms):
    every = losses(folder)
    assert len(every) == arms and all(len(series) == 3 for series in every)
    assert all(math.isfinite(loss) and 0 < loss < 20 for series in every for loss in series), every


def test_odd_captions_are_read_or_mended_or_left_out_and_all_of_it_is_counted(tmp_path):
    good = [caption.encode() for caption in CAPTIONS[:8]]
    root, left_out = pairs(tmp_path / "pairs", [*good, *ODD.values()]), 2
    done = go(tmp_path, "run", write_study(tmp_path, on_shards(root, **towers(tmp_path))))
    assert done.code == 0, done.err
    finite(tmp_path, arms=3)
    counted = json.loads((tmp_path / "runs" / "tiny" / "results.json").read_text())["data"]
    assert counted["pictures, empty caption"] == str(left_out)
    assert counted["pictures, train"] == str(len(good) + len(ODD) - left_out)
    (index,) = (tmp_path / "cache" / "stages").glob("shards-*/index")
    assert json.loads((index / "meta.json").read_text())["mended"] == {"cut": 2, "not UTF-8": 2}
    skipped = [json.loads(line)["key"] for line in (index / "skipped.jsonl").read_text().splitlines()]
    assert skipped == [f"{len(good) + list(ODD).index(name):04d}" for name in ("empty", "blank")]
    (vectors,) = (tmp_path / "cache" / "stages").glob("vectors-*")
    norms = np.linalg.norm(np.load(vectors / "vectors.npy").astype(np.float32), axis=1)
    assert len(norms) == len(good) + len(ODD) - left_out and np.abs(norms - 1).max() < 0.01


def test_what_is_mended_is_told_where_results_are(tmp_path):
    """A file that is not UTF-8 is not what its author meant; meta.json in the cache is seen by nobody."""
    root = pairs(tmp_path / "pairs", [caption.encode("utf-16") for caption in CAPTIONS[:8]])
    assert go(tmp_path, "run", write_study(tmp_path, on_shards(root, clip=arm(CLIP)))).code == 0
    counted = json.loads((tmp_path / "runs" / "tiny" / "results.json").read_text())["data"]
    assert [value for name, value in counted.items() if "not UTF-8" in name] == ["8"]


def test_a_megabyte_is_read_by_towers_that_bring_their_words(tmp_path):
    """As far as their context; who wants it whole says so with max_caption."""
    root = pairs(tmp_path / "pairs", [ODD["long"], ODD["one long word"], *[b"a temple"] * 6])
    arms = {name: each for name, each in towers(tmp_path).items() if name != "scratch"}
    settings = on_shards(root, **arms)
    settings["control"]["data"]["source"]["max_caption"] = 1_000_000
    done = go(tmp_path, "run", write_study(tmp_path, settings))
    assert done.code == 0, done.err
    finite(tmp_path, arms=2)


def test_pairs_without_a_caption_at_all_are_refused_with_their_number(tmp_path):
    root = pairs(tmp_path / "pairs", [b"", b" ", b"\x00"])
    sentence = go(tmp_path, "run", write_study(tmp_path, on_shards(root, clip=arm(CLIP)))).refused()
    tells(sentence, f"No sample of {root}", "empty caption: 3")
    assert not trained(tmp_path) and not (tmp_path / "runs").exists()


# What was done already.


@pytest.fixture
def done(tmp_path, root):
    """A finished study of a scratch tower and a partly frozen one, whose weights lie in ``model``."""
    bert(tmp_path / "model")
    settings = on_shards(root, clip=arm(CLIP), bert=arm(pretrained(tmp_path / "model", unlocked=2)))
    assert go(tmp_path, "run", write_study(tmp_path, settings)).code == 0
    assert go(tmp_path, "audit", tmp_path / "tiny.yaml").code == 0
    return settings


def record_of(folder, name):
    (found,) = [each for each in load_study(folder / "tiny.yaml").all_arms() if each.name == name]
    return folder / "cache" / "stages" / found.encoder.address() / "record.json"


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [("bert", "unlocked", 3), ("bert", "pooling", "cls"), ("clip", "width", 32), ("bert", "extra", True)],
)
def test_audit_names_what_an_arms_words_were_read_with(tmp_path, done, name, setting, value):
    path = record_of(tmp_path, name)
    edit_json(path, lambda stored: stored["config"]["objective"]["text"].update({setting: value}))
    audited = go(tmp_path, "audit", tmp_path / "tiny.yaml")
    (fault,) = [line for line in audited.out.splitlines() if line.startswith("FAULT: ")]
    assert audited.code == 1 and not audited.err
    spelt = value if isinstance(value, str) else json.dumps(value)
    tells(fault, rf"{name} \(seed 0\) was made with objective\.text\.{setting} {spelt}, but the study says")


def test_a_finished_study_needs_its_weights_no_more(tmp_path, done):
    """They are gigabytes, and what was measured with them stays."""
    shutil.rmtree(tmp_path / "model")
    for command in ("audit", "run"):
        again = go(tmp_path, command, tmp_path / "tiny.yaml")
        assert again.code == 0, again.err


def test_arms_that_read_with_other_weights_of_the_same_name_do_not_pass(tmp_path, done):
    """The sentence says what to delete; who does, must not get one arm on the old and one on the new."""
    before = record_of(tmp_path, "bert").read_bytes()
    bert(tmp_path / "model")
    done["arms"]["more"] = arm(pretrained(tmp_path / "model", unlocked=1))
    study = write_study(tmp_path, done)
    sentence = go(tmp_path, "run", study).refused()
    tells(sentence, f"weights in {tmp_path}/model have changed", "delete that folder to use the new ones")
    for folder in (tmp_path / "cache" / "stages").glob("weights-*"):
        shutil.rmtree(folder)
    assert go(tmp_path, "run", study).code == 0
    assert record_of(tmp_path, "bert").read_bytes() != before or go(tmp_path, "audit", study).code == 1


# Encoders from elsewhere.


CONVERT = {
    "info": lambda folder, out: ("info", folder),
    "import": lambda folder, out: ("import", folder, "--out", out),
    "export": lambda folder, out: ("export", folder, "--to", "timm", "--out", out),
}
SMALL = preset("small", 16, 32).model_copy(update={"depth": 2})
OWN = EncoderConfig(patch=8, width=32, depth=2, heads=2, image_size=32)


@pytest.fixture
def convert(tmp_path):
    """``paribus encoder COMMAND`` for all three; the one sentence that all say, after a look at the disk."""

    def refused(folder):
        out, kept = tmp_path / "out", {path: path.read_bytes() for path in folder.rglob("*")}
        sentences = {paribus(tmp_path, "encoder", *line(folder, out)).refused() for line in CONVERT.values()}
        assert len(sentences) == 1, sentences
        assert not out.exists() and not leftovers(tmp_path)
        assert {path: path.read_bytes() for path in folder.rglob("*")} == kept
        return sentences.pop()

    return refused


def test_an_encoder_of_another_size_is_told_by_its_shapes_and_its_likeness(tmp_path, convert):
    write_transformers(VisionEncoder(SMALL), tmp_path / "theirs")
    said(tmp_path / "theirs", hidden_size=768, num_attention_heads=12, intermediate_size=3072)
    tells(
        convert(tmp_path / "theirs"),
        f"{tmp_path}/theirs",
        r"embeddings\.cls_token is \[1, 1, 384\] and not \[1, 1, 768\]",
        "and .* more",
        r"looks like ViT-S/16 \(width 384, patch 16\)",
    )


def test_an_encoders_missing_and_unknown_names_are_told(tmp_path, convert):
    _, folder = vit(tmp_path / "theirs")
    renamed(folder, lambda name: name.replace("layer.1.output.dense.bias", "layer.1.output.dense.shift"))
    dense = r"encoder\.layer\.1\.output\.dense"
    tells(convert(folder), rf"{dense}\.bias is missing", rf"{dense}\.shift is unknown")
    renamed(folder, lambda name: f"other.{name}.part")
    tells(convert(folder), "holds no transformers' ViTModel", r"other\.embeddings\.cls_token\.part")


def own(folder, change):
    write_paribus(VisionEncoder(OWN), folder)
    path = folder / "encoder.safetensors"
    save_file(change(load_file(path)), path)
    return folder


def test_so_are_those_of_an_encoder_of_ours(tmp_path, convert):
    """It may be the only copy: nobody is told to delete it."""
    folder = own(tmp_path / "ours", lambda found: found | {"extra": found["norm.weight"] + 1})
    missing = convert(folder)
    tells(missing, f"{folder}", "extra")
    shutil.rmtree(folder)
    write_paribus(VisionEncoder(OWN), folder)
    edit_json(folder / "encoder.json", lambda stored: stored["encoder"].update(width=64))
    wider = convert(folder)
    tells(wider, f"{folder}", r"cls_token is \[1, 1, 32\] and not \[1, 1, 64\]")
    assert "delete" not in missing + wider


def test_a_model_of_texts_is_no_encoder_of_pictures(tmp_path, convert):
    tells(
        convert(bert(tmp_path / "model")), r"model_type 'bert', which Paribus does not know: it reads vit, "
    )


def test_an_arm_that_begins_with_another_must_have_its_architecture(tmp_path):
    wide = confound("encoder.patch", 16)
    settings = on_glyphs(dino=arm(DINO), words=arm(DINOTXT, after="dino", confounds=wide))
    tells(refusal(tmp_path, settings), r"arms\.words\.after", "another architecture")


def test_what_is_told_is_held_against_shuffled_captions(tmp_path):
    settings = on_glyphs(told=arm(CLIP, captions="style"), noise=arm(CLIP, captions="shuffled"))
    tells(refusal(tmp_path, settings | {"reference": "told"}), "reference: told", "write noise")
    assert load_study(write_study(tmp_path, settings | {"reference": "noise"})).reference == "noise"


def test_a_key_that_is_merged_in_is_not_written_twice():
    """YAML's merge key lets a mapping begin with another's keys and change some, at any depth."""
    text = "deep: {deeper: {it: &b {<<: &a {kind: x, n: 1}, n: 2}}}\ntop: {<<: *b, m: 3}\n"
    assert yaml.load(text, _Once)["top"] == yaml.safe_load(text)["top"] == {"kind": "x", "n": 2, "m": 3}
    with pytest.raises(yaml.YAMLError, match="n stands there twice"):
        yaml.load("top: {n: 1, m: 2, n: 3}", _Once)
