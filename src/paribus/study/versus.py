"""The stage that says where two encoders differ on one's own pictures, and why."""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import cv2
import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from paribus.analysis.disagreement import Cosines, Pairs, Percentiles, mine, write_mined
from paribus.analysis.factors import FactorDifference
from paribus.analysis.geometry import geometry, layer_map
from paribus.analysis.looks import is_picture
from paribus.analysis.similarity import alignment, unit
from paribus.analysis.symbols import symbol_difference, symbol_test
from paribus.comparison import Comparison, Encoder, LayerMap, Near, Pair, Shown, Which
from paribus.data.folder import Folder, key_of
from paribus.data.symbols import symbol_grid
from paribus.encoders.eye import EyeAbout
from paribus.errors import UserError
from paribus.files import whole_file
from paribus.results import Difference, Measure
from paribus.stats import Estimate, bootstrap_difference, bootstrap_mean
from paribus.study.evaluate import SYMBOL_METRICS
from paribus.study.glance import Glance
from paribus.study.likeness import explain, sampled
from paribus.study.pictures import PicturesRecord
from paribus.study.single import both, split_labels
from paribus.study.stage import Stage
from paribus.study.written import Written
from paribus.types import Config, Runtime

PAIRS = "pairs.parquet"
_SEARCHED = ".search.safetensors"
"""How far the search for pairs has come, in a run that was stopped."""
ENOUGH = 500
"""Pairs that an encoder finds alike, out of which those are chosen that the other does not."""
NEAR = 3
"""Neighbours that are shown of each picture."""
LONGEST = 320
"""Longer side of a picture that is kept for the page, in pixels."""

SYMBOL_UNITS = {name: "images" if name == "baseline" else "symbols" for name in SYMBOL_METRICS}
COEFFICIENT, UNIQUE = "standardised coefficient", "unique R2"
ALIGNMENT = "alignment (cut and flipped)"
SYMBOLS = "symbols.webp"
"""The symbols as they were shown, beside the pairs' pictures."""

PROBED: dict[Literal["probe", "knn"], str] = {"probe": "linear probe", "knn": "nearest neighbours"}
"""Section of the results -> how labels are read off."""

Kind = Literal["similarity", "symbols", "factors", "probe", "knn"]
Matrix = Float[np.ndarray, "N D"]


class Pairing(Config):
    """Which pairs are looked for."""

    keep: int = Field(100, ge=1, description="pairs a direction")
    high: float | None = Field(
        None, gt=50, lt=100, description="percentile from which a pair counts as alike; None: by the folder"
    )
    low: float = Field(50.0, ge=0, lt=100, description="percentile up to which it counts as not alike")
    cosines: dict[Which, tuple[float, float]] | None = Field(
        None, description="cosines instead of percentiles, not alike up to and alike from, of each encoder"
    )

    def alike(self, pictures: int) -> float:
        """The percentile for so many pictures: 99, and less where that would be few pairs."""
        if self.high is not None:
            return self.high
        pairs = pictures * (pictures - 1) / 2
        return min(99.0, max(75.0, 100 * (1 - ENOUGH / pairs)))

    def thresholds(self, pictures: int) -> Percentiles | Cosines:
        """The cosines, if there are any, or the percentiles for so many pictures."""
        if self.cosines is not None:
            return Cosines(self.cosines["a"], self.cosines["b"])
        return Percentiles(self.low, self.alike(pictures))


