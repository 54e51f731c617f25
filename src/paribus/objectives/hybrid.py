"""Hybrids: a weighted sum of objectives on one shared encoder.

SLIP (Mu et al. 2021) is CLIP + SimCLR; SILC (Naeem et al. 2023) is CLIP or SigLIP + DINO with the caption on
each global view; SigLIP 2 (Tschannen et al. 2025) lets self-distillation join for the last fifth of the
budget. All are compositions, none is code of its own. In pseudo-code:

    loss = sum over parts p that have joined of  weight_p * loss_p(encode_p(batch), time since p joined)

Parts that look at the same view with the same network share the forward pass. The shared encoder ships.
Deviations: a part's schedules run over its own share of the budget; a teacher that joins late begins as a
copy of the encoder as it then is (as in SigLIP 2).
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from paribus.encoders.text import Material, TowerConfig
from paribus.encoders.vision import VisionEncoder
from paribus.objectives.base import Joint, Objective, ObjectiveConfig
from paribus.objectives.single import AnySingle, build_single
from paribus.types import Batch, Clock, Config, Confound, Encoded, Losses, ViewSpec


class Part(Config):
    """One objective of a hybrid."""

    objective: AnySingle
    weight: float = Field(1.0, ge=0)
    start: float = Field(0.0, ge=0, lt=1, description="fraction of the budget after which it joins")


class Hybrid(Objective):
    """Several objectives, one encoder."""

    class Config(ObjectiveConfig):
        """The parts, by name."""

        kind: Literal["hybrid"] = "hybrid"
        parts: dict[str, Part] = Field(min_length=1)
        leads: str | None = Field(
            None, description="the part whose published recipe the hybrid takes; None: the first"
        )

        @model_validator(mode="after")
        def _sound(self) -> "Hybrid.Config":
            if not self.active():
                raise ValueError(
                    f"all weights are zero ({', '.join(self.parts)}): give at least one part a weight above 0"
                )
            if all(part.start > 0 for part in self.active().values()):
                raise ValueError("no part starts at 0: nothing would be trained at first")
            if self.leads is not None and self.leads not in self.active():
                raise ValueError(f"leads: there is no part {self.leads!r} with a weight above 0")
            self._fit_views()
            return self

        def _fit_views(self) -> None:
            """One name, one view; what is read must be there."""
            views: dict[str, ViewSpec] = {}
            for name, part in self.active().items():
                if not part.objective.trains_encoder:
                    raise ValueError(f"part {name} freezes the encoder, which the other parts train")
                for view in part.objective.views():
                    if views.setdefault(view.name, view) != view:
                        raise ValueError(f"part {name} asks for another view called {view.name!r}")
            for name, part in self.active().items():
                missing = set(getattr(part.objective, "reads", ())) - set(views)
                if missing:
                    raise ValueError(
                        f"part {name} reads {', '.join(sorted(missing))}, "
                        f"but the views are {', '.join(views)}"
                    )
            towers = [part for part in self.active().values() if part.objective.tower() is not None]
            if len({part.objective.tower() for part in towers}) > 1:
                raise ValueError("the parts name different text towers; a hybrid has one kind of captions")

        def active(self) -> dict[str, Part]:
            """Parts that weigh anything."""
            return {name: part for name, part in self.parts.items() if part.weight > 0}

        @property
        def leader(self) -> ObjectiveConfig:
            """The objective whose published recipe the hybrid takes."""
            return self.active()[self.leads or next(iter(self.active()))].objective

        @property
        def least_batch(self) -> int:  # type: ignore[override]
            """As many as its most demanding part needs."""
            return max(part.objective.least_batch for part in self.active().values())

        def views(self) -> tuple[ViewSpec, ...]:
            """All parts' crops, each once."""
            found = {view.name: view for part in self.active().values() for view in part.objective.views()}
            return tuple(found.values())

        def tower(self) -> TowerConfig | None:
            """The text tower of the part that reads, if one does."""
            towers = (part.objective.tower() for part in self.active().values())
            return next((tower for tower in towers if tower is not None), None)

        @property
        def looks_alone(self) -> bool:
            """Whether some part reads no captions."""
            return any(part.objective.looks_alone for part in self.active().values())

        def recipe(self) -> tuple[Confound, ...]:
            """The leading part's departures."""
            return self.leader.recipe()

    joined: Tensor

    def __init__(
        self, config: "Hybrid.Config", encoder: VisionEncoder, material: Material, seed: int
    ) -> None:
        super().__init__()
        self.config, self.shared = config, encoder
        self.names = list(config.active())
        self.parts = nn.ModuleDict(
            {
                name: build_single(part.objective, encoder, material, seed)
                for name, part in config.active().items()
            }
        )
        self.register_buffer("joined", torch.zeros(len(self.names), dtype=torch.uint8))
        self.fraction = 0.0

    def _working(self) -> Iterator[tuple[str, Objective, Part]]:
        """The parts that take part at this moment."""
        for name in self.names:
            part = self.config.parts[name]
            if self.fraction >= part.start:
                yield name, self.parts[name], part  # type: ignore[misc]

    def begin_step(self, clock: Clock) -> None:
        """Let parts whose time has come join."""
        self.fraction = clock.fraction
        for name, part, settings in self._working():
            place = self.names.index(name)
            if not self.joined.is_meta and not self.joined[place]:  # what only counts costs has no past
                part.join()
                self.joined[place] = 1
            part.begin_step(since(clock, settings.start))

    def encode(self, batch: Batch) -> Encoded:
        """Every working part's encodings, as ``part/name``; views that two parts look at are encoded once."""
        encoded: Encoded = {}
        with self.shared.remembering():
            for name, part, _ in self._working():
                encoded |= {f"{name}/{key}": value for key, value in part.encode(batch).items()}
        return encoded

    def loss(self, encoded: Encoded, clock: Clock) -> Losses:
        """The weighted sum; each part's own loss is logged."""
        totals: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        for name, part, settings in self._working():
            own = {
                key.removeprefix(f"{name}/"): value
                for key, value in encoded.items()
                if key.startswith(f"{name}/")
            }
            losses = part.loss(own, since(clock, settings.start))
            totals.append(settings.weight * losses.total)
            parts |= {f"{name}/{key}": value for key, value in losses.parts.items()}
        return Losses(torch.stack(totals).sum(), parts)

    def symptoms(self, line: Mapping[str, float], clock: Clock) -> dict[str, str]:
        """Every working part's."""
        found: dict[str, str] = {}
        for name, part, settings in self._working():
            own = {key.removeprefix(f"{name}/"): value for key, value in line.items()}
            told = part.symptoms(own, since(clock, settings.start))
            found |= {f"{name}: {symptom}": clause for symptom, clause in told.items()}
        return found

    def before_step(self, clock: Clock) -> None:
        """Every working part's."""
        for _, part, settings in self._working():
            part.before_step(since(clock, settings.start))

    def after_step(self, clock: Clock) -> None:
        """Every working part's."""
        for _, part, settings in self._working():
            part.after_step(since(clock, settings.start))

    def looks(self) -> dict[tuple[str, str], float]:
        """All parts'; what they share counts once, and a late part for its share of the budget."""
        found: dict[tuple[str, str], float] = {}
        for name in self.names:
            share = 1.0 - self.config.parts[name].start
            for (network, view), forwards in self.parts[name].looks().items():  # type: ignore[operator]
                key = (network if network == "encoder" else f"{name}/{network}", view)
                found[key] = max(found.get(key, 0.0), share * forwards)
        return found

    def phases(self) -> tuple[float, ...]:
        """When parts join."""
        return tuple(sorted({0.0, *(part.start for part in self.config.active().values())}))

    def joint_space(self) -> Joint | None:
        """That of the part that reads, if one does."""
        spaces = (self.parts[name].joint_space() for name in self.names)  # type: ignore[operator]
        return next((space for space in spaces if space is not None), None)

    def encoder(self) -> VisionEncoder:
        """The shared encoder's last weights."""
        return self.shared


def since(clock: Clock, start: float) -> Clock:
    """The clock of a part that joined after the fraction ``start`` of the budget."""
    passed = round(start * clock.total)
    return Clock(clock.step, max(0, clock.seen - passed), clock.total - passed)
