"""A study's results as a run of the size of the quickstart would leave them, made up but plausible."""

import hashlib
import io
import math

import numpy as np
from PIL import Image, ImageDraw

from paribus.results import (
    Attribution,
    Claim,
    Cost,
    Curve,
    Difference,
    GalleryItem,
    LedgerRow,
    Measure,
    Results,
)

ARMS = {
    "clip": "image-text contrast, the study's language arm",
    "dino": "self-distillation, the study's language-free arm",
}
BASELINES = ["untrained", "colour-histogram"]
PROBES = {
    "first letter, unseen word": (1 / 26, 0.30),
    "group": (1 / 10, 0.62),
    "style": (1 / 11, 0.71),
    "colour": (1 / 11, 0.66),
}
FACTORS = ["thing", "group", "style", "colour", "written word"]
CATEGORIES = {
    "General": ["count", "scene"],
    "Reasoning": ["relation"],
    "OCR": ["words", "signs"],
    "Doc & Chart": ["bars"],
}
STRENGTH = {"clip": 1.12, "dino": 0.98, "untrained": 0.46, "colour-histogram": 0.38}


def build(pairs: int = 20, seed: int = 0) -> tuple[Results, dict[str, bytes]]:
    """The results and the gallery's pictures."""
    rng = np.random.default_rng(seed)
    gallery, pictures = _gallery(rng, pairs)
    results = Results(
        study="quickstart",
        hypothesis=(
            "Data, order, architecture and budget equal: language pulls the same thing together across "
            "styles, self-distillation pulls the same style together."
        ),
        level="recipe",
        seeds=[0],
        arms=ARMS,
        baselines=BASELINES,
        data={
            "source": "glyphs",
            "captions": "thing",
            "train": "20,436",
            "held out": "5,310",
            "digest": _digest("data"),
        },
        ledger=_ledger(),
        costs=_costs(),
        measures=_probes(rng) + _analysis(rng) + _answers(rng),
        differences=_differences(rng),
        claims=_claims(),
        curves=_curves(rng),
        gallery=gallery,
        mined={
            "pairs ranked": 208_000_000,
            "kept": pairs,
            "removed as hubs": 412,
            "removed as duplicates": 97,
        },
        attributions=_attributions(),
        environment={
            "paribus": "0.1.0",
            "python": "3.11.7",
            "torch": "2.13.0+cpu",
            "machine": "x86_64, 2 cores",
            "threads": "2",
        },
    )
    return results, pictures


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _measure(
    rng: np.random.Generator,
    section: str,
    task: str,
    metric: str,
    arm: str,
    value: float,
    n: int,
    unit: str = "images",
    chance: float | None = None,
) -> Measure:
    value = float(np.clip(value + rng.normal(0, 0.01), -0.99, 0.99))
    half = 1.96 * math.sqrt(max(value * (1 - value), 0.01) / n)
    low, high = value - half * rng.uniform(0.9, 1.1), value + half * rng.uniform(0.9, 1.1)
    ends = {"value": value, "low": low, "high": high, "n": n, "unit": unit, "seed": 0, "chance": chance}
    return Measure.model_validate({"section": section, "task": task, "metric": metric, "arm": arm, **ends})


def _probes(rng: np.random.Generator) -> list[Measure]:
    out = []
    for section, weaker in (("probe", 1.0), ("knn", 0.88)):
        for task, (chance, base) in PROBES.items():
            for arm, strength in STRENGTH.items():
                value = max(chance, min(0.97, base * strength * weaker))
                out.append(_measure(rng, section, task, "accuracy", arm, value, 2655, chance=chance))
    return out


