"""What is written is read by plain transformers: the README's own code, the same logits, the same answers."""

import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders.checkpoints import perturbed
from objectives import CAPTIONS, ENCODER, TOKENIZER
from PIL import Image
from sklearn.datasets import load_sample_image
from study import leftovers

from paribus.encoders.published import evaluate
from paribus.encoders.vision import VisionEncoder
from paribus.errors import UserError
from paribus.types import IMAGE, Batch, Turn
from paribus.vlm.answering import write
from paribus.vlm.connector import LinearConfig, ResamplerConfig
from paribus.vlm.conversation import PICTURE, TEMPLATES, Chat, Template, worded
from paribus.vlm.export import chat_template, export_llava
from paribus.vlm.eyes import EyesConfig, build_eyes
from paribus.vlm.language import build_language_model
from paribus.vlm.model import VisionLanguage, lay

from . import LANGUAGE, tiny_vlm

ENCODERS = {
    "vit": ENCODER,
    "clip": ENCODER.model_copy(update={"pre_norm": True, "activation": "quick_gelu", "eps": 1e-5}),
    "siglip": ENCODER.model_copy(update={"pool": "map", "activation": "gelu_tanh"}),
}
UNEVEN = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28), "interpolation": "bilinear"}
QUESTION = "What is in the picture?"


@pytest.fixture(autouse=True)
def _without_scratch(tmp_path):
    yield
    assert not leftovers(tmp_path)


def seeing(encoder=ENCODER, kind="qwen2", *, template=None, vocabulary=None, context=160, **eyes):
    """A model whose answers depend on the picture, with any encoder."""
    config = LANGUAGE.model_copy(update={"kind": kind, "context": context})
    rows = vocabulary or TOKENIZER.get_vocab_size()
    language = build_language_model(config, rows, 0, torch.device("cpu"))
    sight = build_eyes(EyesConfig(**eyes), [VisionEncoder(encoder)], config.hidden, 0)
    chat = Chat(TOKENIZER, template or config.wording(), context, sight.tokens)
    return perturbed(VisionLanguage(language, chat, eyes=sight))


def photographs():
    """Upright, wide and square; the margins of the crops are even in sum, as rounded alike by everyone."""
    china, flower = load_sample_image("china.jpg"), load_sample_image("flower.jpg")
    return [china[:400, 100:300], flower[50:250, 100:500], china[:300, :300]]


def shown(model, fit, picture, turns):
    config = model.eyes.encoders[0].config
    view = evaluate(config, [picture], fit).to(next(model.parameters()).dtype)
    return Batch(np.zeros(1, dtype=np.uint64), {"eye0": view}, [""], [turns])


def asked(question=QUESTION):
    return (Turn(f"{IMAGE}\n{question}", ""),)


def messages(turns):
    """A conversation in transformers' words; the picture is a part of the first question."""
    said = []
    for turn in turns:
        text = {"type": "text", "text": turn.ask.removeprefix(f"{IMAGE}\n")}
        shows = [{"type": "image"}] if turn.ask.startswith(IMAGE) else []
        said.append({"role": "user", "content": [*shows, text]})
        if turn.reply:
            said.append({"role": "assistant", "content": [{"type": "text", "text": turn.reply}]})
    return said


def read(folder, dtype=torch.float32):
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model, told = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval(), AutoProcessor.from_pretrained(folder, backend="pil")


def inputs_of(processor, picture, turns, dtype=torch.float32):
    prompt = processor.apply_chat_template(messages(turns), add_generation_prompt=True)
    made = processor(images=Image.fromarray(picture), text=prompt, return_tensors="pt")
    return made.to(dtype)


@torch.no_grad()
def logits_here(model, batch):
    """After every token of one open conversation."""
    row = lay(model.chat.speak(batch.turns, cue=True))
    return model._words(model._hidden(batch, row))


def alike(theirs, ours, tolerance=1e-5):
    """Equal but for rounding, of which the largest logit has most: kernels of attention differ."""
    return torch.allclose(theirs, ours, rtol=0, atol=tolerance * float(ours.abs().max()))


def readme_code(folder):
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    return code


