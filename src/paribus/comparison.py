"""What differs between two encoders on one's own pictures, as data: ``paribus compare`` writes it.

``comparison.json`` is a ``Comparison`` dumped as JSON; the page is drawn from this, and from the pictures
beside it, alone. ``a`` and ``b`` stand for the two encoders throughout.
"""

from typing import Literal

from pydantic import Field

from paribus.results import Difference, Measure, Number
from paribus.types import Config

Which = Literal["a", "b"]


class Encoder(Config):
    """One of the two."""

    name: str = Field(description="as it is called in the report")
    where: str
    format: str
    model: str
    parameters: int
    width: int
    size: int = Field(description="side of the prepared picture, in pixels")
    prepared: str = Field(description="how pictures are prepared, in words")
    read: str = Field(description="what of it is compared: a class token, a pooling head or a mean")
    taught: str = ""
    notes: tuple[str, ...] = ()


class Shown(Config):
    """A picture that the page shows."""

    key: str = Field(description="its path below the folder")
    picture: str = Field(description="its file under pairs/")
    caption: str = ""
    label: str = ""


class Near(Config):
    """A picture's neighbour in one encoder."""

    place: int = Field(description="in Comparison.shown")
    similarity: Number


class Pair(Config):
    """Two pictures that one encoder finds alike and the other does not."""

    left: int = Field(description="in Comparison.shown")
    right: int
    alike: Which = Field(description="who finds them alike")
    similarity: dict[Which, Number]
    percentile: dict[Which, Number] = Field(description="among all pairs of that encoder, 0 to 100")
    rank: dict[Which, int] = Field(description="1: the most alike of all pairs; see exact_ranks")
    factors: dict[str, Number] = Field(description="factor -> percentile of its likeness among all pairs")
    shares: list[str] = Field(description="labels and the like that the two pictures share")


class LayerMap(Config):
    """CKA of every layer of a (rows) with every layer of b (columns), from the first on."""

    values: list[list[Number | None]]
    pictures: int


class Comparison(Config):
    """All that was found."""

    version: Literal[1] = 1
    encoders: dict[Which, Encoder]
    folder: str
    pictures: dict[str, str] = Field(description="what is in the folder: counts, digest, faults")
    faults: dict[str, tuple[str, ...]] = Field(description="fault -> the first files that have it")
    thresholds: dict[Which, tuple[Number, Number]] = Field(description="cosines: not alike up to, alike from")
    mined: dict[str, int] = Field(description="counts of mined and removed pairs, by reason")
    exact_ranks: bool = Field(True, description="ranks are counts, and not estimates from a sample of pairs")
    measures: list[Measure]
    differences: list[Difference]
    layers: LayerMap | None
    shown: list[Shown]
    pairs: list[Pair]
    near: dict[str, dict[Which, list[Near]]] = Field(description="place in shown -> nearest pictures")
    left_out: dict[str, str] = Field(description="factor that could not be measured -> why")
    symbols: str = Field("", description="a sheet of the symbols under pairs/, if they were looked at")
    seed: int
    command: str = Field("", description="what was typed")
    environment: dict[str, str]

    def found_at(self, folder: str, where: dict[Which, str]) -> "Comparison":
        """The same of folder and encoders that lie elsewhere now."""
        encoders = {
            which: encoder.model_copy(update={"where": where[which]})
            for which, encoder in self.encoders.items()
        }
        return self.model_copy(update={"folder": folder, "encoders": encoders})

    def called(self, a: str, b: str) -> "Comparison":
        """The same under other names of the encoders; of equal ones the second gets a number."""
        names = (a, b if b != a else f"{b} (2)")
        encoders = {
            which: encoder.model_copy(update={"name": name})
            for (which, encoder), name in zip(sorted(self.encoders.items()), names, strict=True)
        }
        return self.model_copy(update={"encoders": encoders})
