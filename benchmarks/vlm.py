"""A model that sees beside transformers: training and asking, as ratios, in alternating rounds of one run.

    .venv/bin/python benchmarks/vlm.py [cpu|cuda] [instruct|questions|align ...]

The sides of a case do the same work with the same weights, and take turns; the ratio is that of the medians.
Memory is what a pass takes at most beyond the model, each side in a process of its own.

On CPU everything is a small part of a published model's: a Llama 256 wide of 6 blocks and 4,096 words (6 M
parameters), a ViT-Ti/16 at 112 pixels (49 tokens a picture), texts a quarter as long. On CUDA, Qwen2-0.5B's
blocks with Llama's 32,000 words, ViT-B/16 at 224 pixels (196 tokens), whole texts, and a further column: MFU,
which share of the device's bf16 peak the work comes to, padding not counted. CUDA has not been tried: no
machine with it was at hand.

**Stage 2**: target tokens a second, of whole training steps with batches of 16, bf16 autocast, fused AdamW
and clipping. Ours is ``fit`` with packed rows; the peer transformers' ``Trainer`` and
``LlavaForConditionalGeneration`` (on CPU with eager attention, the faster one there), with LLaVA's padding on
the right to the longest of the batch. Both get the same batches, ready made. Lengths follow LLaVA-1.5's 665K,
source by source (``MIX``): 196 tokens of picture counted, the mean is 476 tokens. As there
(``group_by_modality_length``) a batch is of pictures or of text alone, and one in sixteen is text. LLaVA's
sampler sorts by length only within a global batch, which it deals out to even the devices' loads, so it pads
no less. Trainer's own ``group_by_length`` would; but then length decides which samples meet in a batch.

**Questions**: questions a second, from pictures to answers, of VMCBench's form; their lengths are estimates.
Ours is ``Asking``: one forward pass for 64 packed questions. The peers write with transformers' ``generate``,
one by one or 64 at once padded on the left, and read what is written. They stop after two tokens, which is
what a model says that has learnt to answer with a letter; more takes longer. They do so by bf16 autocast, as
ours, and the batches once more with weights in bf16, which is faster and rounds more.

**Stage 1**: pictures a second, of training the connector on captions with the built-in language model (192
wide, 4 blocks): with features that were kept, and with a ViT-S/16 at 112 pixels (CUDA: ViT-B/16 at 224) that
looks anew. How many times the FLOPs of all else a look takes is part of the line. Keeping costs that look
once, so it pays from the second time on that the same pictures are shown.
"""

import contextlib
import io
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from safetensors.numpy import save_file
from supervision import Pass, resident, seconds
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from paribus.encoders.text import train_tokenizer
from paribus.encoders.vision import EncoderConfig, VisionEncoder, preset
from paribus.study.answers import BLOCK, Asking, asked
from paribus.study.downstream import Instruct, forward_flops
from paribus.study.looking import EyeLoader, Kept
from paribus.study.recipe import AlignLesson, AskConfig, InstructLesson, Lesson
from paribus.train.loop import Batches, fit
from paribus.types import IMAGE, NOTHING, Batch, Budget, Clock, Runtime, Sample, Turn, Turns
from paribus.vlm.conversation import PICTURE, TEMPLATES, Chat, worded
from paribus.vlm.export import export_llava
from paribus.vlm.eyes import EyesConfig, build_eyes
from paribus.vlm.language import LanguageConfig, build_language_model
from paribus.vlm.model import Part, VisionLanguage
from paribus.vqa import scoring
from paribus.vqa.benchmark import PROMPTS, Question

ROUNDS = 5
BATCH = 16
TEXTS = 16
"""One batch in so many is of text alone: ShareGPT has 41 of the mix's 665 thousand records."""
QUESTIONS = 128
PICTURES = 256
CAPTIONED = 32
"""Pictures of a batch in stage 1."""
SPREAD = 0.6
"""Standard deviation of a text's log length."""
SYSTEM = 35
"""Tokens of Vicuna's system message."""
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOPs a second, by a part of the device's name."""


