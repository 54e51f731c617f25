"""What each language model reads when it is asked, byte for byte: every wording of a prompt in its own words.

The texts lie in ``snapshots/``, a file for each language model. A difference is shown line by line when a
test fails, and the file as it would be now is left in ``PARIBUS_SNAPSHOTS``, if that names a folder. Who
means the change puts that file in the place of the old one: all scores before it are then of other prompts.
"""

import difflib
import os
from pathlib import Path

import pytest

from paribus.encoders.weights import known
from paribus.study.answers import asked
from paribus.types import NOTHING
from paribus.vlm.answering import without_picture
from paribus.vlm.conversation import TEMPLATES, worded
from paribus.vlm.language import LanguageConfig
from paribus.vqa.benchmark import PROMPTS, Question

SNAPSHOTS = Path(__file__).parent / "snapshots"
SCRATCH = "from scratch"

MODELS = {
    **{name: TEMPLATES[row.template] for name, row in known().items() if row.template},
    SCRATCH: LanguageConfig().wording(),
}
"""Language model -> how it is spoken to."""


def question(text, *options, lettered=True):
    answer = "A" if lettered else options[0]
    return Question(0, text, options, answer, "OCR", NOTHING, "TextVQA", "k", lettered=lettered)


QUESTIONS = {
    "two options": question("Which is larger?", "the left one", "the right one"),
    "four options": question(
        'What does the sign say, "STOP" or not?', "STOP", "SHOP, open", "naïve 猫", "None"
    ),
    "yes or no": question("Is there a chair in the image?", "Yes", "No", lettered=False),
}
RULE = "=" * 20


def spoken(model):
    """All that a language model is asked, with the picture and without."""
    parts = []
    for template in PROMPTS:
        for name, each in QUESTIONS.items():
            shown = asked(each, template)
            for way, turns in (("seen", shown), ("no image", without_picture(shown))):
                text = "".join(text for text, _ in worded(MODELS[model], turns, cue=True))
                parts.append(f"{RULE} {template}, {name}, {way}\n{text}\n")
    return "".join(parts)


def place(model):
    return SNAPSHOTS / f"{model.replace(' ', '-')}.txt"


@pytest.mark.parametrize("model", MODELS)
def test_a_prompt_is_what_it_was_byte_for_byte(model):
    told, path = spoken(model).encode(), place(model)
    if folder := os.environ.get("PARIBUS_SNAPSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / path.name).write_bytes(told)
    pinned = path.read_bytes() if path.exists() else b""
    lines = [text.decode().splitlines(keepends=True) for text in (pinned, told)]
    shown = "".join(repr(line)[1:-1] + "\n" for line in difflib.unified_diff(*lines, "pinned", "now"))
    assert told == pinned, (
        f"{path} differs; set PARIBUS_SNAPSHOTS to a folder to get it as it is now\n{shown}"
    )


def test_each_model_has_a_snapshot_and_each_snapshot_a_model():
    assert {path.name for path in SNAPSHOTS.iterdir()} == {place(model).name for model in MODELS}


@pytest.mark.parametrize("model", MODELS)
def test_no_two_ways_of_asking_read_alike(model):
    """But for what is said and not lettered, whose wording most prompt templates do not change."""
    texts = [part.split("\n", 1) for part in spoken(model).split(f"{RULE} ")[1:]]
    lettered = [text for name, text in texts if "yes or no" not in name]
    assert len(set(lettered)) == len(lettered) == 2 * 2 * len(PROMPTS)
    assert all(text.count("<image>") == name.endswith(", seen") for name, text in texts)
