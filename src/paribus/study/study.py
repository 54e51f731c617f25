"""A study: one control, several treatments, seeds. Arms are made here and nowhere else."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import Field, ValidationError, model_validator

from paribus.data.captions import shuffles
from paribus.encoders.weights import known
from paribus.errors import UserError
from paribus.objectives.base import ObjectiveConfig
from paribus.probes.linear import Grid
from paribus.study.abilities import Abilities
from paribus.study.answers import Answer
from paribus.study.control import (
    Control,
    Treatment,
    arm_confounds,
    arm_views,
    depart,
    one_sentence,
)
from paribus.study.corpora import AnyCorpus, Corpus, corpus_of
from paribus.study.downstream import Instruct
from paribus.study.evaluate import Compare, Embedding, Extract, Histogram
from paribus.study.judged import Judged, judged_of
from paribus.study.labelled import Photographs
from paribus.study.naming import ZeroShot
from paribus.study.probing import Probe
from paribus.study.reading import read_content
from paribus.study.recipe import VisionLanguageConfig
from paribus.study.seeing import AnyLooker
from paribus.study.stage import AnyStage
from paribus.study.stages import AnyEncoder, Pretrain, Untrained, published_encoder
from paribus.study.stimuli import Sizes, Stimuli
from paribus.study.teaching import Entry, Seer, Teaching, departed
from paribus.study.texts import text_stage
from paribus.train.optim import check_rates
from paribus.types import Config, Confound

Baseline = Literal["untrained", "colour-histogram"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
Measured = Literal["probes", "zeroshot", "embedding", "disagreement", "abilities", "vqa"]


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
    naming: ZeroShot | None
    embedding: Embedding | None
    answers: tuple[Answer, ...]
    abilities: Abilities | None = None
    judged: tuple[Judged, ...] = ()

    def ends(self) -> list[AnyStage]:
        """All of them."""
        single = (self.probe, self.naming, self.embedding, self.abilities)
        judges = (one.stage for one in self.judged)
        return [*(stage for stage in single if stage is not None), *self.answers, *judges]


class Study(Config):
    """What a study file says."""

    hypothesis: str = Field(min_length=1)
    expect: Expect | None = None
    control: Control
    arms: dict[str, Treatment] = Field({}, description="what is pre-trained")
    baselines: tuple[Baseline, ...] = ()
    published: dict[str, Entry] = Field({}, description="encoders from elsewhere that become eyes too")
    vlms: dict[str, Seer] = Field({}, description="models that see, besides one an arm")
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    measure: tuple[Measured, ...] = ("probes", "zeroshot", "embedding", "disagreement", "vqa")
    reference: str | None = Field(
        None, description="the arm that the others are compared with; None: every two arms are"
    )
    margin: float = Field(0.03, gt=0, description="equivalence margin for 'similar accuracy'")
    grid: Grid = Grid()
    stimuli: Sizes = Sizes()
    datasets: dict[str, Photographs] = Field(
        {}, description="labelled datasets that all encoders are read on"
    )

    @model_validator(mode="after")
    def _someone(self) -> "Study":
        if not self.arms and not self.published:
            raise ValueError("arms and published are empty: name at least one encoder")
        return self

    @property
    def corpus(self) -> AnyCorpus:
        """The data of all arms."""
        return corpus_of(self.control.data.source)

    @property
    def measured_on(self) -> Corpus:
        """The corpus that every measure is taken on.

        Raises:
            UserError: the arms train on data of one's own, and no such corpus is named.
        """
        named = self.control.measured_on
        if named is not None:
            return Corpus(source=named)
        if isinstance(self.corpus, Corpus):
            return self.corpus
        raise UserError(
            "control.measured_on: the measures need factors that are known; name the built-in corpus, "
            "e.g. {kind: glyphs, size: 224}, or set measure: []."
        )

    def resolve(self, seed: int) -> dict[str, Arm]:
        """All arms under one seed; they differ from the control by treatment and confounds only."""
        arms: dict[str, Arm] = {}
        for name in self._in_order():
            arms[name] = self._arm(name, self.arms[name], seed, arms)
        return {name: arms[name] for name in self.arms}

    def _in_order(self) -> list[str]:
        """Names of arms, those that others begin with first.

        Raises:
            UserError: an arm follows one that is not there, or itself.
        """
        found: list[str] = []
        for name in self.arms:
            chain = [name]
            while (below := self.arms[chain[-1]].after) is not None:
                if below not in self.arms:
                    raise UserError(
                        f"arms.{chain[-1]}.after: there is no arm {below!r}; "
                        f"there are {', '.join(self.arms)}."
                    )
                if below in chain:
                    raise UserError(f"arms.{chain[-1]}.after: {below} would begin with its own result.")
                chain.append(below)
            found += [each for each in reversed(chain) if each not in found]
        return found

    def _arm(self, name: str, treatment: Treatment, seed: int, done: dict[str, Arm]) -> Arm:
        control, objective = self.control, treatment.objective
        confounds = arm_confounds(treatment, control)
        captions = treatment.captions or control.data.captions
        text = text_stage(
            objective.tower(), self.corpus, captions, control.data.captions, control.data.vocabulary
        )
        settings = {
            "recipe": control.recipe.model_dump(mode="json"),
            "budget": control.budget.model_dump(mode="json"),
            "encoder": control.encoder.model_dump(mode="json"),
            "views": [view.model_dump(mode="json") for view in arm_views(objective, control)],
        }
        try:
            encoder = Pretrain(
                corpus=self.corpus,
                captions=captions,
                text=text,
                objective=objective,
                after=None if treatment.after is None else done[treatment.after].encoder,
                precision=control.precision,
                seed=seed,
                **depart(settings, confounds, name),
            )
        except ValidationError as error:
            raise UserError(one_sentence(error, f"arms.{name}.confounds")) from error
        return Arm(name, seed, treatment.because, encoder, confounds)

    def at_equal_compute(self, arms: dict[str, Arm]) -> dict[str, Arm]:
        """At level ``compute``, dearer arms see fewer samples, so that all spend the cheapest arm's FLOPs.

        The cheapest is sought among arms of the control's architecture: one of another is no yardstick for
        what supervision costs, and keeps its samples if it is cheaper. An arm that begins with another's
        encoder is no competitor for the same budget: it keeps them too.
        """
        if self.control.level != "compute" or not arms:
            return arms
        flops = {name: arm.encoder.flops() for name, arm in arms.items() if arm.encoder.after is None}
        alike = [name for name in flops if arms[name].encoder.encoder == self.control.encoder]
        least = min(flops[name] for name in alike or flops)
        out: dict[str, Arm] = {}
        for name in self._in_order():
            follows = self.arms[name].after
            if follows is None:
                out[name] = _cut(arms[name], least / flops[name], least)
            else:
                encoder = arms[name].encoder.changed(after=out[follows].encoder)
                out[name] = arms[name]._replace(encoder=encoder)
        return {name: out[name] for name in arms}

    def all_arms(self) -> list[Arm]:
        """Every arm under every seed."""
        return [arm for seed in self.seeds for arm in self.at_equal_compute(self.resolve(seed)).values()]

    def branches(self) -> list[Branch]:
        """What follows each arm, baseline, published encoder and further model that sees."""
        if not (self.measure or self.datasets):
            return []
        arms = self.all_arms()
        return [branch for seed in self.seeds for branch in self._of_seed(arms, seed)]

    def _of_seed(self, arms: list[Arm], seed: int) -> Iterator[Branch]:
        own: dict[str, Pretrain | Untrained]
        own = {arm.name: arm.encoder for arm in arms if arm.seed == seed}
        if "untrained" in self.baselines:
            own["untrained"] = Untrained(encoder=self.control.encoder, seed=seed)
        for name, encoder in own.items():
            yield self._branch(name, seed, encoder)
        if "colour-histogram" in self.baselines:
            yield self._branch("colour-histogram", seed, Histogram())
        others = {name: published_encoder(entry.weights) for name, entry in self.published.items()}
        sees = "vqa" in self.measure
        for name, other in others.items() if sees or self.datasets else ():
            answers = self.teaching(self.control.vlm).answers((other,), seed) if sees else ()
            yield Branch(name, seed, None, None, None, answers, None, self._judged(name, other, seed))
        yield from self._seers({**own, **others}, seed) if sees else ()

    def _branch(self, name: str, seed: int, encoder: Pretrain | Untrained | Histogram) -> Branch:
        features = Extract(encoder=encoder, corpus=self.measured_on, precision=self.control.precision)
        probe = Probe(features=features, grid=self.grid, seed=seed) if "probes" in self.measure else None
        wanted = {"embedding", "disagreement"} & set(self.measure)
        embedding = Embedding(features=features, seed=seed) if wanted else None
        sees = not isinstance(encoder, Histogram) and "vqa" in self.measure
        teaching = self.teaching(self.control.vlm)
        answers = teaching.answers((encoder,), seed) if sees else ()  # type: ignore[arg-type]
        naming = self._naming(encoder, seed)
        abilities = self.abilities(encoder, seed) if "abilities" in self.measure else None
        judged = self._judged(name, encoder, seed)
        return Branch(name, seed, probe, naming, embedding, answers, abilities, judged)

    def _judged(self, name: str, encoder: AnyLooker, seed: int) -> tuple[Judged, ...]:
        return judged_of(name, encoder, seed, self.datasets, self.control.precision)

    def abilities(self, encoder: AnyLooker, seed: int) -> Abilities:
        """An encoder put through the built-in tasks."""
        stimuli, precision = Stimuli(corpus=self.measured_on, sizes=self.stimuli), self.control.precision
        return Abilities(encoder=encoder, stimuli=stimuli, precision=precision, seed=seed)

    def _naming(self, encoder: Pretrain | Untrained | Histogram, seed: int) -> ZeroShot | None:
        reads = isinstance(encoder, Pretrain) and encoder.objective.reads_text
        if not reads or "zeroshot" not in self.measure:
            return None
        corpus, precision = self.measured_on, self.control.precision
        return ZeroShot(encoder=encoder, corpus=corpus, precision=precision, seed=seed)

    def teaching(self, vlm: VisionLanguageConfig) -> Teaching:
        """The control's downstream, or one that departs from it."""
        own = isinstance(self.corpus, Corpus)
        told = self.control.data.captions if own else "thing"
        return Teaching(vlm, self.measured_on, told, self.control.precision)

    def encoders(self, seed: int) -> dict[str, AnyLooker]:
        """Arms, baselines and published encoders by name."""
        found: dict[str, AnyLooker] = {arm.name: arm.encoder for arm in self.all_arms() if arm.seed == seed}
        made: dict[Baseline, AnyLooker] = {
            "untrained": Untrained(encoder=self.control.encoder, seed=seed),
            "colour-histogram": Histogram(),
        }
        found |= {name: made[name] for name in self.baselines}
        return found | {name: published_encoder(entry.weights) for name, entry in self.published.items()}

    def taught(self, encoder: AnyEncoder, seed: int) -> Instruct:
        """A language model that was taught to see with an encoder, as the control says."""
        return self.teaching(self.control.vlm).model((encoder,), seed)

    def _seers(self, encoders: dict[str, AnyEncoder], seed: int) -> list[Branch]:
        """The models that see besides the arms' own, out of all encoders by name."""
        found = []
        for name, seer in self.vlms.items():
            vlm = departed(self.control.vlm, seer.change, f"vlms.{name}.change")
            eyes = [encoders[each] for each in seer.encoders]
            found.append(Branch(name, seed, None, None, None, self.teaching(vlm).answers(eyes, seed)))
        return found

    def pairs(self) -> list[tuple[str, str]]:
        """The arms that are compared: every two, or each with the reference."""
        return self._pairs(tuple(self.arms))

    def seeing_pairs(self) -> list[tuple[str, str]]:
        """The same of all that answer questions: published encoders and further models are among them."""
        return self._pairs((*self.arms, *self.published, *self.vlms))

    def _pairs(self, names: Sequence[str]) -> list[tuple[str, str]]:
        if self.reference is None or self.reference not in names:
            return list(combinations(names, 2))
        return [(self.reference, name) for name in names if name != self.reference]

    def comparisons(self) -> list[tuple[str, str, Compare]]:
        """The compared arms' embeddings, seed by seed."""
        if "disagreement" not in self.measure:
            return []
        arms = {(branch.name, branch.seed): branch.embedding for branch in self.branches()}
        found = []
        for seed in self.seeds:
            for one, other in self.pairs():
                a, b = arms[one, seed], arms[other, seed]
                if a is not None and b is not None:
                    found.append((one, other, Compare(a=a, b=b, seed=seed)))
        return found

    def stages(self) -> list[AnyStage]:
        """The ends of the graph; what they need hangs below them."""
        ends: list[AnyStage] = [arm.encoder for arm in self.all_arms()]
        for branch in self.branches():
            ends += branch.ends()
        return ends + [compare for _, _, compare in self.comparisons()]