class Kind(NamedTuple):
    """A source of the mix: thousands of records, turns of a record, tokens of a question and of a reply."""

    records: int
    turns: float
    ask: float
    reply: float


# Records as published. Turns of VQAv2 and GQA are their questions a picture; all else is our estimate.
MIX = (
    Kind(58, 4, 13, 45),  # LLaVA's conversations
    Kind(23, 1, 12, 110),  # its descriptions
    Kind(77, 1, 25, 130),  # its reasoning
    Kind(83, 5.4, 12, 2),  # VQAv2
    Kind(72, 13, 14, 2),  # GQA
    Kind(9, 1, 22, 2),  # OKVQA
    Kind(80, 5, 20, 7),  # OCR-VQA
    Kind(66, 1, 60, 2),  # A-OKVQA, with its options
    Kind(22, 1, 35, 14),  # TextCaps
    Kind(48, 6, 20, 20),  # RefCOCO: a box has about twenty tokens
    Kind(86, 10, 20, 10),  # Visual Genome
)
SHAREGPT = Kind(41, 4, 60, 300)


@dataclass(frozen=True)
class Scale:
    """What is built on a device; ``dear`` is the encoder of stage 1, texts are ``shrink`` times shorter."""

    device: torch.device
    language: LanguageConfig
    encoder: EncoderConfig
    dear: EncoderConfig
    shrink: int
    batches: int = TEXTS


SCALES = {
    "cpu": Scale(
        torch.device("cpu"),
        LanguageConfig(
            kind="llama", hidden=256, layers=6, heads=4, mlp_ratio=2.75, context=512, vocabulary=4096
        ),
        preset("tiny", 16, 112),
        preset("small", 16, 112),
        shrink=4,
    ),
    "cuda": Scale(
        torch.device("cuda"),
        LanguageConfig(
            hidden=896, layers=24, heads=14, mlp_ratio=4864 / 896, context=2048, vocabulary=32_000
        ),
        preset("base", 16),
        preset("base", 16),
        shrink=1,
    ),
}


class Side(NamedTuple):
    """How a side is made ready, and the FLOPs of its pass."""

    build: Callable[[], Pass]
    flops: float


class Case(NamedTuple):
    """What is measured: a name, how much of which unit a pass comes to, and the sides, ours first."""

    name: str
    amount: float
    unit: str
    sides: Mapping[str, Side]
    rounds: int = ROUNDS


# What is said and shown.


def _syllables() -> list[str]:
    return [start + end for start in "bdfgklmnprst" for end in "aeiou"]


WORDS = [first + second for first in _syllables()[::3] for second in _syllables()]


def tokenizer() -> Tokenizer:
    """Made of the words, each a token."""
    return train_tokenizer([" ".join(WORDS), " ".join(WORDS[::-1]), *PROMPTS.values()], 4096)


def text(rng: np.random.Generator, tokens: float, shrink: int) -> str:
    """Words, so many on average before they are shrunk."""
    return " ".join(rng.choice(WORDS, max(1, round(tokens * spread(rng) / shrink))))


def spread(rng: np.random.Generator) -> float:
    """By how much a length differs from its mean."""
    return float(rng.lognormal(-(SPREAD**2) / 2, SPREAD))


