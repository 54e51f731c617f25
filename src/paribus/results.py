"""What a study found, as data: the report is drawn from this and from nothing else.

``results.json`` is a ``Results`` dumped as JSON; its schema is ``report/results.schema.json``, generated
from these classes. Every number carries the interval, the sample count and the seed behind it.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from paribus.types import Config

Number = Annotated[float, AfterValidator(lambda value: round(value, 9))]
"""A number as it is recorded: to nine decimals; what lies below varies with the linear algebra's threads."""

Verdict = Literal["supported", "contradicted", "not distinguishable"]


Section = Literal[
    "probe",
    "knn",
    "zeroshot",
    "retrieval",
    "abilities",
    "neighbours",
    "factors",
    "similarity",
    "symbols",
    "vqa",
    "language",
]


class Measure(Config):
    """One number about one arm."""

    section: Section
    task: str = Field(description="what is measured, e.g. group, style, OCR")
    metric: str = Field(description="how, e.g. accuracy, mean cosine, standardised coefficient")
    arm: str
    value: Number
    low: Number = Field(description="lower end of the 95% interval")
    high: Number = Field(description="upper end of the 95% interval")
    n: int = Field(description="independent units behind the interval (see unit)")
    unit: str = Field("images", description="what was resampled: images, concepts, questions, symbols")
    seed: int
    chance: float | None = Field(None, description="what guessing gives; None where it has no meaning")


class Difference(Config):
    """A paired difference between two arms on the same task: value = arm minus other."""

    section: str
    task: str
    metric: str
    arm: str
    other: str
    value: Number
    low: Number
    high: Number
    n: int
    unit: str = "images"
    seed: int
    p: float | None = Field(None, description="exact McNemar p-value where both arms answer the same items")
    p_holm: float | None = Field(None, description="the same after Holm's correction within its section")
    p_same: float | None = Field(None, description="equivalence (TOST): that it is beyond the study's margin")
    detectable: Number | None = Field(
        None, description="smallest true difference that would be found with 80% power at 5%"
    )


class Claim(Config):
    """One of the study's claims, and what this run says of it."""

    name: str
    text: str = Field(description="the claim, in the study's words")
    source: str
    verdict: Verdict
    because: str = Field(description="one sentence with the number, its interval and n")
    value: Number
    low: Number
    high: Number
    n: int
    seed: int


class LedgerRow(Config):
    """One line of the first table: a setting, the part it plays, and its value in each arm."""

    path: str
    role: Literal["control", "treatment", "confound", "measured"]
    values: dict[str, str] = Field(description="arm -> value; equal for a control")
    why: str = ""
    source: str = ""
    agrees: bool = Field(True, description="False where arms differ and must not")


class Cost(Config):
    """What one arm's pre-training took."""

    arm: str
    seed: int
    samples: int
    image_forwards: int = Field(description="full-size image equivalents through an encoder, by tokens")
    flops: float
    trainable_parameters: int
    seconds: float
    images_per_second: float
    peak_memory_mb: float


class Curve(Config):
    """A logged series over training."""

    arm: str
    stage: str = Field(description="pretrain, align, instruct, language")
    name: str
    seed: int
    seen: list[int] = Field(description="samples seen")
    values: list[float]


class GalleryItem(Config):
    """A pair of pictures on which two encoders disagree."""

    left: str = Field(description="sample key; gallery/<picture>.png holds the pixels")
    right: str
    left_picture: str
    right_picture: str
    left_label: str
    right_label: str
    high_arm: str = Field(description="the arm that finds the two alike")
    low_arm: str
    similarity: dict[str, float] = Field(description="arm -> cosine")
    percentile: dict[str, float] = Field(
        description="arm -> percentile among all pairs of that arm, 0 to 100"
    )
    shares: list[str] = Field(description="factors that the two pictures share")


class Interval(Config):
    """A value and its 95% interval."""

    value: Number
    low: Number
    high: Number


Boundary = Literal["one leads", "two leads", "the same", "no difference can be claimed"]


class MapRow(Config):
    """One task: how every encoder does, who leads, and on which side of the boundary it lies."""

    task: str
    metric: str
    n: int = Field(description="independent units behind the intervals")
    unit: str
    chance: float | None
    values: dict[str, Interval] = Field(description="encoder -> value")
    leader: str = Field(description="the encoder with the highest value")
    tied: list[str] = Field(
        description="encoders that cannot be told from the leader (paired differences, Holm over the map)"
    )
    step: Interval | None = Field(None, description="mean of side one minus mean of side two, paired")
    p: float | None = Field(None, description="that there is no step, from the bootstrap's standard error")
    p_holm: float | None = Field(None, description="the same after Holm's correction over all tasks")
    p_same: float | None = Field(None, description="equivalence (TOST): that the step is beyond the margin")
    verdict: Boundary | None = None
    merit: bool = Field(True, description="whether more is better; else the value is a leaning")


class AbilityMap(Config):
    """Per task, which supervision leads, and with what certainty."""

    one: str = Field(description="what side one is called; empty where encoders have no sides")
    two: str
    sides: dict[str, list[str]] = Field(description="side -> encoders whose values are averaged")
    others: list[str] = Field(description="encoders on no side: hybrids, baselines")
    margin: Number = Field(description="two sides are the same if they differ by less")
    seed: int
    rows: list[MapRow]
    left_out: dict[str, list[str]] = Field({}, description="task -> encoders that cannot be asked")


class Attribution(Config):
    """Whose art it is."""

    name: str
    style: str
    package: str
    version: str
    licence: str
    author: str
    url: str = ""
    images: int


class Results(Config):
    """All that a study found."""

    version: Literal[1] = 1
    study: str
    hypothesis: str
    level: Literal["recipe", "strict", "compute"]
    seeds: list[int]
    arms: dict[str, str] = Field(description="arm -> because")
    baselines: list[str]
    models: dict[str, str] = Field({}, description="published encoder or further model that sees -> because")
    data: dict[str, str] = Field(description="what the data is: source, counts, digest")
    ledger: list[LedgerRow]
    costs: list[Cost]
    measures: list[Measure]
    differences: list[Difference]
    claims: list[Claim]
    curves: list[Curve]
    gallery: list[GalleryItem]
    mined: dict[str, int] = Field(description="counts of mined and removed pairs, by reason")
    ability_map: AbilityMap | None = Field(None, description="what each encoder can be used for")
    attributions: list[Attribution]
    environment: dict[str, str] = Field(
        description="versions and machine; the only part that may differ on a rerun, with seconds and memory"
    )
