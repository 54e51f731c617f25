"""What a checkpoint is, in words: the lines of ``paribus encoder info``, and the model card of a push."""

import json
from collections.abc import Iterable, Sequence

from paribus.encoders.exchange import size_name
from paribus.encoders.folders import About, Loaded, Trained
from paribus.encoders.published import transform_words
from paribus.encoders.vision import EncoderConfig, weights_digest
from paribus.errors import UserError
from paribus.results import Results

SECTIONS = ("probe", "knn", "zeroshot")
"""Of a study's results, what the card tells of an encoder."""

LIBRARIES = {"transformers": "transformers", "timm": "timm", "open_clip": "open_clip"}

LOADING = {
    "paribus": """from paribus.encoders.published import evaluate, load
from huggingface_hub import snapshot_download

encoder, about = load(snapshot_download("{repo}"))
features = encoder(evaluate(encoder.config, pictures))  # uint8 [H W 3] each, any size
features.cls, features.patches""",
    "transformers": """from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained("{repo}")
processor = AutoImageProcessor.from_pretrained("{repo}")
model(**processor(picture, return_tensors="pt")).last_hidden_state""",
    "timm": """import timm

model = timm.create_model("hf-hub:{repo}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
model(transform(picture)[None])""",
    "open_clip": """import open_clip

model, preprocess = open_clip.create_model_from_pretrained("hf-hub:{repo}")
tokenizer = open_clip.get_tokenizer("hf-hub:{repo}")
model.encode_image(preprocess(picture)[None])""",
}
"""Format -> how a folder in it is read from the hub."""


def architecture(config: EncoderConfig) -> str:
    """One line: width, depth, heads and what is not plain."""
    parts = [f"vision transformer, width {config.width}, depth {config.depth}, heads {config.heads}"]
    parts += [f"{config.registers} registers"] * bool(config.registers)
    parts += ["LayerNorm before the blocks"] * config.pre_norm
    parts += ["attention-pooling head" if config.pool == "map" else "class token"]
    return ", ".join(parts)


def described(loaded: Loaded) -> list[tuple[str, str]]:
    """What a checkpoint is, as (name, value) in the order in which a person asks."""
    encoder, about = loaded
    config = encoder.config
    count = sum(parameter.numel() for parameter in encoder.parameters())
    lines = [
        ("format", about.format),
        ("architecture", architecture(config)),
        ("size", size_name(config) or "no published one"),
        ("parameters", f"{count:,}"),
        ("image size", f"{config.image_size} pixels, {config.grid} x {config.grid} patches"),
        ("patch", f"{config.patch} pixels"),
        ("activation", config.activation),
        ("LayerNorm eps", f"{config.eps:g}"),
        ("normalisation", f"mean {_triple(config.mean)}, std {_triple(config.std)}"),
        ("preprocessing", transform_words(config)),
        ("weights", f"sha256 {weights_digest(encoder)}"),
    ]
    return lines + _trained(about.trained) + [("note", note) for note in about.notes]


def _triple(values: tuple[float, float, float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _trained(trained: Trained | None) -> list[tuple[str, str]]:
    if trained is None:
        return []
    told = {
        "objective": trained.objective,
        "study": trained.study,
        "arm": trained.arm,
        "seed": trained.seed,
        "samples seen": None if trained.samples is None else f"{trained.samples:,}",
        "data digest": trained.data,
        "order digest": trained.order,
    }
    lines = [(name, str(value)) for name, value in told.items() if value is not None]
    settings = {"its settings" if name in told else name: value for name, value in trained.settings.items()}
    return lines + [(name, json.dumps(value)) for name, value in settings.items()]


def arm_of(results: Results, about: About, arm: str | None) -> str:
    """The arm of a study that an encoder is: as told, as its folder says, or of its objective's name.

    Raises:
        UserError: the study has no such arm, or it cannot be told which one it is.
    """
    trained = about.trained or Trained()
    found = arm or trained.arm or trained.objective
    known = [*results.arms, *results.baselines]
    if found not in known:
        raise UserError(
            f"The study {results.study} has no arm {found}: say --arm with one of {', '.join(known)}."
        )
    return found


def model_card(loaded: Loaded, repo: str, results: Results | None = None, arm: str | None = None) -> str:
    """A README.md for the hub: what the encoder is, how it was taught, how good it is, how to load it.

    Args:
        loaded: the checkpoint.
        repo: where it will be, ``owner/name``.
        results: of the study that trained it; its ledger and the arm's probes are told with their intervals.
        arm: which arm of the study it is, where its folder does not say.

    Raises:
        UserError: the results have no such arm.
    """
    form = "paribus" if loaded.about.format == "stage" else loaded.about.format
    head = ["---", "tags:", "- paribus", "- vision", "pipeline_tag: image-feature-extraction"]
    head += [f"library_name: {LIBRARIES[form]}"] if form in LIBRARIES else []
    name = size_name(loaded.encoder.config) or "A small vision transformer"
    objective = loaded.about.trained.objective if loaded.about.trained else None
    taught = f" trained with {objective}" if objective else ""
    parts = ["\n".join([*head, "---"]), f"# {repo.split('/')[-1]}", f"{name}{taught}, in the {form} format."]
    parts += [_table(("", ""), [(f"**{name}**", f"`{value}`") for name, value in described(loaded)])]
    if results is not None:
        parts += _study(results, arm_of(results, loaded.about, arm))
    parts += ["## How to load it", f"```python\n{LOADING[form].format(repo=repo)}\n```"]
    return "\n\n".join(parts) + "\n"


def _study(results: Results, arm: str) -> list[str]:
    """The study's part of a card."""
    data = "; ".join(f"{name}: {value}" for name, value in results.data.items())
    parts = [
        "## The study",
        f"Arm `{arm}` of `{results.study}` (level {results.level}, seeds {results.seeds}).",
        results.hypothesis,
        f"Data: {data}.",
    ]
    rows = [
        (row.path, row.role, row.values.get(arm, ""), f"{row.why} {row.source}".strip())
        for row in results.ledger
        if arm in row.values or row.role != "measured"
    ]
    parts += ["## Ledger", "Every setting of this arm, and what part it plays in the comparison."]
    parts += [_table(("setting", "role", "value", "why"), rows)]
    measured = [
        (
            m.section,
            m.task,
            m.metric,
            f"{m.value:.4g} [{m.low:.4g}, {m.high:.4g}]",
            f"{m.n} {m.unit}",
            str(m.seed),
        )
        for m in results.measures
        if m.arm == arm and m.section in SECTIONS
    ]
    if measured:
        where = "On the frozen encoder, with 95% intervals; zero-shot ones by the arm's own text tower."
        parts += ["## Probes", where]
        parts += [_table(("section", "task", "metric", "value", "n", "seed"), measured)]
    return parts


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