def conversation(rng: np.random.Generator, kind: Kind, shrink: int) -> Turns:
    """A record of the mix."""
    turns = [
        Turn(text(rng, kind.ask, shrink), text(rng, kind.reply, shrink))
        for _ in range(1 + rng.poisson(kind.turns - 1))
    ]
    system = " ".join(rng.choice(WORDS, SYSTEM // shrink))
    lead = "" if kind is SHAREGPT else f"{IMAGE}\n"
    return (turns[0]._replace(ask=f"{lead}{system} {turns[0].ask}"), *turns[1:])


def mixed(scale: Scale) -> list[Batch]:
    """Batches of the mix, each of pictures or of text alone."""
    rng, records = np.random.default_rng(0), np.array([kind.records for kind in MIX])
    ids, shape = np.arange(BATCH, dtype=np.uint64), (BATCH, 3, *[scale.encoder.image_size] * 2)
    made = []
    for number in range(scale.batches):
        drawn = rng.choice(len(MIX), BATCH, p=records / records.sum())
        shown = number % TEXTS > 0
        turns = [conversation(rng, MIX[k] if shown else SHAREGPT, scale.shrink) for k in drawn]
        views = {"eye0": torch.from_numpy(rng.random(shape, dtype=np.float32))} if shown else {}
        made.append(Batch(ids, views, [""] * BATCH, turns))
    return made


def picture(rng: np.random.Generator) -> np.ndarray:
    """Noise, as large as pictures of such sets are after a first reduction."""
    return rng.integers(0, 256, (256, 320, 3), dtype=np.uint8)


class Questions:
    """A benchmark: four options each."""

    digest = ""

    def __init__(self, shrink: int) -> None:
        rng = np.random.default_rng(0)
        self.all = [self._made(rng, number, shrink) for number in range(QUESTIONS)]

    def __len__(self) -> int:
        return len(self.all)

    def question(self, index: int, /) -> Question:
        return self.all[index]

    @staticmethod
    def _made(rng: np.random.Generator, number: int, shrink: int) -> Question:
        long = spread(rng)  # what is exam material is long in all its parts
        options = tuple(f"{text(rng, 8 * long, shrink)} {place}" for place in range(4))
        about = {"category": "General", "source": "noise", "key": str(number)}
        return Question(number, text(rng, 30 * long, shrink), options, "A", image=picture(rng), **about)


class Captioned:
    """A source: pictures and captions."""

    digest = ""

    def __init__(self, shrink: int) -> None:
        rng = np.random.default_rng(0)
        self.all = [(picture(rng), text(rng, 15, shrink)) for _ in range(PICTURES)]

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, index: int, /) -> Sample:
        return Sample(str(index), *self.all[index])

    def said(self, index: int, /) -> Sample:
        return Sample(str(index), NOTHING, self.all[index][1])


# Who learns and answers.


def seeing(
    scale: Scale, language: LanguageConfig, encoder: EncoderConfig, template: str, *trained: Part
) -> VisionLanguage:
    """A model with new weights, the same every time."""
    eyes = build_eyes(EyesConfig(), [VisionEncoder(encoder)], language.hidden, 0)
    chat = Chat(tokenizer(), TEMPLATES[template], language.context, eyes.tokens)
    model = build_language_model(language, language.vocabulary, 0, scale.device)
    return VisionLanguage(model, chat, eyes=eyes, trained=trained).to(scale.device)


def llava(model: VisionLanguage) -> tuple[Any, Any]:
    """The same model as transformers', and its processor."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "llava"
        export_llava(model, None, out, "crop")
        peer = LlavaForConditionalGeneration.from_pretrained(out).to(model.language.device)
        return peer, AutoProcessor.from_pretrained(out, backend="pil")


def taught(model: VisionLanguage, batches: Batches, budget: Budget, lesson: Lesson) -> Pass:
    """Training with ``fit``."""
    runtime = Runtime(device=model.language.device.type, checkpoint_seconds=1e9)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            fit(
                model,
                batches,
                recipe=lesson.recipe,
                budget=budget,
                precision="bf16",
                folder=Path(folder),
                runtime=runtime,
                label="ours",
            )

    return run


# Stage 2.


def instruct(scale: Scale) -> Case:
    """Packed rows against LLaVA's padding."""
    batches = mixed(scale)
    model = seeing(scale, scale.language, scale.encoder, "bare")
    spoken = [model.chat.speak(batch.turns) for batch in batches]
    sizes = [(len(one.ids), int(one.target.sum())) for some in spoken for one in some]
    own = sum(length for length, _ in sizes)
    padded = sum(len(some) * max(len(one.ids) for one in some) for some in spoken)
    flops = sum(3 * scale.language.shape().forward(*size) for size in sizes)
    flops += BATCH * sum(bool(batch.views) for batch in batches) * forward_flops(scale.encoder)
    budget = Budget(samples=BATCH * len(batches), batch=BATCH)

    def ours() -> Pass:
        model = seeing(scale, scale.language, scale.encoder, "bare", "connector", "language")
        return taught(model, lambda start, stop: iter(batches[start:stop]), budget, InstructLesson())

    return Case(
        f"stage 2 (padded, the batches have {padded / own:.2f} x their tokens)",
        float(sum(targets for _, targets in sizes)),
        "target tokens/s",
        {"ours": Side(ours, flops), "Trainer": Side(lambda: trainer(model, batches), flops)},
        rounds=3,  # of half a minute
    )


def trainer(model: VisionLanguage, batches: Sequence[Batch]) -> Pass:
    """Training with transformers' ``Trainer``, as LLaVA's scripts set it up."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    peer, processor = llava(model)
    peer.model.vision_tower.requires_grad_(False)
    if model.language.device.type == "cpu":  # torch's fused attention is slow there, backward in bf16
        peer.set_attn_implementation("eager")
    told = [list(labelled(model.chat, batch, peer, processor)) for batch in batches]
    for batch, rows in zip(batches[:2], told, strict=False):  # of text, and of pictures
        check_same_loss(model, batch, peer, rows)
    samples = [row for rows in told for row in rows]

    def run() -> None:
        recipe = InstructLesson().recipe
        with tempfile.TemporaryDirectory() as folder:
            settings = TrainingArguments(
                folder,
                use_cpu=model.language.device.type == "cpu",
                bf16=True,
                optim="adamw_torch_fused",
                learning_rate=recipe.lr,
                lr_scheduler_type="cosine",
                warmup_steps=recipe.warmup,
                weight_decay=recipe.weight_decay,
                max_grad_norm=recipe.clip,
                per_device_train_batch_size=BATCH,
                max_steps=len(batches),
                train_sampling_strategy="sequential",
                remove_unused_columns=False,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            made = Trainer(peer, settings, train_dataset=samples, data_collator=padded_right)
            made.remove_callback(PrinterCallback)
            made.train()

    return run


Row = dict[str, Tensor]


def labelled(chat: Chat, batch: Batch, peer: Any, processor: Any) -> Iterator[Row]:
    """A batch's samples as LLaVA's data set gives them: tokens, labels, and a normalised picture, if any."""
    pixels = processor.image_processor
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (pixels.image_mean, pixels.image_std))
    for number, each in enumerate(chat.speak(batch.turns)):
        ids = np.where(each.ids == PICTURE, peer.config.image_token_id, each.ids)
        labels = np.where(each.target, each.ids, -100)
        row = {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
        if batch.views:
            row["pixel_values"] = (batch.views["eye0"][number] - mean) / std
        yield row


def padded_right(rows: Sequence[Row]) -> Row:
    """LLaVA's collator."""
    ids, labels = ([row[name] for row in rows] for name in ("input_ids", "labels"))
    shown = [row["pixel_values"] for row in rows if "pixel_values" in row]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        **({"pixel_values": torch.stack(shown)} if shown else {}),
    }


