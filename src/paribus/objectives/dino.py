"""DINO: self-distillation with no labels.

Paper: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", algorithm 1; code
facebookresearch/dino main_dino.py. In pseudo-code, for one image, teacher views t in {g1, g2}, student
views s in {g1, g2, l1, ...}:

    P_t = softmax((teacher(t) - centre) / tau_t);   Q_s = softmax(student(s) / 0.1)
    loss = mean over pairs (t, s), t != s, of  -sum_k P_t[k] log Q_s[k]
    centre <- m centre + (1 - m) mean(teacher outputs);   teacher <- EMA of the student

Deviations: times are fractions of the budget, not epochs (10 warm-up epochs would be half of a 20-epoch run).
The cut between ``encode`` and ``loss`` lies at the head's 256-wide bottleneck, so that the wide last layer is
never stored per sample; in ``loss`` its outputs are held for ``TILE`` samples at a time.
"""

import copy
import functools
import math
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from paribus.encoders.text import Material
from paribus.encoders.vision import VisionEncoder, init_linear, widen
from paribus.objectives.base import Objective, ObjectiveConfig
from paribus.objectives.collapse import entropy, spread
from paribus.objectives.residuals import keep_residuals
from paribus.rng import torch_seed
from paribus.types import Batch, Clock, Confound, Encoded, Losses, ViewSpec, cosine

STUDENT_TEMPERATURE = 0.1
CODE = "facebookresearch/dino main_dino.py"
BEGINNING = 0.1
"""The fraction of the budget in which targets may say nothing: an untrained network tells little apart."""

SILENT = 0.01
"""Nats of information of picture and prototype below which the teacher's targets are all the same."""

GLOBALS = ("global1", "global2")
TILE = 128
"""Samples whose last-layer outputs are held at once: 128 x 12 views x 65,536 floats are 400 MB."""


again = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
"""Calls a function now, and once more for its gradient."""


