"""Language models from folders and packages: the wording that is theirs, and what does not fit."""

import pytest
import torch
from objectives import TOKENIZER

from paribus.encoders.weights import find, known
from paribus.errors import UserError
from paribus.study.downstream import PublishedLanguage
from paribus.types import IMAGE, Runtime, Turn
from paribus.vlm.conversation import TEMPLATES, Chat, specials, worded
from paribus.vlm.language import (
    PretrainedLanguageConfig,
    build_language_model,
    derived,
    read_language_model,
)

from . import LANGUAGE

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe kind."
    "<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(template, tokens=("<|im_start|>", "<|im_end|>")):
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(TOKENIZER.to_str()), pad_token="<pad>")
    made.add_special_tokens({"additional_special_tokens": list(tokens)})
    made.chat_template = template
    return made


def saved(folder, template=CHATML, positions=80, **changes):
    """A tiny model and its tokenizer, as published."""
    words = tokenizer(template)
    config = LANGUAGE.model_copy(update=changes)
    model = build_language_model(config, len(words) + 8, 0, torch.device("cpu"))
    model.config.max_position_embeddings = positions
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model


def test_a_wording_is_read_off_a_chat_template():
    found = derived(tokenizer(CHATML), "it")
    turns = (Turn(f"{IMAGE}\nQ", "A"), Turn("R", "B"))
    assert "".join(text for text, _ in worded(found, turns)) == (
        f"<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{IMAGE}\nQ<|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
    )
    assert [text for text, learnt in worded(found, turns) if learnt] == ["A<|im_end|>", "B<|im_end|>"]


def test_a_wording_that_is_no_chain_of_pieces_is_refused():
    with pytest.raises(UserError, match=r"of a form that is not understood.*vlm\.language\.template"):
        derived(tokenizer("{{ messages[0]['content'] }}"), "it")
    with pytest.raises(UserError, match=r"tokenizer of it has no chat template.*one of plain, vicuna_v1"):
        derived(tokenizer(None), "it")


def test_a_folder_is_read_with_its_own_words(tmp_path):
    model = saved(tmp_path)
    spoken = read_language_model(PretrainedLanguageConfig(weights=str(tmp_path), context=80), tmp_path)
    assert spoken.template.system.endswith("Be kind.<|im_end|>\n")
    assert torch.equal(spoken.model.get_input_embeddings().weight, model.get_input_embeddings().weight)
    given = PretrainedLanguageConfig(weights=str(tmp_path), template="qwen2", context=80)
    assert read_language_model(given, tmp_path).template == TEMPLATES["qwen2"]
    assert given.shape().hidden == LANGUAGE.hidden
    assert given.shape().tied


def test_what_does_not_fit_says_so(tmp_path):
    saved(tmp_path, positions=40)
    with pytest.raises(UserError, match=r"context is 80, but .* has 40 positions"):
        read_language_model(PretrainedLanguageConfig(weights=str(tmp_path), context=80), tmp_path)
    with pytest.raises(UserError, match="there is no 'alpaca'; choose one of"):
        odd = PretrainedLanguageConfig(weights=str(tmp_path), template="alpaca", context=40)
        read_language_model(odd, tmp_path)
    with pytest.raises(UserError, match="no causal language model: its config has no 'intermediate_size'"):
        (tmp_path / "config.json").write_text(
            '{"model_type": "bert", "hidden_size": 4, "num_attention_heads": 2}'
        )
        PretrainedLanguageConfig(weights=str(tmp_path)).shape()


@pytest.mark.parametrize("name", [name for name, row in known().items() if row.template])
def test_every_row_has_a_wording_and_a_shape(name):
    assert known()[name].template in TEMPLATES
    assert PretrainedLanguageConfig(weights=name).shape().parameters > 1e8


@pytest.mark.slow
def test_the_real_smollm2_speaks_as_its_tokenizer_says_and_knows_where_paris_is():
    try:
        folder = find("smollm2")
    except UserError as error:
        pytest.skip(f"the weights are not installed ({error})")
    config = PretrainedLanguageConfig(weights="smollm2", context=100)
    spoken = read_language_model(config, folder)
    from paribus.encoders.weights import load_tokenizer

    words = load_tokenizer(folder)
    turns = (Turn("What is the capital of France?", "Paris."), Turn("And of Spain?", "Madrid."))
    told, wanted = (worded(template, turns) for template in (derived(words, "it"), TEMPLATES["smollm2"]))
    assert "".join(text for text, _ in told) == "".join(text for text, _ in wanted)
    chat = Chat(spoken.tokenizer, spoken.template, 200)
    (said,) = chat.speak([turns])
    pairs = [
        ("user", turns[0].ask),
        ("assistant", turns[0].reply),
        ("user", turns[1].ask),
        ("assistant", "Madrid."),
    ]
    messages = [{"role": role, "content": text} for role, text in pairs]
    expected = words.apply_chat_template(messages, tokenize=False)
    assert said.ids.tolist() == words(expected, add_special_tokens=False)["input_ids"]
    learnt = spoken.tokenizer.decode(said.ids[said.target].tolist(), skip_special_tokens=False)
    assert learnt == "Paris.<|im_end|>Madrid.<|im_end|>"
    assert config.shape().parameters == pytest.approx(spoken.model.num_parameters(), rel=1e-3)

    import numpy as np

    from paribus.types import Batch
    from paribus.vlm.answering import write
    from paribus.vlm.model import VisionLanguage

    vlm = VisionLanguage(spoken.model, chat)
    asked = Batch(np.zeros(1, dtype=np.uint64), {}, [""], [turns[:1]])
    assert "Paris" in write(vlm, asked, limit=12)[0]
    assert specials(spoken.template) == ["<|im_start|>", "<|im_end|>"]


def test_weights_that_changed_since_lessons_began_are_refused(tmp_path):
    saved(tmp_path / "model")
    config = PretrainedLanguageConfig(weights=str(tmp_path / "model"), context=80)
    stage, runtime = PublishedLanguage(config=config), Runtime(cache=tmp_path / "cache")
    stage.run(runtime)
    assert stage.open(runtime).model.config.hidden_size == LANGUAGE.hidden
    saved(tmp_path / "model", hidden=32)
    with pytest.raises(UserError, match="has changed since models were taught with it"):
        stage.open(runtime)
