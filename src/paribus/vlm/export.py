"""A finished model that sees, as transformers' ``LlavaForConditionalGeneration`` and its processor.

Nothing of Paribus is needed to use what is written. The folder holds the model, a tokenizer that knows
``<image>``, an image processor that prepares pictures as the encoder was trained, a chat template that words
a conversation byte for byte as ``Chat`` does, and a README with the code that asks a question.

The tokenizer differs from the model's own in two things: ``<image>`` is a token, which is never written
(``suppress_tokens``), and no token is put before a text, since the template words them all.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import AddedToken, Tokenizer
from torch import Tensor, nn

from paribus.encoders import foreign_transformers
from paribus.encoders.folders import write_transformers
from paribus.encoders.published import Fit
from paribus.encoders.text import PAD
from paribus.encoders.vision import VisionEncoder
from paribus.encoders.weights import load_model, load_tokenizer
from paribus.errors import UserError
from paribus.files import whole_folder, write_text
from paribus.peers import mend_torchvision
from paribus.types import IMAGE, Turn, Turns
from paribus.vlm.connector import TwoLayerConnector
from paribus.vlm.conversation import PICTURE, SPOT, Chat, Template, worded
from paribus.vlm.eyes import Eyes
from paribus.vlm.model import VisionLanguage

PROBE: Turns = (Turn(f"{IMAGE}\nIs this it, 1 or 2?", "It is."), Turn("Why?\n Tell me.", ""))
"""The conversation that a written tokenizer has to make the same tokens of."""

NAMED = ("bos_token", "unk_token", "pad_token")
"""What is taken over from a published tokenizer; its end is the template's."""

README = """\
# A vision-language model, trained with Paribus

A LLaVA of transformers 5.23 or later: {parts}.

Run this in the folder of these files, with a picture beside them:

```python
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

folder, picture, question = ".", "picture.png", "What is in the picture?"
processor = AutoProcessor.from_pretrained(folder, backend="pil")
model = LlavaForConditionalGeneration.from_pretrained(folder)
content = [{{"type": "image"}}, {{"type": "text", "text": question}}]
prompt = processor.apply_chat_template([{{"role": "user", "content": content}}], add_generation_prompt=True)
inputs = processor(images=Image.open(picture).convert("RGB"), text=prompt, return_tensors="pt")
written = model.generate(**inputs, max_new_tokens=32)
print(processor.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
```

The chat template words the special tokens at the beginning too; the tokenizer adds none by itself. Pillow is
what the model was trained with; without `backend="pil"` transformers may resize with torchvision, which
rounds otherwise.
"""


class Parts(NamedTuple):
    """What can be exported: one encoder, the connector that LLaVA has, a language model."""

    eyes: Eyes
    encoder: VisionEncoder
    connector: TwoLayerConnector
    language: Any
    head: nn.Linear

    @property
    def strategy(self) -> str:
        """LLaVA's word for what is read of the sequence: without its first token, or all."""
        return "full" if self.eyes.config.whole or not self.encoder.config.lead else "default"


def export_llava(model: VisionLanguage, tokenizer_folder: Path | None, out: Path, fit: Fit) -> None:
    """Write a folder for transformers' ``LlavaForConditionalGeneration`` and ``AutoProcessor``.

    Args:
        model: with one encoder and the MLP connector.
        tokenizer_folder: of a published language model, which special tokens are read from; None for one that
            was trained here.
        out: the folder; what is there is replaced.
        fit: how pictures become squares.

    Raises:
        UserError: LLaVA has no place for a part of the model.
    """
    parts = _parts(model)
    tokenizer = _tokenizer(model.chat, tokenizer_folder)
    with whole_folder(out) as folder:
        llava = _llava(parts, tokenizer.convert_tokens_to_ids(IMAGE), folder / "tower")
        llava.generation_config = _greedy(model.chat.template, tokenizer)
        llava.save_pretrained(folder)
        _write_processor(parts, tokenizer, chat_template(model.chat.template), fit, folder)
        _check_tokens(model.chat, folder)
        write_text(folder / "README.md", README.format(parts=_described(parts)))


def _described(parts: Parts) -> str:
    encoder = parts.encoder.config
    tower = foreign_transformers.layout_of(encoder).title.removeprefix("transformers' ")
    family = parts.language.config.model_type
    return (
        f"a {tower} of {encoder.depth} blocks for pictures of {encoder.image_size} pixels, "
        f"{parts.eyes.tokens} tokens a picture, and a language model of the family {family}"
    )


# What can be exported.


