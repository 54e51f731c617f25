"""The stages that look at a frozen encoder: features, probes, embedding analysis, disagreement."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import load_file, save_file
from torch import Tensor

from paribus import stats
from paribus.analysis.disagreement import Pairs, Percentiles, mine
from paribus.analysis.factors import factor_difference, factor_effects
from paribus.analysis.neighbours import neighbour_table
from paribus.analysis.symbols import SymbolTest, symbol_difference, symbol_test
from paribus.data.art import Art
from paribus.data.draw import COLOURS, draw_text
from paribus.data.glyphs import Glyphs
from paribus.data.views import make_views
from paribus.encoders.vision import VisionEncoder
from paribus.files import whole_file
from paribus.probes.histogram import colour_histogram
from paribus.progress import progress
from paribus.results import Difference, GalleryItem, Measure
from paribus.stats import Estimate
from paribus.study.corpora import ALL, Corpus, fetched_art
from paribus.study.stage import Stage
from paribus.study.stages import Pretrain, Untrained
from paribus.types import Config, Features, Runtime, ViewSpec

PLAIN = ViewSpec(name="plain")
SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
INKS = (("black", "white"), ("white", "blue"), ("red", "white"))
"""Fill and background of the symbol test, by colour term."""

Images = Sequence[NDArray[np.uint8]]


class Histogram(Stage[Config]):
    """The baseline that sees nothing but colour: a 64-bin histogram in place of an encoder."""

    name: ClassVar[str] = "histogram"
    kind: Literal["histogram"] = "histogram"
    version: int = 1

    def compute(self, folder: Path, runtime: Runtime) -> Config:
        """Nothing to prepare."""
        del folder, runtime
        return Config()


AnyEye = Annotated[Pretrain | Untrained | Histogram, Field(discriminator="kind")]


class ExtractRecord(Config):
    """What was extracted."""

    images: int
    width: int


class Extract(Stage[ExtractRecord]):
    """Every picture of the corpus, and the symbols, through one frozen encoder; done once, read by all."""

    name: ClassVar[str] = "extract"
    version: int = 1
    encoder: AnyEye
    corpus: Corpus
    precision: Literal["bf16", "fp32"]

    def compute(self, folder: Path, runtime: Runtime) -> ExtractRecord:
        """Write ``features.safetensors``: images ``[N D]`` in corpus order, symbols ``[S T D]``."""
        source = self.corpus.open(runtime, ALL)
        encode = self._encode(runtime)
        features = encode([source.image(index) for index in range(len(source))])
        drawn = symbol_images(Art(fetched_art(runtime)), self.corpus.source.size)
        symbols = encode([image for row in drawn for image in row])
        grid = symbols.reshape(len(drawn), len(drawn[0]), -1)
        with whole_file(folder / "features.safetensors") as path:
            save_file({"images": features, "symbols": grid}, path)
        return ExtractRecord(images=len(features), width=features.shape[1])

    def disk(self) -> float:
        """Four bytes a value."""
        width = 0 if isinstance(self.encoder, Histogram) else self.encoder.encoder.width
        return 4.0 * width * self.corpus.expected()

    def _encode(self, runtime: Runtime) -> Any:
        if isinstance(self.encoder, Histogram):
            return colour_histogram
        encoder = self.encoder.open(runtime).to(runtime.torch_device)
        return functools.partial(encode_images, encoder, half=self.precision == "bf16")

    def open(self, runtime: Runtime) -> dict[str, Float32[np.ndarray, "..."]]:
        """The features by name."""
        return load_file(self.folder(runtime) / "features.safetensors")


def class_token(features: Features) -> Float[Tensor, "B D"]:
    """The class token."""
    return features.cls


@torch.no_grad()
def encode_images(
    encoder: VisionEncoder,
    images: Images,
    *,
    half: bool = False,
    block: int = 512,
    read: Callable[[Features], Tensor] = class_token,
) -> Float32[np.ndarray, "N D"]:
    """What ``read`` takes of the features of images of any size; ``half`` is bf16, as in training."""
    encoder.eval()
    device = next(encoder.parameters()).device
    rows = []
    for start in progress(range(0, len(images), block), label="features", unit="block"):
        part = images[start : start + block]
        nothing = np.zeros(len(part), dtype=np.int64)
        views = make_views(
            part,
            nothing.astype(np.uint64),
            [PLAIN],
            image_size=encoder.config.image_size,
            seed=0,
            epoch=nothing,
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            rows.append(read(encoder(views["plain"][:, 0].to(device))).float().cpu().numpy())
    return np.concatenate(rows)


def symbol_images(art: Art, size: int) -> list[list[NDArray[np.uint8]]]:
    """Capital letters and digits (rows) in held-out fonts times three inks (columns)."""
    fonts = [font for font in art.fonts if font.split == "heldout"]
    return [
        [
            draw_text(symbol, font.path, size, fill=COLOURS[ink], background=COLOURS[paper])
            for font in fonts
            for ink, paper in INKS
        ]
        for symbol in SYMBOLS
    ]


def labels_of(source: Glyphs) -> dict[str, NDArray[Any]]:
    """The corpus' columns, and the first letter of what is written."""
    return {**source.columns, "letter": np.array([text[:1] for text in source.columns["text"]])}