def _cut(arm: Arm, share: float, least: float) -> Arm:
    """The arm with fewer samples, in whole steps, and the confound that says so."""
    budget = arm.encoder.budget
    steps = max(1, round(budget.steps * share))
    if steps >= budget.steps:
        return arm
    fewer = budget.model_copy(update={"samples": steps * budget.batch})
    why = f"equal training FLOPs ({least:.3g}) instead of equal samples"
    confound = Confound(path="budget.samples", value=fewer.samples, why=why, source="level compute")
    return arm._replace(encoder=arm.encoder.changed(budget=fewer), confounds=(*arm.confounds, confound))


def load_study(path: Path, changes: tuple[str, ...] = ()) -> Study:
    """Read a study file, with ``path=value`` changes applied and validated like the file.

    Raises:
        UserError: the file or a change is not valid; one sentence says where.
    """
    content = read_content(path, changes)
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise UserError(one_sentence(error, str(path))) from error
    _check(study, path)
    return study


def _check(study: Study, path: Path) -> None:
    """What types cannot say."""
    policies = {"control.data.captions": study.control.data.captions}
    policies |= {f"arms.{name}.captions": arm.captions for name, arm in study.arms.items() if arm.captions}
    for place, policy in policies.items():
        try:
            study.corpus.check_captions(policy)
        except UserError as error:
            raise UserError(f"{path}: {place}: {error}") from error
    for place, given in (("seeds", study.seeds), ("baselines", study.baselines), ("measure", study.measure)):
        twice = [value for value in dict.fromkeys(given) if given.count(value) > 1]
        if twice:
            raise UserError(f"{path}: {place}: {twice[0]} stands there twice; write it once.")
    taken = set(BASELINES) & set(study.arms)
    if taken:
        raise UserError(f"{path}: arms.{taken.pop()}: this name belongs to a baseline; choose another.")
    told = {name: arm.captions or study.control.data.captions for name, arm in study.arms.items()}
    shuffled = [name for name, policy in told.items() if shuffles(policy)]
    if shuffled and len(set(told.values())) > 1 and study.reference not in (None, *shuffled):
        raise UserError(
            f"{path}: reference: {study.reference}: arms that are told different things are held against "
            f"shuffled captions: write {shuffled[0]}, or remove the key."
        )
    named = (*study.arms, *study.published)
    if study.reference is not None and study.reference not in named:
        raise UserError(
            f"{path}: reference: there is no arm {study.reference!r}; there are {', '.join(named)}."
        )
    try:
        _ = study.measured_on if study.measure else None
        arms = study.resolve(study.seeds[0])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for arm in arms.values():
        _check_arm(study.arms[arm.name], arm, study.control.data.vocabulary, path)
    _check_sight(study, arms, path)