@torch.no_grad()
def check_same_loss(model: VisionLanguage, batch: Batch, peer: Any, rows: Sequence[Row]) -> None:
    """See that both sides learn the same, in float32."""
    device = model.language.device
    ours = model.loss(model.encode(batch.to(device)), Clock(0, 0, 1)).total
    theirs = peer(**{name: value.to(device) for name, value in padded_right(rows).items()}).loss
    if abs(ours - theirs) > 1e-4 * ours:
        raise SystemExit(f"The two sides differ: the loss is {ours} here and {theirs} in transformers.")


# Questions.


def questions(scale: Scale) -> Case:
    """The likelihood of the options against what is written."""
    benchmark = Questions(scale.shrink)
    model = seeing(scale, scale.language, scale.encoder, "bare").eval()
    model.requires_grad_(False)
    talks = [asked(question, "vmcbench") for question in benchmark.all]
    lengths = [len(one.ids) for one in model.chat.speak(talks, cue=True)]
    flops = sum(scale.language.shape().forward(length, 1) for length in lengths)
    flops += len(benchmark) * forward_flops(scale.encoder)

    def likely() -> Pass:
        stage = SimpleNamespace(encoder=scale.encoder)
        lesson = SimpleNamespace(fit="crop")
        vlm = SimpleNamespace(looks=lambda: (stage,), lesson=lesson, seed=0, precision="bf16")
        ask, runtime = AskConfig(template="vmcbench"), Runtime(device=scale.device.type)

        def run() -> None:
            asking = Asking(model, benchmark, ask, cast(Instruct, vlm), runtime)
            scoring.likeliest(asking.scores("seen"), asking.questions)

        return run

    def peer(size: int, half: bool) -> Side:
        return Side(lambda: written(model, benchmark.all, talks, size, half), flops)

    return Case(
        "questions",
        float(len(benchmark)),
        "questions/s",
        {
            "ours": Side(likely, flops),
            "generate, one by one": peer(1, False),
            f"generate, {BLOCK} padded left": peer(BLOCK, False),
            f"generate, {BLOCK} padded left, bf16 weights": peer(BLOCK, True),
        },
    )


