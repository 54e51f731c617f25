"""A study: one control, several treatments, seeds. Arms are made here and nowhere else."""

from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import Field, ValidationError

from paribus.data.captions import find_policy
from paribus.errors import UserError
from paribus.probes.linear import Grid
from paribus.study.control import (
    Control,
    Treatment,
    arm_confounds,
    arm_views,
    depart,
    one_sentence,
)
from paribus.study.downstream import Align, Answer, Instruct, Language, Questions
from paribus.study.evaluate import Compare, Embedding, Extract, Histogram, Probe
from paribus.study.stage import AnyStage, Stage
from paribus.study.stages import Corpus, Pretrain, Untrained, Words
from paribus.types import Config, Confound

Baseline = Literal["untrained", "colour-histogram"]
Measured = Literal["probes", "embedding", "disagreement", "vqa"]


class Expect(Config):
    """What the author of a study expects it to take."""

    minutes: float = Field(gt=0)
    cores: int = Field(gt=0)


class Arm(NamedTuple):
    """One treatment under one seed: its encoder, and how it is admitted to differ."""

    name: str
    seed: int
    because: str
    encoder: Pretrain
    confounds: tuple[Confound, ...]


class Branch(NamedTuple):
    """All stages that follow one arm or baseline under one seed; None where nothing is asked or possible."""

    name: str
    seed: int
    probe: Probe | None
    embedding: Embedding | None
    answer: Answer | None


class Study(Config):
    """What a study file says."""

    hypothesis: str = Field(min_length=1)
    expect: Expect | None = None
    control: Control
    arms: dict[str, Treatment] = Field(min_length=1)
    baselines: tuple[Baseline, ...] = ()
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    measure: tuple[Measured, ...] = ("probes", "embedding", "disagreement", "vqa")
    margin: float = Field(0.03, gt=0, description="equivalence margin for 'similar accuracy'")
    grid: Grid = Grid()

    @property
    def corpus(self) -> Corpus:
        """The data of all arms."""
        return Corpus(source=self.control.data.source)

    def resolve(self, seed: int) -> dict[str, Arm]:
        """All arms under one seed; they differ from the control by treatment and confounds only."""
        return {name: self._arm(name, treatment, seed) for name, treatment in self.arms.items()}

    def _arm(self, name: str, treatment: Treatment, seed: int) -> Arm:
        control, objective = self.control, treatment.objective
        confounds = arm_confounds(treatment, control)
        words = Words(corpus=self.corpus, captions=control.data.captions, vocabulary=control.data.vocabulary)
        settings = {
            "recipe": control.recipe.model_dump(mode="json"),
            "budget": control.budget.model_dump(mode="json"),
            "views": [view.model_dump(mode="json") for view in arm_views(objective, control)],
        }
        try:
            encoder = Pretrain(
                corpus=self.corpus,
                captions=control.data.captions,
                words=words if objective.reads_text else None,
                encoder=control.encoder,
                objective=objective,
                precision=control.precision,
                seed=seed,
                **depart(settings, confounds, name),
            )
        except ValidationError as error:
            raise UserError(one_sentence(error, f"arms.{name}.confounds")) from error
        return Arm(name, seed, treatment.because, encoder, confounds)

    def at_equal_compute(self, arms: dict[str, Arm]) -> dict[str, Arm]:
        """At level ``compute``, dearer arms see fewer samples, so that all spend the cheapest arm's FLOPs."""
        if self.control.level != "compute":
            return arms
        flops = {name: arm.encoder.flops() for name, arm in arms.items()}
        least = min(flops.values())
        out = {}
        for name, arm in arms.items():
            budget = arm.encoder.budget
            steps = max(1, round(budget.steps * least / flops[name]))
            if steps == budget.steps:
                out[name] = arm
                continue
            fewer = budget.model_copy(update={"samples": steps * budget.batch})
            why = f"equal training FLOPs ({least:.3g}) instead of equal samples"
            confound = Confound(path="budget.samples", value=fewer.samples, why=why, source="level compute")
            encoder = arm.encoder.changed(budget=fewer)
            out[name] = arm._replace(encoder=encoder, confounds=(*arm.confounds, confound))
        return out

    def all_arms(self) -> list[Arm]:
        """Every arm under every seed."""
        return [arm for seed in self.seeds for arm in self.at_equal_compute(self.resolve(seed)).values()]

    def branches(self) -> list[Branch]:
        """What follows each arm and baseline."""
        found = [self._branch(arm.name, arm.seed, arm.encoder) for arm in self.all_arms()]
        for seed in self.seeds:
            if "untrained" in self.baselines:
                blank = Untrained(encoder=self.control.encoder, seed=seed)
                found.append(self._branch("untrained", seed, blank))
            if "colour-histogram" in self.baselines:
                found.append(self._branch("colour-histogram", seed, Histogram()))
        return found

    def _branch(self, name: str, seed: int, encoder: Pretrain | Untrained | Histogram) -> Branch:
        features = Extract(encoder=encoder, corpus=self.corpus, precision=self.control.precision)
        probe = Probe(features=features, grid=self.grid, seed=seed) if "probes" in self.measure else None
        wanted = {"embedding", "disagreement"} & set(self.measure)
        embedding = Embedding(features=features, seed=seed) if wanted else None
        sees = not isinstance(encoder, Histogram) and "vqa" in self.measure
        return Branch(name, seed, probe, embedding, self._answer(encoder, seed) if sees else None)  # type: ignore[arg-type]

    def _answer(self, encoder: Pretrain | Untrained, seed: int) -> Answer:
        vlm, precision = self.control.vlm, self.control.precision
        questions = Questions(corpus=self.corpus, config=vlm.questions)
        language = Language(
            corpus=self.corpus,
            questions=questions,
            captions=self.control.data.captions,
            config=vlm.language,
            budget=vlm.language_budget,
            recipe=vlm.language_recipe,
            precision=precision,
            seed=seed,
        )
        align = Align(
            encoder=encoder,
            language=language,
            layer=vlm.layer,
            budget=vlm.align_budget,
            recipe=vlm.align_recipe,
            precision=precision,
            seed=seed,
        )
        instruct = Instruct(
            align=align,
            questions=questions,
            budget=vlm.instruct_budget,
            recipe=vlm.instruct_recipe,
            precision=precision,
            seed=seed,
        )
        return Answer(vlm=instruct, questions=questions)

    def comparisons(self) -> list[tuple[str, str, Compare]]:
        """Every two arms of the same seed."""
        if "disagreement" not in self.measure:
            return []
        arms = [branch for branch in self.branches() if branch.name in self.arms]
        return [
            (one.name, other.name, Compare(a=one.embedding, b=other.embedding, seed=one.seed))
            for one, other in combinations(arms, 2)
            if one.seed == other.seed and one.embedding is not None and other.embedding is not None
        ]

    def stages(self) -> list[AnyStage]:
        """The ends of the graph; what they need hangs below them."""
        ends: list[AnyStage] = [arm.encoder for arm in self.all_arms()]
        for branch in self.branches():
            ends += [stage for stage in branch[2:] if isinstance(stage, Stage)]
        return ends + [compare for _, _, compare in self.comparisons()]