def _check_sight(study: Study, arms: dict[str, Arm], path: Path) -> None:
    """What is asked of language models that see, and whether encoders can be their eyes."""
    if "vqa" in study.measure:
        study.teaching(study.control.vlm).check(f"{path}: control.vlm")
    if "vqa" not in study.measure:
        if study.published or study.vlms:
            raise UserError(f"{path}: published encoders and vlms answer questions: add vqa to measure.")
        return
    _check_names(study, path)
    try:
        branches = [branch for branch in study.branches() if branch.seed == study.seeds[0]]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for branch in branches:
        for answer in branch.answers[:1]:
            try:
                answer.vlm.foresee()
            except UserError as error:
                raise UserError(f"{path}: {_place(study, branch.name)}: {error}") from error


def _place(study: Study, name: str) -> str:
    """Where in the file an encoder or a model stands."""
    kinds = {"vlms": list(study.vlms), "published": list(study.published), "arms": list(study.arms)}
    return next((f"{kind}.{name}" for kind, names in kinds.items() if name in names), "control")


def _check_names(study: Study, path: Path) -> None:
    """That every model is made of encoders that are there, and has a name of its own."""
    known = [*study.arms, *(name for name in study.baselines if name == "untrained"), *study.published]
    for place, names in (("published", study.published), ("vlms", study.vlms)):
        others = {*study.arms, *BASELINES, *(study.published if place == "vlms" else ())}
        taken = [name for name in names if name in others]
        if taken:
            raise UserError(f"{path}: {place}.{taken[0]}: this name is taken; choose another.")
    for name, seer in study.vlms.items():
        absent = [each for each in seer.encoders if each not in known]
        if absent:
            raise UserError(
                f"{path}: vlms.{name}.encoders: there is no {absent[0]!r}; there are {', '.join(known)}."
            )
        vlm = departed(study.control.vlm, seer.change, f"{path}: vlms.{name}.change")
        study.teaching(vlm).check(f"{path}: vlms.{name}")