def _parts(model: VisionLanguage) -> Parts:
    """The parts of a model.

    Raises:
        UserError: LLaVA has no place for one of them.
    """
    eyes = model.eyes
    if eyes is None:
        raise UserError("A language model without eyes is no LLaVA: export one that has seen pictures.")
    if len(eyes.encoders) != 1:
        raise UserError(
            f"transformers' LLaVA has one encoder, and this model has {len(eyes.encoders)}: "
            "only models with one can be exported."
        )
    encoder, connector = eyes.encoders[0], eyes.connector
    assert isinstance(encoder, VisionEncoder)
    if not isinstance(connector, TwoLayerConnector):
        raise UserError(
            f"transformers' LLaVA has no place for the connector {eyes.config.connector.kind}: train with "
            "vlm.eyes.connector {kind: mlp} to export the model."
        )
    if eyes.config.layer == -1 and encoder.config.pre_norm:
        raise UserError(
            "vlm.eyes.layer is -1, and transformers' CLIPVisionModel gives no patches after its last norm: "
            "train with vlm.eyes.layer -2 to export the model."
        )
    head = model.language.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head.bias is not None:
        raise UserError("transformers' LLaVA has no place for a bias of the language model's output head.")
    return Parts(eyes, encoder, connector, model.language, head)


# The model.


def _llava(parts: Parts, image: int, tower: Path) -> Any:
    """The model as transformers builds it, with the weights themselves, not copies."""
    mend_torchvision()
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    state = _state(parts, image + 1, tower)
    config = LlavaConfig(**_settings(parts, image))
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(config)
    for name, blank in llava.state_dict().items():
        if ".pooler." in name:  # a ViTModel's, which LLaVA builds and never reads
            state[name] = torch.zeros(blank.shape)
    llava.load_state_dict(state, assign=True)
    return llava


def _settings(parts: Parts, image: int) -> dict[str, Any]:
    """LLaVA's config."""
    eyes, encoder = parts.eyes.config, parts.encoder.config
    vision = foreign_transformers.write_config(encoder, foreign_transformers.layout_of(encoder))
    if eyes.layer == -1:  # else the last hidden state comes before the last norm
        vision["tie_last_hidden_states"] = True
    language = parts.language.config.to_dict()
    rows = max(int(parts.head.weight.shape[0]), image + 1)
    return {
        "vision_config": vision,
        "text_config": language | {"vocab_size": rows, "use_cache": True},
        "image_token_index": image,
        "image_seq_length": parts.eyes.tokens,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": eyes.layer,
        "vision_feature_select_strategy": parts.strategy,
        "tie_word_embeddings": bool(language.get("tie_word_embeddings", False)),
        "dtype": str(parts.head.weight.dtype).removeprefix("torch."),
    }


def _state(parts: Parts, least: int, folder: Path) -> dict[str, Tensor]:
    """All weights under LLaVA's names, in the language model's precision.

    The tower goes through a folder, as ``paribus encoder export`` writes it, because transformers renames a
    published tower's tensors when it reads them.
    """
    write_transformers(parts.encoder, folder)
    tower = load_model(folder).state_dict()
    shutil.rmtree(folder)
    layers = parts.connector.layers
    projector = {
        f"{theirs}.{kind}": getattr(layers[ours], kind)
        for ours, theirs in ((0, "linear_1"), (2, "linear_2"))
        for kind in ("weight", "bias")
    }
    words = parts.language.base_model.state_dict()
    table = parts.language.get_input_embeddings().weight
    (name,) = (name for name, value in words.items() if value.data_ptr() == table.data_ptr())
    words[name] = _lengthened(table, least)
    tied = parts.head.weight.data_ptr() == table.data_ptr()
    head = words[name] if tied else _lengthened(parts.head.weight, least)
    placed = {"vision_tower": tower, "multi_modal_projector": projector, "language_model": words}
    named = {f"model.{place}.{name}": x for place, some in placed.items() for name, x in some.items()}
    return {name: x.detach().to("cpu", table.dtype) for name, x in (named | {"lm_head.weight": head}).items()}


def _lengthened(table: Float[Tensor, "rows H"], least: int) -> Float[Tensor, "more H"]:
    """A table of at least so many rows; new ones are zero."""
    missing = least - len(table)
    return table if missing <= 0 else torch.cat([table, table.new_zeros(missing, table.shape[1])])


def _greedy(template: Template, tokenizer: Any) -> Any:
    """Generation word by word, ended by the template's stop, and never a picture."""
    from transformers import GenerationConfig

    stop = tokenizer.get_vocab().get(template.stop)
    settings: Any = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        use_cache=True,
        eos_token_id=stop,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=[tokenizer.convert_tokens_to_ids(IMAGE)],
    )
    return settings