def written(
    model: VisionLanguage, asked: Sequence[Question], talks: Sequence[Turns], size: int, half: bool
) -> Pass:
    """Writing with transformers' ``generate``, so many at once, and reading it."""
    peer, processor = llava(model)
    peer.eval()
    device, kind = model.language.device, torch.bfloat16 if half else torch.float32
    peer.to(kind)
    told = ["".join(piece for piece, _ in worded(model.chat.template, talk, cue=True)) for talk in talks]

    def run() -> None:
        said: list[str] = []
        for start in range(0, len(asked), size):
            part = slice(start, start + size)
            shown = [question.image for question in asked[part]]
            inputs = processor(images=shown, text=told[part], padding=True, return_tensors="pt")
            with torch.autocast(device.type, torch.bfloat16, enabled=not half):
                out = peer.generate(**inputs.to(device, kind), min_new_tokens=2, max_new_tokens=2)
            new = out[:, inputs["input_ids"].shape[1] :]
            said += processor.batch_decode(new, skip_special_tokens=True)
        scoring.score_texts(said, asked)

    return run


# Stage 1.


def align(scale: Scale) -> Case:
    """Features that were kept against looking anew."""
    language = LanguageConfig(context=512, vocabulary=4096)
    source = Captioned(scale.shrink)
    model = seeing(scale, language, scale.dear, "plain", "connector")
    talks = [source.said(number).conversation() for number in range(len(source))]
    spoken = model.chat.speak(talks)
    look, shape = forward_flops(scale.dear), language.shape()
    lengths = [(len(one.ids), int(one.target.sum())) for one in spoken]
    rest = sum(2 * shape.forward(*pair) for pair in lengths)
    rest += 3 * len(source) * EyesConfig().flops([scale.dear], language.hidden)
    budget = Budget(samples=len(source), batch=CAPTIONED)

    def side(keep: bool) -> Pass:
        model = seeing(scale, language, scale.dear, "plain", "connector")
        loader = EyeLoader(
            source,
            [scale.dear],
            fit="crop",
            batch=CAPTIONED,
            seed=0,
            kept=kept(model, source, scale.dear) if keep else None,
            workers=2,
        )
        return taught(model, loader, budget, AlignLesson())

    whole = len(source) * look
    return Case(
        f"stage 1 (a look has {whole / rest:.1f} x the FLOPs of all else)",
        float(len(source)),
        "pictures/s",
        {"kept": Side(lambda: side(True), rest), "looking": Side(lambda: side(False), rest + whole)},
    )