class Versus(Stage[Comparison]):
    """Two encoders on the same pictures: how they differ, with intervals, and the pairs they disagree on."""

    name: ClassVar[str] = "versus"
    version: int = 11
    a: Glance
    b: Glance
    told: str = Field("", description="digest of captions and labels")
    captions: tuple[str, ...] = Field((), description="one for each picture, empty for none; or nothing")
    labels: dict[str, tuple[str, ...]] = Field({}, description="known factor -> its value for each picture")
    pairing: Pairing = Pairing()
    words: bool = Field(False, description="whether what is written in pictures is a factor too")
    seed: int = 0

    _exclude_from_cls_uid: ClassVar[tuple[str, ...]] = ("captions", "labels")

    def compute(self, folder: Path, runtime: Runtime) -> Comparison:
        """All of it; pictures of pairs go to ``pairs/``."""
        images, looks = self.a.pictures.open(runtime), self.a.pictures.looks(runtime)
        one, two = self.a.open(runtime), self.b.open(runtime)
        mined = mine(
            one["pictures"],
            two["pictures"],
            images=looks,
            keep=self.pairing.keep,
            thresholds=self.pairing.thresholds(len(images)),
            resume=folder / _SEARCHED,
            seed=self.seed,
            device=str(runtime.torch_device),
        )
        rows = [*_rows(mined.a_high), *_rows(mined.b_high)]
        usable = np.flatnonzero(is_picture(looks))
        chosen = sampled(usable, self.captions, self.labels, self.seed)
        likeness = explain(
            images,
            chosen,
            one["pictures"],
            two["pictures"],
            rows,
            captions=self.captions,
            labels=self.labels,
            words=self._written(chosen, runtime),
            seed=self.seed,
        )
        gallery = _Gallery(images, self.captions, self.labels)
        pairs = [
            *gallery.pairs(mined.a_high, "a", likeness.pairs),
            *gallery.pairs(mined.b_high, "b", likeness.pairs[len(mined.a_high.left) :]),
        ]
        near = gallery.near({"a": one["pictures"], "b": two["pictures"]})
        gallery.save(folder / "pairs")
        _save(_sheet(), folder / "pairs" / SYMBOLS)
        told = {name: [pair.factors[name] for pair in pairs] for name in pairs[0].factors} if pairs else {}
        more = {f"likeness_{name}": values for name, values in told.items()}
        write_mined(mined, images.keys, folder / PAIRS, more)
        read_off, left_out = self._labels(one["pictures"], two["pictures"], runtime)
        measures, differences = self._numbers(one, two, likeness.effects, read_off)
        record = self.a.pictures.run(runtime)
        (folder / _SEARCHED).unlink(missing_ok=True)
        return Comparison(
            encoders={"a": _encoder(self.a.run(runtime).about), "b": _encoder(self.b.run(runtime).about)},
            folder=self.a.pictures.root,
            pictures=_counted(record) | self._captioned(usable),
            faults=record.faults,
            thresholds={"a": mined.thresholds["a"], "b": mined.thresholds["b"]},
            mined=mined.counts,
            exact_ranks=mined.pairs["reference"] == mined.pairs["population"],
            measures=measures,
            differences=differences,
            layers=LayerMap(
                values=layer_map(self.a.layers(runtime), self.b.layers(runtime)), pictures=len(one["sampled"])
            ),
            shown=gallery.shown,
            pairs=pairs,
            near=near,
            left_out=likeness.left_out | left_out,
            symbols=SYMBOLS,
            seed=self.seed,
            environment={},
        )

    def _written(self, rows: Int[np.ndarray, " S"], runtime: Runtime) -> list[frozenset[str]]:
        """What is written in some pictures, if that was asked for."""
        if not self.words:
            return []
        stage = Written(pictures=self.a.pictures, rows=tuple(rows.tolist()))
        stage.run(runtime)
        return stage.open(runtime)

    def _captioned(self, usable: Int[np.ndarray, " U"]) -> dict[str, str]:
        told = sum(bool(self.captions[row]) for row in usable) if self.captions else 0
        return {"with a caption": f"{told:,} of {len(usable):,}"} if self.captions else {}

    def _numbers(
        self,
        one: dict[str, NDArray[np.float32]],
        two: dict[str, NDArray[np.float32]],
        effects: FactorDifference | None,
        read_off: tuple[list[Measure], list[Difference]],
    ) -> tuple[list[Measure], list[Difference]]:
        parts = [read_off, self._factors(effects), self._geometry(one, two), self._symbols(one, two)]
        return (
            [row for measures, _ in parts for row in measures],
            [row for _, differences in parts for row in differences],
        )

    def _labels(
        self, a: Matrix, b: Matrix, runtime: Runtime
    ) -> tuple[tuple[list[Measure], list[Difference]], dict[str, str]]:
        """How well each one's features tell the labels; and of which they cannot."""
        measures, differences, left_out = list[Measure](), list[Difference](), dict[str, str]()
        contents, device = self.a.pictures.contents(runtime), str(runtime.torch_device)
        for label, values in self.labels.items():
            try:
                split = split_labels(values, contents, self.seed)
            except UserError as error:
                left_out[f"{label}, read off"] = str(error)
                continue
            for section, how in PROBED.items():
                found = both(how, a, b, split, seed=self.seed, device=device)
                for arm, one in (("a", found.a), ("b", found.b)):
                    measure = self._measure(section, label, "accuracy", arm, one.accuracy)
                    measures.append(measure.model_copy(update={"chance": one.chance}))
                step = self._difference(section, label, "accuracy", found.step)
                differences.append(step.model_copy(update={"p": found.p}))
        return (measures, differences), left_out

    def _factors(self, effects: FactorDifference | None) -> tuple[list[Measure], list[Difference]]:
        """Coefficients per standard deviation of a factor, so that all can be held against each other."""
        if effects is None:
            return [], []
        measures = [
            self._measure("factors", name, metric, arm, estimate)
            for arm, side in (("a", effects.a), ("b", effects.b))
            for metric, estimates in ((COEFFICIENT, side.beta), (UNIQUE, side.unique_r2))
            for name, estimate in estimates.items()
        ]
        measures += [
            self._measure("factors", "all together", "R2", arm, side.r2)
            for arm, side in (("a", effects.a), ("b", effects.b))
        ]
        return measures, [
            self._difference("factors", name, metric, estimate)
            for metric, estimates in ((COEFFICIENT, effects.beta), (UNIQUE, effects.unique_r2))
            for name, estimate in estimates.items()
        ]

    def _geometry(
        self, one: dict[str, NDArray[np.float32]], two: dict[str, NDArray[np.float32]]
    ) -> tuple[list[Measure], list[Difference]]:
        rows = one["sampled"]
        found = geometry(one["pictures"][rows], two["pictures"][rows], seed=self.seed)
        measures = [
            self._measure("similarity", "geometry", name, arm, estimate)
            for arm, estimates in (("a", found.a), ("b", found.b), ("both", found.common))
            for name, estimate in estimates.items()
        ]
        differences = [
            self._difference("similarity", "geometry", name, estimate)
            for name, estimate in found.difference.items()
        ]
        first, second = (alignment(side["pictures"][rows], side["again"]) for side in (one, two))
        for arm, values in (("a", first), ("b", second)):
            steady = bootstrap_mean(values, seed=self.seed)
            measures.append(self._measure("similarity", "geometry", ALIGNMENT, arm, steady))
        step = bootstrap_difference(first, second, seed=self.seed)
        return measures, [*differences, self._difference("similarity", "geometry", ALIGNMENT, step)]

    def _symbols(
        self, one: dict[str, NDArray[np.float32]], two: dict[str, NDArray[np.float32]]
    ) -> tuple[list[Measure], list[Difference]]:
        rows = one["sampled"]
        sides = [(found["symbols"], found["pictures"][rows]) for found in (one, two)]
        measures = [
            self._measure("symbols", "symbols", SYMBOL_METRICS[name], arm, estimate, SYMBOL_UNITS[name])
            for arm, (grid, base) in zip("ab", sides, strict=True)
            for name, estimate in symbol_test(grid, base, seed=self.seed)._asdict().items()
        ]
        both = symbol_difference(*sides[0], *sides[1], seed=self.seed)
        return measures, [
            self._difference("symbols", "symbols", SYMBOL_METRICS[name], estimate, SYMBOL_UNITS[name])
            for name, estimate in both._asdict().items()
        ]

    def _measure(
        self, section: Kind, task: str, metric: str, arm: str, found: Estimate, unit: str = "images"
    ) -> Measure:
        numbers = {**found._asdict(), "seed": self.seed, "unit": unit}
        return Measure(section=section, task=task, metric=metric, arm=arm, **numbers)

    def _difference(
        self, section: Kind, task: str, metric: str, found: Estimate, unit: str = "images"
    ) -> Difference:
        numbers = {**found._asdict(), "seed": self.seed, "unit": unit}
        return Difference(section=section, task=task, metric=metric, arm="a", other="b", **numbers)