# The processor.


def _tokenizer(chat: Chat, folder: Path | None) -> Any:
    """The chat's tokenizer as transformers', with ``<image>`` and without tokens that it adds by itself."""
    mend_torchvision()
    from transformers import PreTrainedTokenizerFast

    said = json.loads(chat.tokenizer.to_str()) | {"post_processor": None}
    backend = Tokenizer.from_str(json.dumps(said))
    backend.add_special_tokens([AddedToken(IMAGE, special=True, normalized=False)])
    known = {} if folder is None else load_tokenizer(folder).special_tokens_map
    named: dict[str, str] = {
        name: str(known[name]) for name in ("bos_token", "unk_token", "pad_token") if name in known
    }
    stop, fallback = chat.template.stop, chat.own.stop
    named["eos_token"] = stop if backend.token_to_id(stop) is not None else fallback
    named.setdefault("pad_token", PAD if backend.token_to_id(PAD) is not None else named["eos_token"])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=chat.context,
        **named,
    )


def _image_processor(encoder: VisionEncoder, fit: Fit) -> Any:
    """What prepares pictures as ``evaluate`` does, and normalises them, which our encoder does itself.

    By Pillow, if it is read with ``backend="pil"``; torchvision resizes otherwise in the last bit of many
    pixels. A crop whose margins are odd in sum may lie one pixel before ours: transformers rounds half a
    pixel down, torchvision and we to even.
    """
    from transformers import CLIPImageProcessorPil, LlavaImageProcessorPil

    settings = foreign_transformers.write_pixels(encoder.config)
    settings.pop("image_processor_type")
    if fit == "crop":
        return CLIPImageProcessorPil(**settings)
    side = encoder.config.image_size
    padded = {"do_pad": True, "size": {"height": side, "width": side}, "do_center_crop": False}
    return LlavaImageProcessorPil(**settings | padded)


def _write_processor(parts: Parts, tokenizer: Any, template: str, fit: Fit, folder: Path) -> None:
    from transformers import LlavaProcessor

    encoder = parts.encoder
    processor: Any = LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=_image_processor(encoder, fit),
        tokenizer=tokenizer,
        patch_size=encoder.config.patch,
        vision_feature_select_strategy=parts.strategy,
        chat_template=template,
        image_token=IMAGE,
        num_additional_image_tokens=encoder.config.lead,
    )
    processor.save_pretrained(folder)


def _check_tokens(chat: Chat, folder: Path) -> None:
    """See that the written tokenizer makes the same tokens of a conversation.

    Raises:
        UserError: it does not.
    """
    from transformers import AutoTokenizer

    written = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    text = "".join(text for text, _ in worded(chat.template, PROBE, cue=True))
    own = Chat(Tokenizer.from_str(chat.tokenizer.to_str()), chat.template, chat.context + len(text), 1)
    (spoken,) = own.speak([PROBE], cue=True)
    ids = np.where(spoken.ids == PICTURE, written.convert_tokens_to_ids(IMAGE), spoken.ids)
    if written(text)["input_ids"] != ids.tolist():
        raise UserError(
            "transformers' tokenizer makes other tokens of what follows a picture than the model was trained "
            "with: this language model cannot be exported."
        )


SAID = (
    "{% macro said(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "{% if part.type == 'image' %}{{ image }}{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}{% endmacro %}"
).replace("image }}", f"'{IMAGE}' }}}}")
"""Parts of a message, each on a line of its own."""


def chat_template(template: Template) -> str:
    """The wording in Jinja, as transformers renders it.

    A picture is a part of a message and stands where that part stands, on its own line. There is no system
    message but the template's own.
    """
    before, spot, after = template.ask.partition(SPOT)
    ask = f"{_spelt(before)}{'{{ said(message.content) }}' if spot else ''}{_spelt(after)}"
    lead, _, stop = template.reply.partition(SPOT)
    reply = f"{_spelt(lead)}{{{{ said(message.content) }}}}{_spelt(stop + template.after)}"
    cue = f"{{% if add_generation_prompt or not loop.last %}}{_spelt(template.cue)}{{% endif %}}"
    return (
        f"{SAID}{_spelt(template.begin + template.system)}"
        "{% for message in messages %}"
        f"{{% if message.role == 'user' %}}{ask}{cue}"
        f"{{% elif message.role == 'assistant' %}}{reply}"
        "{% else %}{{ raise_exception('There are the roles user and assistant.') }}{% endif %}"
        "{% endfor %}"
    )


def _spelt(text: str) -> str:
    """A text that Jinja gives back as it is, white space and all."""
    return f"{{{{ {text!a} }}}}" if text else ""