def run_readme(folder, picture, monkeypatch, capsys, question=QUESTION):
    """What the README's code prints, word for word as it stands there but for the question."""
    Image.fromarray(picture).save(folder / "picture.png")
    monkeypatch.chdir(folder)
    code = readme_code(folder)
    assert QUESTION in code
    assert len(code.strip().splitlines()) <= 12
    capsys.readouterr()
    exec(code.replace(QUESTION, question), {})
    return capsys.readouterr().out.rstrip("\n")


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_logits_are_equal(tmp_path, encoder, kind, fit):
    model = seeing(ENCODERS[encoder].model_copy(update=UNEVEN), kind)
    export_llava(model, None, tmp_path / "out", fit)
    theirs, processor = read(tmp_path / "out")
    turns = (Turn(f"{IMAGE}\nwhat is this?", "a temple roof"), Turn("and the colour?", ""))
    seen = []
    for picture in photographs():
        batch = shown(model, fit, picture, turns)
        inputs = inputs_of(processor, picture, turns)
        with torch.no_grad():
            logits = theirs(**inputs).logits[0]
        ours = logits_here(model, batch)
        assert logits.shape == (len(ours), ours.shape[1] + 1)
        assert ours.std() > 1
        assert alike(logits[:, :-1], ours)
        assert torch.equal(logits[:, -1], torch.zeros(len(ours))), "the picture's token has a row of zeros"
        seen.append(ours[-1])
    assert (seen[0] - seen[1]).abs().max() > 1e-3, "or the pictures are not looked at"


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize(("encoder", "tolerance"), [("vit", 1e-10), ("siglip", 1e-10), ("clip", 1e-6)])
def test_the_function_is_the_same_in_double_precision(tmp_path, encoder, kind, tolerance):
    """Nothing hides behind rounding; but CLIP's positions hold the patches' bias, added in float32."""
    model = seeing(ENCODERS[encoder], kind)
    export_llava(model, None, tmp_path / "out", "pad")
    theirs, processor = read(tmp_path / "out", torch.float64)
    picture = photographs()[0]
    inputs = inputs_of(processor, picture, asked(), torch.float64)
    batch = shown(model.double(), "pad", picture, asked())
    inputs["pixel_values"] = (batch.views["eye0"] - 0.5) / 0.5
    with torch.no_grad():
        logits = theirs(**inputs).logits[0, :, :-1]
    assert alike(logits, logits_here(model, batch), tolerance)


@pytest.mark.parametrize(("encoder", "layer"), [("vit", -1), ("siglip", -1), ("vit", -2), ("clip", -2)])
@pytest.mark.parametrize("tokens", ["patches", "all"])
def test_every_layer_and_the_whole_sequence(tmp_path, encoder, layer, tokens):
    model = seeing(ENCODERS[encoder], layer=layer, tokens=tokens)
    export_llava(model, None, tmp_path / "out", "crop")
    theirs, processor = read(tmp_path / "out")
    picture = photographs()[2]
    with torch.no_grad():
        logits = theirs(**inputs_of(processor, picture, asked())).logits[0, :, :-1]
    assert alike(logits, logits_here(model, shown(model, "crop", picture, asked())))


@pytest.mark.parametrize(("encoder", "kind", "fit"), [("vit", "qwen2", "crop"), ("siglip", "llama", "pad")])
def test_the_readme_answers_as_we_do(tmp_path, monkeypatch, capsys, encoder, kind, fit):
    model = seeing(ENCODERS[encoder], kind)
    export_llava(model, None, tmp_path / "out", fit)
    answers = []
    for picture in photographs():
        (ours,) = write(model, shown(model, fit, picture, asked()))
        assert run_readme(tmp_path / "out", picture, monkeypatch, capsys) == ours
        answers.append(ours)
    assert len(set(answers)) > 1, "all pictures are answered alike"


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("resize", [None, 20])
@pytest.mark.parametrize("squash", [False, True])
def test_pictures_are_prepared_alike(tmp_path, fit, resize, squash):
    config = ENCODER.model_copy(update=UNEVEN | {"resize": resize, "squash": squash})
    export_llava(seeing(config), None, tmp_path / "out", fit)
    _, processor = read(tmp_path / "out")
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (config.mean, config.std))
    for picture in photographs():
        made = processor.image_processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"]
        assert torch.allclose(made * std + mean, evaluate(config, [picture], fit), atol=1e-6)


