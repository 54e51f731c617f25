"""Batches for a model that sees: pictures prepared as each encoder was published, or kept features."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt64
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor

from paribus.data.grouping import Grouped
from paribus.data.loader import Loader
from paribus.encoders.published import Fit, evaluate
from paribus.encoders.vision import EncoderConfig
from paribus.types import Sample, Share, Source
from paribus.vlm.conversation import pictured
from paribus.vlm.model import SEEN


@runtime_checkable
class Told(Protocol):
    """A source that can tell a sample without decoding its picture."""

    def said(self, index: int, /) -> Sample:
        """The sample, with nothing for a picture."""
        ...


class Kept:
    """Features of a source's pictures, as a frozen encoder saw them.

    Args:
        folder: holds ``features.bin`` ``[P N D]`` and ``rows.safetensors``: shape, and each sample's row.
        half: whether they are bfloat16.
    """

    def __init__(self, folder: Path, half: bool) -> None:
        index = load_file(folder / "rows.safetensors")
        self._rows: NDArray[np.int64] = index["rows"]
        shape, self._half = tuple(index["shape"].tolist()), half
        self._features = np.memmap(
            folder / "features.bin", np.uint16 if half else np.float32, "r", shape=shape
        )

    def __getitem__(self, indices: Int64[np.ndarray, " B"]) -> Float[Tensor, "B N D"]:
        rows = self._rows[indices]
        found = torch.from_numpy(self._features[np.maximum(rows, 0)])
        return found.view(torch.bfloat16) if self._half else found


class EyeLoader(Loader):
    """Batches of pictures and conversations; views ``eye0``, ``eye1`` ... or ``seen``.

    Args:
        source: conversations.
        encoders: for whom pictures are prepared.
        fit: how a picture becomes a square.
        batch: samples a step.
        seed: of the order.
        workers: threads that decode and resize.
        share: which rows of every batch are made here.
        kept: features in place of pictures.
        grouped: whether batches are of pictures or of text alone, as far as that goes (LLaVA-1.5).
    """

    def __init__(
        self,
        source: Source,
        encoders: Sequence[EncoderConfig],
        *,
        fit: Fit,
        batch: int,
        seed: int,
        workers: int,
        share: Share = Share(),  # noqa: B008 - immutable
        kept: Kept | None = None,
        grouped: bool = False,
    ) -> None:
        super().__init__(source, (), image_size=1, batch=batch, seed=seed, workers=workers, share=share)
        self.encoders, self.fit, self.kept = tuple(encoders), fit, kept
        shown = getattr(source, "pictured", None)
        if grouped and shown is not None:
            self.order = Grouped(shown, batch, seed)

    def fetch(self, indices: Int64[np.ndarray, " B"]) -> list[Sample]:
        """The samples; without their pictures, where these are not needed."""
        if self.kept is not None and isinstance(self.source, Told):
            return [self.source.said(int(index)) for index in indices]
        return super().fetch(indices)

    def look(
        self,
        samples: Sequence[Sample],
        ids: UInt64[np.ndarray, " B"],
        indices: Int64[np.ndarray, " B"],
        epochs: Int64[np.ndarray, " B"],
    ) -> Mapping[str, Tensor]:
        """Pictures for each encoder, zeros where there is none; or the kept features."""
        del ids, epochs
        if self.kept is not None:
            return {SEEN: self.kept[indices]}
        shown = [row for row, sample in enumerate(samples) if pictured(sample.conversation())]
        return {f"eye{k}": self._prepared(config, samples, shown) for k, config in enumerate(self.encoders)}

    def _prepared(
        self, config: EncoderConfig, samples: Sequence[Sample], shown: list[int]
    ) -> Float[Tensor, "B 3 S S"]:
        side = config.image_size
        if len(shown) == len(samples):
            return evaluate(config, [sample.image for sample in samples], self.fit)
        out = torch.zeros(len(samples), 3, side, side)
        if shown:
            out[torch.tensor(shown)] = evaluate(config, [samples[row].image for row in shown], self.fit)
        return out