def _analysis(rng: np.random.Generator) -> list[Measure]:
    effects = {"clip": [0.41, 0.22, 0.09, 0.05, 0.31], "dino": [0.16, 0.09, 0.38, 0.29, 0.02]}
    effects |= {"untrained": [0.02, 0.01, 0.21, 0.44, 0.0]}
    out = []
    for arm, betas in effects.items():
        for factor, beta in zip(FACTORS, betas, strict=True):
            out.append(
                _measure(rng, "factors", factor, "standardised coefficient", arm, beta, 400, "concepts")
            )
    for task, base in (("same thing", 0.24), ("same style", 0.51), ("same colour", 0.47)):
        for arm, strength in STRENGTH.items():
            out.append(
                _measure(
                    rng, "neighbours", task, "share of neighbours", arm, base * strength, 2655, chance=0.09
                )
            )
    for task, value in (("clip and dino", 0.48), ("clip and untrained", 0.22), ("dino and untrained", 0.31)):
        out.append(_measure(rng, "similarity", task, "linear CKA", "clip", value, 2655))
    for metric, shift in (
        ("mean cosine of distinct symbols", 0.0),
        ("mean cosine of one symbol across styles", 0.02),
    ):
        for arm, value in (("clip", 0.713), ("dino", 0.877), ("untrained", 0.95)):
            out.append(_measure(rng, "symbols", "symbols", metric, arm, value + shift - 0.01, 26, "symbols"))
    return out


def _answers(rng: np.random.Generator) -> list[Measure]:
    out = []
    for category, sources in CATEGORIES.items():
        lift = 0.13 if category == "OCR" else 0.02
        for task in (category, *(f"{category}/{source}" for source in sources)):
            for arm, gain in (("clip", lift), ("dino", 0.0), ("untrained", -0.11)):
                n = 800 if task == category else 400
                out.append(_measure(rng, "vqa", task, "accuracy", arm, 0.42 + gain, n, "questions", 0.25))
    for metric in ("accuracy (micro)", "accuracy (macro)"):
        for arm, value in (("clip", 0.46), ("dino", 0.41), ("untrained", 0.31)):
            out.append(_measure(rng, "vqa", "overall", metric, arm, value, 3200, "questions", 0.25))
    for arm, value in (("clip", 0.31), ("dino", 0.35)):
        out.append(
            _measure(rng, "language", "held-out answers", "nats per token", arm, value, 1200, "questions")
        )
    return out


def _differences(rng: np.random.Generator) -> list[Difference]:
    out = []
    for task, value in (
        ("first letter, unseen word", 0.043),
        ("group", 0.071),
        ("style", -0.082),
        ("colour", -0.006),
    ):
        value += float(rng.normal(0, 0.004))
        out.append(
            _difference("probe", task, value, 0.019, 2655, "images", 0.0004 if abs(value) > 0.02 else 0.61)
        )
    for category, sources in CATEGORIES.items():
        for task in (category, *(f"{category}/{source}" for source in sources)):
            value = (0.13 if category == "OCR" else 0.015) + float(rng.normal(0, 0.01))
            p = 0.00001 if category == "OCR" else 0.34
            out.append(
                _difference("vqa", task, value, 0.034 if "/" not in task else 0.048, 800, "questions", p)
            )
    return out


def _difference(
    section: str, task: str, value: float, half: float, n: int, unit: str, p: float
) -> Difference:
    ends = {"value": value, "low": value - half, "high": value + half}
    shared = {"metric": "accuracy", "arm": "clip", "other": "dino", "seed": 0, "p_holm": min(1.0, 4 * p)}
    return Difference.model_validate(
        {"section": section, "task": task, "n": n, "unit": unit, "p": p, **ends, **shared}
    )


CLAIMS = """
Equal on coarse classes|Accuracy on coarse classes is about the same.|contradicted|0.071|0.019
Finer with language|CLIP is much better on fine-grained classification.|supported|0.043|0.019
Language attends to meaning|CLIP follows object type and embedded text.|supported|0.25|0.06
Self-distillation attends to looks|DINO follows colour and style.|supported|0.29|0.07
Distinct symbols lie further apart|Distinct symbols are less alike for CLIP.|supported|-0.164|0.09
Better at reading|A VLM on CLIP answers more OCR questions.|supported|0.13|0.034
Equal elsewhere|Other VQA categories are about equal.|not distinguishable|0.015|0.034
"""