def test_a_crop_of_odd_margins_is_a_pixel_off(tmp_path):
    """What the documentation admits: transformers rounds half a pixel down, we to even."""
    export_llava(seeing(), None, tmp_path / "out", "crop")
    _, processor = read(tmp_path / "out")
    picture = load_sample_image("china.jpg")[:160, :190]  # 16 x 19: margins of 3
    made = processor.image_processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"] / 2 + 0.5
    ours = evaluate(ENCODER, [picture])
    assert not torch.allclose(made, ours, atol=0.01)
    assert torch.allclose(made[..., 1:], ours[..., :-1], atol=1e-6)


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_a_picture_is_never_written(tmp_path, kind):
    """All logits but the new row's are made negative, so that its zero is the largest."""
    model = seeing(kind=kind)
    head = model.language.get_output_embeddings()
    with torch.no_grad():
        model.language.base_model.norm.weight.fill_(1.0)
        head.weight.fill_(-1.0).add_(0.01 * torch.randn(head.weight.shape))
    export_llava(model, None, tmp_path / "out", "crop")
    theirs, processor = read(tmp_path / "out")
    picture = photographs()[1]
    inputs = inputs_of(processor, picture, asked())
    with torch.no_grad():
        logits = theirs(**inputs).logits[0, -1]
        written = theirs.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    image = theirs.config.image_token_id
    if logits[:-1].max() < 0:
        assert logits.argmax() == image, "it would be written"
    assert image not in written.tolist()
    text = processor.decode(written, skip_special_tokens=True).strip()
    assert text == write(model, shown(model, "crop", picture, asked()), limit=8)[0]


def test_a_spare_row_is_used_where_there_is_one(tmp_path):
    model = seeing(vocabulary=TOKENIZER.get_vocab_size() + 3)
    export_llava(model, None, tmp_path / "out", "crop")
    theirs, processor = read(tmp_path / "out")
    assert theirs.config.text_config.vocab_size == TOKENIZER.get_vocab_size() + 3
    assert theirs.config.image_token_id == TOKENIZER.get_vocab_size() == len(processor.tokenizer) - 1
    assert theirs.generation_config.suppress_tokens == [theirs.config.image_token_id]
    assert TOKENIZER.token_to_id(IMAGE) is None, "the model's own tokenizer is as it was"


TALK = (
    Turn(f'{IMAGE}\nWhat\'s this: "a" or {{{{ b }}}}?\n ', " It is é, {% if %} 😀."),
    Turn("{}\n\\n", "two\n\n"),
    Turn("why?", ""),
)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_the_chat_template_is_ours_byte_for_byte(name, turns):
    from transformers.utils.chat_template_utils import render_jinja_template

    template, talk = TEMPLATES[name], TALK[:turns]
    odd = template.model_copy(update={"system": template.system + ' it\'s "so" {{ x }} \\ é😀\n\n'})
    for each in (template, odd):
        (closed,), _ = render_jinja_template([messages(talk)], chat_template=chat_template(each))
        (open_,), _ = render_jinja_template(
            [messages((*talk[:-1], talk[-1]._replace(reply="")))],
            chat_template=chat_template(each),
            add_generation_prompt=True,
        )
        assert open_ == "".join(text for text, _ in worded(each, talk, cue=True))
        if talk[-1].reply:
            assert closed == "".join(text for text, _ in worded(each, talk))


def test_the_chat_template_takes_plain_strings_and_no_other_roles():
    from transformers.utils.chat_template_utils import render_jinja_template

    def rendered(said):
        return render_jinja_template(
            [said], chat_template=chat_template(TEMPLATES["qwen2"]), add_generation_prompt=True
        )[0][0]

    plain = [{"role": "user", "content": f"{IMAGE}\nwhat?"}]
    assert rendered(plain) == rendered(messages(asked("what?")))
    assert rendered([{"role": "user", "content": [{"type": "image"}]}]).count(IMAGE) == 1
    with pytest.raises(Exception, match="roles user and assistant"):
        rendered([{"role": "system", "content": "be brief"}, *plain])