def load_study(path: Path, changes: tuple[str, ...] = ()) -> Study:
    """Read a study file, with ``path=value`` changes applied and validated like the file.

    Raises:
        UserError: the file or a change is not valid; one sentence says where.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"There is no study file {path}: give the path of a YAML file, e.g. studies/quickstart.yaml."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read the study file {path}: give the path of a YAML file.") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML: {reason}.") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds no study: it must be a mapping with the keys hypothesis, control, arms."
        )
    for change in changes:
        _change(content, change)
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise UserError(one_sentence(error, str(path))) from error
    _check(study, path)
    return study


def _change(content: dict[str, Any], change: str) -> None:
    """Apply one ``path=value`` to the file's content; the value is read as YAML."""
    path, separator, value = change.partition("=")
    if not separator or not path:
        raise UserError(f"--set {change}: write path=value, e.g. --set control.budget.samples=1000.")
    *parents, last = path.split(".")
    place: Any = content
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise UserError(f"--set {change}: {'.'.join(parents)} is not a mapping in the study file.")
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {change}: the value is not valid YAML.") from error


def _check(study: Study, path: Path) -> None:
    """What types cannot say."""
    try:
        find_policy(study.control.data.captions)
    except UserError as error:
        raise UserError(f"{path}: control.data.captions: {error}") from error
    taken = {"untrained", "colour-histogram"} & set(study.arms)
    if taken:
        raise UserError(f"{path}: arms.{taken.pop()}: this name belongs to a baseline; choose another.")
    for arm in study.resolve(study.seeds[0]).values():
        for view in arm.encoder.views:
            size = view.size * study.control.encoder.image_size
            patch = study.control.encoder.patch
            if round(size) % patch:
                raise UserError(
                    f"{path}: arms.{arm.name}: view {view.name} is {size:g} pixels wide, which is not a "
                    f"multiple of the patch {patch}: change its size."
                )