def _claims() -> list[Claim]:
    out = []
    for line in CLAIMS.strip().splitlines():
        name, text, verdict, value, half = line.split("|")
        ends = {"value": float(value), "low": float(value) - float(half), "high": float(value) + float(half)}
        because = "The paired difference is {value:+.3f} [{low:+.3f}, {high:+.3f}] on n = 2,655.".format(
            **ends
        )
        said = {"name": name, "text": text, "verdict": verdict, "because": because}
        rest = {"source": "arXiv 2510.11835", "n": 2655, "seed": 0}
        out.append(Claim.model_validate({**said, **ends, **rest}))
    return out


CONTROLS = """
data.source glyphs; data.captions thing; data.size 48; data.seed 0; encoder.patch 8; encoder.width 128;
encoder.depth 4; encoder.heads 4; encoder.image_size 48; encoder.registers 0; budget.samples 60000;
budget.batch 256; probe.epochs 50; probe.lrs 1e-3, 3e-3, 1e-2; vlm.connector mlp, 2 layers; vlm.layer -2;
vlm.lr 0.001; language.width 192; language.depth 4; seed 0
"""
CONFOUNDS = """
objective.recipe.weight_decay|0.2|0.04 to 0.4|DINO ramps its decay; a constant one collapses|main_dino.py
objective.views|1 global|2 global, 6 local|self-distillation needs crops of several scales|Caron et al. 2021
objective.text|width 128, 2 layers|none|only the language arm reads captions|
"""


def _ledger() -> list[LedgerRow]:
    rows = []
    for line in CONTROLS.replace("\n", " ").split(";"):
        path, value = line.strip().split(" ", 1)
        rows.append(LedgerRow(path=path, role="control", values=dict.fromkeys(ARMS, value.strip())))
    kinds = {arm: arm for arm in ARMS}
    rows.append(LedgerRow(path="objective.kind", role="treatment", values=kinds, why="the question"))
    for line in CONFOUNDS.strip().splitlines():
        path, clip, dino, why, source = line.split("|")
        values = {"clip": clip, "dino": dino}
        rows.append(LedgerRow(path=path, role="confound", values=values, why=why, source=source))
    for path in ("data digest", "order digest", "encoder weights at step 0"):
        digests = dict.fromkeys(ARMS, _digest(path))
        rows += [LedgerRow(path=path, role="measured", values=digests)]
    return rows


def _costs() -> list[Cost]:
    took = {
        "clip": (59_904, 3.412e13, 1_204_737, 96.4, 621.4),
        "dino": (209_664, 9.871e13, 1_873_152, 251.9, 237.8),
    }
    return [
        Cost(
            arm=arm,
            seed=0,
            samples=59_904,
            image_forwards=forwards,
            flops=flops,
            trainable_parameters=parameters,
            seconds=seconds,
            images_per_second=rate,
            peak_memory_mb=812.4,
        )
        for arm, (forwards, flops, parameters, seconds, rate) in took.items()
    ]


def _curves(rng: np.random.Generator) -> list[Curve]:
    seen = [256 * step for step in range(1, 235)]
    out = []
    for arm, start, end in (("clip", 5.5, 1.9), ("dino", 7.6, 3.1)):
        fall = [end + (start - end) * math.exp(-5 * s / seen[-1]) + float(rng.normal(0, 0.06)) for s in seen]
        rate = [1e-3 * 0.5 * (1 + math.cos(math.pi * s / seen[-1])) for s in seen]
        norm = [abs(float(rng.normal(1.2, 0.25))) for _ in seen]
        for name, values in (("loss", fall), ("lr", rate), ("grad_norm", norm)):
            out.append(Curve(arm=arm, stage="pretrain", name=name, seed=0, seen=seen, values=values))
        answers = [0.3 + 2.5 * math.exp(-6 * s / seen[-1]) + float(rng.normal(0, 0.02)) for s in seen]
        out.append(Curve(arm=arm, stage="instruct", name="loss", seed=0, seen=seen, values=answers))
    entropy = [3.0 + 2 * math.exp(-4 * s / seen[-1]) for s in seen]
    out.append(Curve(arm="dino", stage="pretrain", name="teacher_entropy", seed=0, seen=seen, values=entropy))
    return out