def test_tokens_are_the_chats(tmp_path):
    model = seeing()
    export_llava(model, None, tmp_path / "out", "crop")
    _, processor = read(tmp_path / "out")
    for turns in (asked("what  is\n it?"), (Turn(f"{IMAGE}\nred?", "no"), Turn(" and blue ?", ""))):
        made = inputs_of(processor, photographs()[0], turns)["input_ids"][0]
        (spoken,) = model.chat.speak([turns], cue=True)
        assert (
            made.tolist() == np.where(spoken.ids == PICTURE, TOKENIZER.get_vocab_size(), spoken.ids).tolist()
        )


def test_a_published_tokenizers_special_tokens_are_kept(tmp_path):
    """A folder as of a published model, whose tokenizer puts a token before every text by itself."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer.from_str(TOKENIZER.to_str())
    own.post_processor = TemplateProcessing(single="<start> $A", special_tokens=[("<start>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<start>", eos_token="<pad>")
    fast.save_pretrained(tmp_path / "published")
    template = Template(begin="<start>", ask="Q: {} ", cue="A:", reply=" {}<end>")
    model = seeing(template=template)
    model.chat.tokenizer = own  # not a change of the tokenizer that all tests share
    export_llava(model, tmp_path / "published", tmp_path / "out", "crop")
    _, processor = read(tmp_path / "out")
    made = inputs_of(processor, photographs()[0], asked())["input_ids"][0].tolist()
    assert made.count(1) == 1 == made[0], "the beginning stands there once"
    assert (processor.tokenizer.bos_token, processor.tokenizer.eos_token) == ("<start>", "<end>")
    assert processor.tokenizer.pad_token == "<pad>"


def test_what_llava_has_no_place_for_is_refused(tmp_path):
    out = tmp_path / "out"
    two = seeing()
    config = EyesConfig(merge="channel")
    two.eyes = build_eyes(config, [VisionEncoder(ENCODER), VisionEncoder(ENCODER)], 16, 0)
    registers = ENCODER.model_copy(update={"registers": 2})
    for model, why in (
        (
            seeing(connector=LinearConfig()),
            r"linear: train with vlm.eyes.connector \{kind: mlp\}",
        ),
        (seeing(connector=ResamplerConfig(queries=4, heads=2)), "the connector resampler: train"),
        (two, "one encoder, and this model has 2"),
        (tiny_vlm(eyes=False), "without eyes"),
        (seeing(ENCODERS["clip"], layer=-1), "vlm.eyes.layer -2"),
        (seeing(registers), "register tokens"),
    ):
        with pytest.raises(UserError, match=why) as refused:
            export_llava(model, None, out, "crop")
        assert str(refused.value).endswith(".")
        assert not out.exists()


def test_a_tokenizer_that_glues_pictures_to_words_is_refused(tmp_path):
    """One that puts a space before the first word only, which for us follows the picture again."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        special_tokens=["<pad>", "<start>", "<end>"], initial_alphabet=["▁", "\n"], show_progress=False
    )
    own.train_from_iterator(CAPTIONS, trainer)
    model = seeing()
    model.chat = Chat(own, model.chat.template, model.chat.context, model.eyes.tokens)
    with pytest.raises(UserError, match="makes other tokens"):
        export_llava(model, None, tmp_path / "out", "crop")
    assert not (tmp_path / "out").exists()


def test_exporting_changes_nothing_and_repeats(tmp_path):
    model = seeing()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for name in ("one", "two"):
        export_llava(model, None, tmp_path / name, "crop")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.language.config.vocab_size == TOKENIZER.get_vocab_size()
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    assert not [f for f in files if not f.endswith((".json", ".safetensors", ".jinja", ".md"))], "no pickles"
    settings = json.loads((tmp_path / "one" / "config.json").read_text())
    assert settings["text_config"]["use_cache"] is True


def test_the_documented_code_says_what_the_folders_own_says(tmp_path, monkeypatch, capsys):
    """docs/vlm.md, word for word."""
    text = (Path(__file__).parents[2] / "docs" / "vlm.md").read_text("utf-8")
    (code,) = re.findall(
        r"\n((?:    .*\n|\n)*?    from transformers import AutoProcessor.*\n(?:    .*\n|\n)+)", text
    )
    export_llava(seeing(), None, tmp_path / "llava-clip", "crop")
    picture, question = photographs()[0], "What is this?"
    own = run_readme(tmp_path / "llava-clip", picture, monkeypatch, capsys, question)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    assert question in code
    exec(textwrap.dedent(code), {})
    assert capsys.readouterr().out.rstrip("\n") == own