def _check_vocabulary(objective: ObjectiveConfig, vocabulary: int, where: str) -> None:
    """One tokenizer is trained for all arms: a tower that says another size would not get it."""
    tower = objective.tower()
    said = getattr(tower, "vocabulary", vocabulary)
    if tower is not None and "vocabulary" in tower.model_fields_set and said != vocabulary:
        raise UserError(
            f"{where}.objective: the text tower's vocabulary is {said}, but one of {vocabulary} is trained "
            "for all arms: remove the key, or change control.data.vocabulary."
        )


def _check_arm(treatment: Treatment, arm: Arm, vocabulary: int, path: Path) -> None:
    where, encoder, objective = f"{path}: arms.{arm.name}", arm.encoder.encoder, arm.encoder.objective
    if arm.encoder.budget.batch < objective.least_batch:
        raise UserError(
            f"{where}: a batch of {arm.encoder.budget.batch} has nothing to contrast with: "
            f"set control.budget.batch to at least {objective.least_batch}."
        )
    if arm.encoder.after is not None and arm.encoder.after.encoder != encoder:
        raise UserError(
            f"{where}.after: {treatment.after} has another architecture: an arm that begins with its encoder "
            "must have the same."
        )
    if not objective.trains_encoder and treatment.after is None:
        raise UserError(
            f"{where}: this objective trains no encoder: say with after: which arm's encoder it begins with."
        )
    _check_vocabulary(objective, vocabulary, where)
    if treatment.captions and not objective.reads_text:
        raise UserError(f"{where}.captions: this objective reads no captions: remove the key.")
    absent = set(getattr(objective, "reads", ())) - {view.name for view in arm.encoder.views}
    if absent:
        raise UserError(
            f"{where}.objective.reads: there is no view {', '.join(sorted(absent))}: only a hybrid has "
            "views of other parts; remove the key."
        )
    weights = getattr(objective.tower(), "weights", None)
    there = weights is not None and (
        weights in known() or (Path(weights).expanduser() / "config.json").is_file()
    )  # a finished study is audited without its weights
    if there or (weights is None and arm.encoder.recipe.rates):
        try:
            check_rates(arm.encoder.blank(), arm.encoder.recipe)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    for view in arm.encoder.views:
        size = view.size * encoder.image_size
        if round(size) % encoder.patch:
            raise UserError(
                f"{where}: view {view.name} is {size:g} pixels wide, which is not a "
                f"multiple of the patch {encoder.patch}: change its size."
            )