THINGS = [
    "red apple",
    "police car",
    "grinning cat",
    "snow-capped mountain",
    "trade mark",
    "hot beverage",
    "keycap: 3",
]
PAINTS = ["#d2322d", "#e8a33d", "#3f8f4f", "#2f6fb5", "#7a4ea3", "#565a61", "#c9658f"]


def _gallery(rng: np.random.Generator, pairs: int) -> tuple[list[GalleryItem], dict[str, bytes]]:
    items: list[GalleryItem] = []
    pictures: dict[str, bytes] = {}
    for place in range(pairs):
        high, low = ("clip", "dino") if place % 2 == 0 else ("dino", "clip")
        left, right = (int(k) for k in rng.integers(0, len(THINGS), 2))
        pictures[f"p{place}a"], pictures[f"p{place}b"] = picture(left, 72), picture(right + 3, 72)
        items.append(
            GalleryItem(
                left=f"noto/{place}",
                right=f"twitter/{place + 9}",
                left_picture=f"p{place}a",
                right_picture=f"p{place}b",
                left_label=f"{THINGS[left]} (noto)",
                right_label=f"{THINGS[right]} (twitter)",
                high_arm=high,
                low_arm=low,
                similarity={high: float(rng.uniform(0.7, 0.95)), low: float(rng.uniform(0.0, 0.3))},
                percentile={high: float(rng.uniform(97, 99.99)), low: float(rng.uniform(1, 40))},
                shares=["thing", "group"]
                if high == "clip"
                else (["style", "colour"] if place % 4 == 1 else []),
            )
        )
    return items, pictures


def picture(kind: int, size: int) -> bytes:
    """A PNG with a coloured shape on a transparent ground."""
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    box = (size * 0.1, size * 0.1, size * 0.9, size * 0.9)
    paint = PAINTS[kind % len(PAINTS)]
    shapes = (
        draw.ellipse,
        draw.rectangle,
        lambda b, fill: draw.regular_polygon((size / 2, size / 2, size * 0.45), 5, fill=fill),
    )
    shapes[kind % 3](box, fill=paint)
    draw.ellipse((size * 0.3, size * 0.3, size * 0.42, size * 0.42), fill="white")
    draw.ellipse((size * 0.58, size * 0.3, size * 0.7, size * 0.42), fill="white")
    draw.arc(
        (size * 0.3, size * 0.4, size * 0.7, size * 0.75), 20, 160, fill="white", width=max(2, size // 20)
    )
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _attributions() -> list[Attribution]:
    rows = [
        ("Noto Emoji", "noto", "noto-emoji", "OFL-1.1", "Google", 3610),
        ("Twemoji", "twitter", "twemoji", "CC-BY-4.0", "Twitter and contributors", 3502),
        ("OpenMoji", "openmoji", "openmoji", "CC-BY-SA-4.0", "HfG Schwäbisch Gmünd", 4011),
        ("Fluent Emoji", "fluent-flat", "fluent-emoji", "MIT", "Microsoft", 2890),
        ("Game-icons", "game-icons", "game-icons", "CC-BY-3.0", "Lorc, Delapouite & contributors", 4170),
    ]
    return [
        Attribution(
            name=n,
            style=s,
            package=p,
            version="15.1.0",
            licence=lic,
            author=a,
            url=f"https://example.org/{p}",
            images=k,
        )
        for n, s, p, lic, a, k in rows
    ]