def versus_of(
    a: Glance,
    b: Glance,
    captions: tuple[str, ...],
    labels: dict[str, tuple[str, ...]],
    pairing: Pairing,
    *,
    words: bool = False,
) -> Versus:
    """The stage of two encoders and what is said of the pictures."""
    told = hashlib.sha256(json.dumps([captions, labels]).encode()).hexdigest()
    return Versus(a=a, b=b, told=told, captions=captions, labels=labels, pairing=pairing, words=words)


def _rows(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))


def _counted(record: PicturesRecord) -> dict[str, str]:
    """What is in the folder."""
    return {
        "pictures": f"{record.pictures:,}",
        "files with the same bytes as another": f"{record.copies:,}",
        "left out": f"{sum(record.lost.values()):,}",
        "digest": record.digest,
    }


def _encoder(about: EyeAbout) -> Encoder:
    return Encoder(name=Path(about.where).name, **about.model_dump())


class _Gallery:
    """The pictures that are shown, each once."""

    def __init__(self, images: Folder, captions: Sequence[str], labels: Mapping[str, Sequence[str]]) -> None:
        self.images, self.captions, self.labels = images, captions, labels
        self.places: dict[int, int] = {}
        self.shown: list[Shown] = []

    def place(self, row: int) -> int:
        """Where a picture stands among the shown ones."""
        if row not in self.places:
            self.places[row] = len(self.shown)
            self.shown.append(
                Shown(
                    key=key_of(self.images.paths[row]),
                    picture=f"{len(self.shown):05d}.webp",
                    caption=self.captions[row] if self.captions else "",
                    label=", ".join(filter(None, (told[row] for told in self.labels.values()))),
                )
            )
        return self.places[row]

    def pairs(self, found: Pairs, alike: Which, likeness: Sequence[dict[str, float]]) -> Iterable[Pair]:
        """Pairs of one direction, the most extreme first."""
        for left, right, cosine, percentile, rank, factors in zip(
            found.left.tolist(),
            found.right.tolist(),
            found.similarity.tolist(),
            found.percentile.tolist(),
            found.rank.tolist(),
            likeness,
            strict=False,  # likeness goes on with other pairs
        ):
            yield Pair(
                left=self.place(left),
                right=self.place(right),
                alike=alike,
                similarity={"a": cosine[0], "b": cosine[1]},
                percentile={"a": percentile[0], "b": percentile[1]},
                rank={"a": rank[0], "b": rank[1]},
                factors=factors,
                shares=[name for name, told in self.labels.items() if told[left] == told[right] != ""],
            )

    def near(self, rows: dict[str, Matrix]) -> dict[str, dict[Which, list[Near]]]:
        """The nearest pictures of each that is in a pair, in each encoder."""
        chosen = np.array(list(self.places), dtype=np.int64)
        found: dict[str, dict[Which, list[Near]]] = {str(self.places[int(row)]): {} for row in chosen}
        which: tuple[Which, Which] = ("a", "b")
        for name in which:
            nearest, cosines = _nearest(unit(rows[name]), chosen)
            for row, others, similar in zip(chosen.tolist(), nearest.tolist(), cosines.tolist(), strict=True):
                found[str(self.places[row])][name] = [
                    Near(place=self.place(other), similarity=cosine)
                    for other, cosine in zip(others, similar, strict=True)
                ]
        return found

    def save(self, folder: Path) -> None:
        """Write the shown pictures."""
        for row, place in self.places.items():
            picture = Image.fromarray(self.images.image(row))
            picture.thumbnail((LONGEST, LONGEST))
            _save(picture, folder / self.shown[place].picture)


def _save(picture: Image.Image, path: Path) -> None:
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=85)
    with whole_file(path) as temporary:
        temporary.write_bytes(out.getvalue())


def _sheet() -> Image.Image:
    """Some of the symbols (across) in every style (down)."""
    some = symbol_grid()[:: len(symbol_grid()) // 12][:12]
    small = [[cv2.resize(one, (48, 48), interpolation=cv2.INTER_AREA) for one in row] for row in some]
    return Image.fromarray(np.concatenate([np.concatenate(row) for row in small], axis=1))


def _nearest(
    rows: Matrix, chosen: Int[np.ndarray, " C"]
) -> tuple[Int[np.ndarray, "C k"], Float[np.ndarray, "C k"]]:
    """The nearest other pictures, the nearest first."""
    similar = rows[chosen] @ rows.T
    similar[np.arange(len(chosen)), chosen] = -np.inf
    k = min(NEAR, len(rows) - 1)
    order = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similar, order, axis=1)