def analysis_rows(labels: dict[str, NDArray[Any]]) -> NDArray[np.intp]:
    """The pictures that embedding analysis looks at: nothing that any encoder was trained on."""
    words = (labels["kind"] == "word") & (labels["split"] != "train")
    return np.flatnonzero((labels["split"] == "test") | words)


def analysis_factors(labels: dict[str, NDArray[Any]], rows: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    """Known factors of those pictures; a word's thing is what is written, so it has no other."""
    kind = labels["kind"][rows]
    return {
        "subgroup": np.where(kind == "emoji", labels["subgroup"][rows], ""),
        "concept": np.where(kind == "word", "", labels["concept"][rows]),
        "style": labels["style"][rows],
        "colour": labels["colour"][rows],
        "text": labels["text"][rows],
    }


def regression_factors(labels: dict[str, NDArray[Any]], rows: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    """Known factors, and what two emoji, icons or words have in common as such.

    Words share fonts and texts with words only, and icons their style with icons only. Without factors of
    their own, "both are words" would pass for "same text" and "both are icons" for "same style".
    """
    kind = labels["kind"][rows]
    both = {f"both {name}": np.where(kind == name, name, "") for name in ("emoji", "icon", "word")}
    return both | analysis_factors(labels, rows)


def measure(
    section: str,
    task: str,
    metric: str,
    estimate: Estimate,
    seed: int,
    *,
    unit: str,
    chance: float | None = None,
) -> Measure:
    """A ``Measure`` whose arm is filled in where arms are known."""
    return Measure(
        section=section,
        task=task,
        metric=metric,
        arm="",
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        unit=unit,
        seed=seed,
        chance=chance,
    )


class EmbeddingRecord(Config):
    """One encoder's numbers."""

    measures: list[Measure]


SYMBOL_METRICS = {
    "distinct": "mean cosine of distinct symbols, same style",
    "same": "mean cosine of one symbol across styles",
    "baseline": "mean cosine of any two pictures",
    "distinct_contrast": "distinct symbols, relative to the baseline",
    "same_contrast": "one symbol across styles, relative to the baseline",
}


class Embedding(Stage[EmbeddingRecord]):
    """What one encoder puts together: factors of its similarity, nearest neighbours, symbols."""

    name: ClassVar[str] = "embedding"
    version: int = 1
    features: Extract
    seed: int

    def compute(self, folder: Path, runtime: Runtime) -> EmbeddingRecord:
        """All of it; hits per picture go to ``neighbours.safetensors`` for paired comparisons."""
        labels = labels_of(self.features.corpus.open(runtime, ALL))
        rows = analysis_rows(labels)
        factors, stored = analysis_factors(labels, rows), self.features.open(runtime)
        features = stored["images"][rows]
        effects = factor_effects(features, regression_factors(labels, rows), seed=self.seed)
        measures = [
            measure("factors", name, "standardised coefficient", estimate, self.seed, unit="images")
            for name, estimate in effects.coefficient.items()
        ]
        measures += [
            measure("factors", name, "unique R2", estimate, self.seed, unit="images")
            for name, estimate in effects.unique_r2.items()
        ]
        hits: dict[str, NDArray[np.float64]] = {}
        for label, exclude in (("any style", None), ("another style", factors["style"])):
            table = neighbour_table(
                features, factors, exclude=exclude, clusters=labels["concept"][rows], seed=self.seed
            )
            for name, estimate in table.table.items():
                metric = f"nearest neighbour in {label} shares it"
                chance = table.chance[name]
                measures.append(
                    measure("neighbours", name, metric, estimate, self.seed, unit="concepts", chance=chance)
                )
            hits |= {f"{label}/{name}": values for name, values in table.hits.items()}
        symbols = symbol_test(stored["symbols"], features, seed=self.seed)
        measures += _symbol_measures(symbols, self.seed)
        with whole_file(folder / "neighbours.safetensors") as path:
            save_file(hits, path)
        return EmbeddingRecord(measures=measures)

    def hits(self, runtime: Runtime) -> dict[str, NDArray[np.float64]]:
        """Per picture, whether its neighbour shares the factor; NaN where it could not."""
        return load_file(self.folder(runtime) / "neighbours.safetensors")


def _symbol_measures(symbols: SymbolTest, seed: int) -> list[Measure]:
    return [
        measure(
            "symbols",
            "symbols",
            SYMBOL_METRICS[name],
            estimate,
            seed,
            unit="images" if name == "baseline" else "symbols",
        )
        for name, estimate in symbols._asdict().items()
    ]


class CompareRecord(Config):
    """What differs between two encoders; ``arm`` and ``other`` are filled in where arms are known."""

    differences: list[Difference]
    gallery: list[GalleryItem]
    counts: dict[str, int]


class Compare(Stage[CompareRecord]):
    """Two encoders on the same pictures: differences with intervals, and the pairs they disagree on."""

    name: ClassVar[str] = "compare"
    version: int = 2
    a: Embedding
    b: Embedding
    keep: int = Field(20, ge=1, description="pairs a direction in the gallery")
    high: float = Field(99.0, gt=50, lt=100, description="percentile that counts as alike")
    low: float = Field(50.0, gt=0, le=50, description="percentile below which counts as not alike")
    seed: int

    def compute(self, folder: Path, runtime: Runtime) -> CompareRecord:
        """Paired differences; gallery pictures go to ``gallery/``."""
        source = self.a.features.corpus.open(runtime, ALL)
        labels = labels_of(source)
        rows = analysis_rows(labels)
        one, two = self.a.features.open(runtime), self.b.features.open(runtime)
        images = [source.image(int(row)) for row in rows]
        mined = mine(
            one["images"][rows],
            two["images"][rows],
            images=images,
            keep=self.keep,
            thresholds=Percentiles(self.low, self.high),
            seed=self.seed,
            device=str(runtime.torch_device),
        )
        differences = self._factors(one, two, labels, rows) + self._neighbours(labels, rows, runtime)
        differences += self._symbols(one, two, rows)
        gallery = [
            *self._pairs(mined.a_high, "a", labels, rows),
            *self._pairs(mined.b_high, "b", labels, rows),
        ]
        _save_pictures(
            folder / "gallery", gallery, dict(zip(labels["key"][rows].tolist(), images, strict=True))
        )
        return CompareRecord(differences=differences, gallery=gallery, counts=mined.counts)

    def _difference(self, section: str, task: str, metric: str, estimate: Estimate, unit: str) -> Difference:
        return Difference(
            section=section,
            task=task,
            metric=metric,
            arm="a",
            other="b",
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            n=estimate.n,
            unit=unit,
            seed=self.seed,
        )

    def _factors(
        self,
        one: dict[str, Any],
        two: dict[str, Any],
        labels: dict[str, NDArray[Any]],
        rows: NDArray[np.intp],
    ) -> list[Difference]:
        factors = regression_factors(labels, rows)
        found = factor_difference(one["images"][rows], two["images"][rows], factors, seed=self.seed)
        kinds = {"standardised coefficient": found.coefficient, "unique R2": found.unique_r2}
        return [
            self._difference("factors", name, metric, estimate, "images")
            for metric, estimates in kinds.items()
            for name, estimate in estimates.items()
        ]

    def _neighbours(
        self, labels: dict[str, NDArray[Any]], rows: NDArray[np.intp], runtime: Runtime
    ) -> list[Difference]:
        one, two = self.a.hits(runtime), self.b.hits(runtime)
        concepts, out = labels["concept"][rows], []
        for name in one:
            usable = np.isfinite(one[name]) & np.isfinite(two[name])
            if len(np.unique(concepts[usable])) < 2:
                continue
            label, task = name.split("/", 1)
            estimate = stats.bootstrap_difference(
                one[name][usable], two[name][usable], clusters=concepts[usable], seed=self.seed
            )
            metric = f"nearest neighbour in {label} shares it"
            out.append(self._difference("neighbours", task, metric, estimate, "concepts"))
        return out

    def _symbols(self, one: dict[str, Any], two: dict[str, Any], rows: NDArray[np.intp]) -> list[Difference]:
        found = symbol_difference(
            one["symbols"], one["images"][rows], two["symbols"], two["images"][rows], seed=self.seed
        )
        return [
            self._difference("symbols", "symbols", SYMBOL_METRICS[name], estimate, "symbols")
            for name, estimate in found._asdict().items()
        ]

    def _pairs(
        self, pairs: Pairs, high: str, labels: dict[str, NDArray[Any]], rows: NDArray[np.intp]
    ) -> list[GalleryItem]:
        factors = analysis_factors(labels, rows)
        out = []
        for number, (left, right) in enumerate(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)):
            shared = [n for n, v in factors.items() if v[left] and v[left] == v[right]]
            out.append(
                GalleryItem(
                    left=str(labels["key"][rows[left]]),
                    right=str(labels["key"][rows[right]]),
                    left_picture=f"{high}-{number:03d}-left.png",
                    right_picture=f"{high}-{number:03d}-right.png",
                    left_label=_caption(labels, int(rows[left])),
                    right_label=_caption(labels, int(rows[right])),
                    high_arm=high,
                    low_arm="b" if high == "a" else "a",
                    similarity=dict(zip("ab", pairs.similarity[number].tolist(), strict=True)),
                    percentile=dict(zip("ab", pairs.percentile[number].tolist(), strict=True)),
                    shares=shared,
                )
            )
        return out


def _caption(labels: dict[str, NDArray[Any]], row: int) -> str:
    name, style = labels["name"][row], labels["style"][row]
    return f"{name} ({style}, {labels['colour'][row]})"


def _save_pictures(folder: Path, gallery: list[GalleryItem], images: dict[str, NDArray[np.uint8]]) -> None:
    for item in gallery:
        for key, name in ((item.left, item.left_picture), (item.right, item.right_picture)):
            done, png = cv2.imencode(".png", images[key][:, :, ::-1])
            if not done:
                raise RuntimeError(f"cannot encode picture {key}")
            with whole_file(folder / name) as path:
                path.write_bytes(png.tobytes())