@torch.no_grad()
def kept(model: VisionLanguage, source: Captioned, encoder: EncoderConfig) -> Kept:
    """Features of all pictures, in a file as the stage ``Seen`` leaves it."""
    assert model.eyes is not None
    rows, device = np.arange(len(source)), model.language.device
    loader = EyeLoader(source, [encoder], fit="crop", batch=CAPTIONED, seed=0, workers=2)
    seen = []
    for part in np.split(rows, len(rows) // CAPTIONED):
        views = loader.look(loader.fetch(part), part.astype(np.uint64), part, part)
        with torch.autocast(device.type, torch.bfloat16):
            seen.append(model.eyes.look([view.to(device) for view in views.values()]).bfloat16().cpu())
    features = torch.cat(seen).view(torch.uint16).numpy()
    with tempfile.TemporaryDirectory() as folder:  # which may go: what is mapped stays readable
        features.tofile(Path(folder) / "features.bin")
        index = {"rows": rows, "shape": np.array(features.shape)}
        save_file(index, Path(folder) / "rows.safetensors")
        return Kept(Path(folder), half=True)


# Measuring.

CASES: dict[str, Callable[[Scale], Case]] = {"instruct": instruct, "questions": questions, "align": align}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without bars and notices, which are not what is measured."""
    logging.disable(logging.WARNING)
    with contextlib.redirect_stderr(io.StringIO()):
        yield
    logging.disable(logging.NOTSET)


def taken(run: Pass, device: torch.device) -> float:
    """Seconds of a pass, all that the device still has to do among them."""

    def whole() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()

    with quiet():
        return seconds(whole)


def grown(device: str, case: str, side: str) -> float:
    """MB that a pass takes at most beyond what is held before it, in this process."""
    scale = replace(SCALES[device], batches=4)  # the one of text alone is the largest
    with quiet():
        run = CASES[case](scale).sides[side].build()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        Path("/proc/self/clear_refs").write_text("5")  # puts VmHWM back to VmRSS
        before = resident("VmRSS")
        run()
        return resident("VmHWM") - before


def memory(device: str, case: str, side: str) -> float:
    """The same in a process of its own, whose allocator gives memory back at once."""
    eager = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    code = f"import vlm; print(vlm.grown({device!r}, {case!r}, {side!r}))"
    command, here = [sys.executable, "-c", code], Path(__file__).parent
    done = subprocess.run(
        command, cwd=here, env=os.environ | eager, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def used(flops: float, time: float) -> str:
    """The share of the device's peak, where that is known."""
    name = torch.cuda.get_device_name()
    peak = next((peak for part, peak in PEAKS.items() if part in name), None)
    return "?" if peak is None else f"{flops / time / peak:.3f}"


def measure(device: str, key: str) -> None:
    """Print a line for each peer."""
    scale = SCALES[device]
    with quiet():
        case = CASES[key](scale)
        runs = {name: side.build() for name, side in case.sides.items()}
    turns = [{name: taken(run, scale.device) for name, run in runs.items()} for _ in range(case.rounds)]
    time = {name: statistics.median(turn[name] for turn in turns) for name in runs}
    rate = {name: case.amount / time[name] for name in runs}
    most = {name: memory(device, key, name) for name in runs}
    ours, *peers = runs
    for peer in peers:
        pair = f"ours {rate[ours]:,.0f} {case.unit}, {peer} {rate[peer]:,.0f} {case.unit}"
        line = f"{case.name} ratio {rate[ours] / rate[peer]:.2f} ({pair})"
        line += f"; memory {most[ours]:,.0f} and {most[peer]:,.0f} MB"
        if device == "cuda":
            line += "; MFU " + " and ".join(used(case.sides[n].flops, time[n]) for n in (ours, peer))
        print(line, flush=True)


def main() -> None:
    device, *chosen = sys.argv[1:] or ["cuda" if torch.cuda.is_available() else "cpu"]
    for key in chosen or CASES:
        measure(device, key)


if __name__ == "__main__":
    main()