def dino_loss(
    student: Float[Tensor, "B V K"],
    teacher: Float[Tensor, "B G K"],
    centre: Float[Tensor, " K"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of every student view with every *other* teacher view, meaned over pairs and samples.

    The first G student views are the teacher's views in the same order; a view is not compared with itself.
    """
    target = F.softmax((teacher - centre) / temperature, dim=-1)
    predicted = F.log_softmax(student / STUDENT_TEMPERATURE, dim=-1)
    pairs = -torch.einsum("bgk,bvk->gv", target, predicted) / len(student)
    views, globals_ = student.shape[1], teacher.shape[1]
    other = 1.0 - torch.eye(globals_, views, device=pairs.device, dtype=pairs.dtype)
    return (pairs * other).sum() / other.sum()


class Head(nn.Module):
    """DINO's projection head down to its unit-length bottleneck, and the weight-normed last layer."""

    def __init__(self, width: int, hidden: int, bottleneck: int, out: int, norm_last: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        init_linear(self, 0.02)
        self.last = nn.Parameter(torch.empty(out, bottleneck))
        nn.init.kaiming_uniform_(self.last, a=5**0.5)  # nn.Linear's default, which DINO keeps here
        self.gain = nn.Parameter(torch.ones(out, 1), requires_grad=not norm_last)

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch bottleneck"]:
        """The unit vectors before the last layer."""
        return F.normalize(widen(self.mlp(x)), dim=-1)

    def logits(self, bottleneck: Float[Tensor, "*batch bottleneck"]) -> Float[Tensor, "*batch K"]:
        """The last layer: rows of unit length (times a gain if it is not fixed), no bias."""
        return F.linear(bottleneck, self.gain * F.normalize(self.last, dim=-1))


class Dino(Objective):
    """A student, its EMA teacher, and a centre."""

    class Config(ObjectiveConfig):
        """DINO's own settings; the defaults are the reference code's for ViT-B (docs/objectives.md)."""

        kind: Literal["dino"] = "dino"
        out: int = Field(65_536, ge=2)
        hidden: int = Field(2048, ge=1)
        bottleneck: int = Field(256, ge=1)
        norm_last: bool = True
        local_crops: int = Field(8, ge=0)
        local_size: float = Field(96 / 224, gt=0, le=1, description="of the encoder's image size")
        momentum: float = Field(0.996, ge=0, le=1, description="of the teacher; cosine to final_momentum")
        final_momentum: float = Field(1.0, ge=0, le=1, description="SILC holds the momentum where it is")
        centre_momentum: float = Field(0.9, ge=0, le=1)
        warmup_temperature: float = Field(0.04, gt=0)
        temperature: float = Field(0.07, gt=0)
        temperature_warmup: float = Field(0.3, ge=0, le=1, description="fraction of the budget")
        freeze_last: float = Field(0.025, ge=0, le=1, description="fraction of the budget")
        drop_path: float = Field(0.1, ge=0, lt=1, description="of the student only")

        published_views: ClassVar[tuple[ViewSpec, ...]] = (
            ViewSpec(name="global1", scale=(0.4, 1.0), flip=0.5, jitter=0.8, grayscale=0.2, blur=1.0),
            ViewSpec(
                name="global2", scale=(0.4, 1.0), flip=0.5, jitter=0.8, grayscale=0.2, blur=0.1, solarize=0.2
            ),
            ViewSpec(
                name="local", size=0.5, scale=(0.05, 0.4), flip=0.5, jitter=0.8, grayscale=0.2, blur=0.5
            ),
        )
        departures: ClassVar[tuple[Confound, ...]] = (
            Confound(path="recipe.betas", value=(0.9, 0.999), why="DINO's AdamW default", source=CODE),
            Confound(path="recipe.eps", value=1e-8, why="DINO's AdamW default", source=CODE),
            Confound(path="recipe.weight_decay", value=0.04, why="DINO raises the decay", source=CODE),
            Confound(path="recipe.final_weight_decay", value=0.4, why="DINO raises the decay", source=CODE),
            Confound(path="recipe.warmup", value=0.1, why="DINO warms up for 10 of 100 epochs", source=CODE),
            Confound(path="recipe.final_lr", value=1e-6, why="DINO's floor", source=CODE),
            Confound(path="recipe.clip", value=3.0, why="DINO clips, CLIP does not", source=CODE),
            Confound(path="recipe.clip_by", value="tensor", why="each tensor by its own norm", source=CODE),
        )

        def views(self) -> tuple[ViewSpec, ...]:
            """Two global crops and this config's local ones."""
            one, two, local = self.published_views
            if not self.local_crops:
                return one, two
            return one, two, local.model_copy(update={"count": self.local_crops, "size": self.local_size})

    centre: Tensor

    def __init__(self, config: "Dino.Config", encoder: VisionEncoder, material: Material, seed: int) -> None:
        super().__init__()
        del material
        self.config, self.student = config, encoder
        with torch_seed(seed, "heads", "dino"):
            self.head = Head(
                encoder.config.width, config.hidden, config.bottleneck, config.out, config.norm_last
            )
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(config.out))
        self.register_buffer("batch_centre", torch.zeros(config.out), persistent=False)

    def encode(self, batch: Batch) -> Encoded:
        """Bottlenecks of ``student`` ``[B V 256]`` (globals first) and ``teacher`` ``[B 2 256]``."""
        student = [self._student(batch, name) for name in (*GLOBALS, "local") if name in batch.views]
        with torch.no_grad():
            teacher = [self.teacher_head(self.teacher.summary(batch.views[name][:, 0])) for name in GLOBALS]
        return {"student": torch.cat(student, dim=1), "teacher": torch.stack(teacher, dim=1)}

    def _student(self, batch: Batch, name: str) -> Float[Tensor, "B V bottleneck"]:
        views, config = batch.views[name], self.config
        depth = self.student.config.depth
        keep = keep_residuals(batch, name, views.shape[1], depth, config.drop_path, self.student.mean)
        encoded = self.student.summary(views.flatten(0, 1), keep=keep)
        out: Tensor = self.head(encoded).unflatten(0, views.shape[:2])
        return out

    def loss(self, encoded: Encoded, clock: Clock) -> Losses:
        """Distil; remember the teacher's mean output for the centre."""
        student, teacher = encoded["student"], encoded["teacher"].detach()
        temperature = self.temperature(clock)

        def share(rows: Tensor, targets: Tensor) -> Float[Tensor, ""]:
            """What some samples add to the mean loss over the batch."""
            loss = dino_loss(self.head.logits(rows), targets, self.centre, temperature)
            return loss * (len(rows) / len(student))

        def tile(rows: Tensor, taught: Tensor) -> Float[Tensor, ""]:
            """The same, from the teacher's bottlenecks."""
            return share(rows, self.teacher_head.logits(taught))

        if len(student) <= TILE:
            targets = self.teacher_head.logits(teacher)
            total, seen = share(student, targets), self._watch([targets], len(teacher), temperature)
        else:  # each tile is made again for the gradient (Chen et al. 2016), so that one is held at a time
            taught = torch.split(teacher, TILE)
            tiles = zip(torch.split(student, TILE), taught, strict=True)
            total = torch.stack([again(tile, *both) for both in tiles]).sum()
            seen = self._watch(map(self.teacher_head.logits, taught), len(teacher), temperature)
        parts = {"dino": total.detach(), **seen, "centre_norm": self.centre.norm()}
        return Losses(total, parts | {"teacher_spread": spread(teacher)})

    def symptoms(self, line: Mapping[str, float], clock: Clock) -> dict[str, str]:
        """A teacher whose targets say nothing of the picture, after a start at which they cannot."""
        told, flat = line.get("teacher_information", math.inf), math.log(self.config.out)
        if clock.fraction < BEGINNING or told >= SILENT:
            return {}
        return {
            "collapse of the teacher": f"the teacher gives all pictures one target ({told:.1g} nats set them "
            f"apart; its entropy is {line['teacher_entropy']:.2f} of {flat:.2f})"
        }

    @torch.no_grad()
    def _watch(
        self, tiles: Iterable[Float[Tensor, "_ G K"]], samples: int, temperature: float
    ) -> dict[str, Tensor]:
        """Set the batch's mean output of the teacher aside; give what its targets are like, in nats.

        Their mean entropy is high if they are flat and 0 if they are sharp; either is well as long as they
        differ. The information is the entropy of the mean target less the mean entropy, that is the mutual
        information of picture and prototype: 0 if all targets are the same, whatever they look like. Of one
        picture there is none to tell: its views are to have one target.
        """
        means, entropies, targets = [], [], []
        for teacher in tiles:
            weight = len(teacher) / samples
            target = F.softmax((teacher - self.centre) / temperature, dim=-1)
            means.append(teacher.mean(dim=(0, 1)) * weight)
            entropies.append(entropy(target).mean() * weight)
            targets.append(target.mean(dim=(0, 1)) * weight)
        self.batch_centre = torch.stack(means).sum(dim=0)
        mean_entropy = torch.stack(entropies).sum()
        seen = {"teacher_entropy": mean_entropy}
        if samples > 1:
            seen["teacher_information"] = entropy(torch.stack(targets).sum(dim=0)) - mean_entropy
        return seen

    def temperature(self, clock: Clock) -> float:
        """The teacher's temperature: linear warm-up, then constant."""
        config = self.config
        done = min(1.0, clock.fraction / config.temperature_warmup) if config.temperature_warmup else 1.0
        return config.warmup_temperature + done * (config.temperature - config.warmup_temperature)

    def before_step(self, clock: Clock) -> None:
        """Hold the last layer still at first; it is what keeps the start from collapsing."""
        if clock.fraction < self.config.freeze_last:
            self.head.last.grad = self.head.gain.grad = None

    @torch.no_grad()
    def after_step(self, clock: Clock) -> None:
        """Move the teacher towards the student, and the centre towards the batch's."""
        momentum = cosine(self.config.momentum, self.config.final_momentum, clock.fraction)
        pairs = [(self.teacher, self.student), (self.teacher_head, self.head)]
        for slow, fast in pairs:
            torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1.0 - momentum)
        self.centre.lerp_(self.batch_centre, 1.0 - self.config.centre_momentum)

    def join(self) -> None:
        """The teacher begins as a copy of the encoder as it now is."""
        self.teacher.load_state_dict(self.student.state_dict())

    def looks(self) -> dict[tuple[str, str], float]:
        """Student and teacher on both globals, and the student on the locals by their share of tokens.

        Stochastic depth makes the student another network than the bare encoder.
        """
        encoder, config = self.student.config, self.config
        student = "student" if config.drop_path else "encoder"
        found = {(network, name): 1.0 for network in (student, "teacher") for name in GLOBALS}
        if config.local_crops:
            local = encoder.tokens(round(config.local_size * encoder.image_size))
            found[student, "local"] = config.local_crops * local / encoder.tokens(encoder.image_size)
        return found

    def encoder(self) -> VisionEncoder:
        """The teacher: DINO evaluates the EMA weights."""
        return self.teacher
