"""The stages that make conversations ready: what a language model with eyes is taught from, and asked."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from paribus.data.conversations import Conversations, ConversationsConfig, MixMeta, build_mix, read_meta
from paribus.data.llava import find_files, local_home
from paribus.files import remove
from paribus.study.corpora import AnyCorpus, Corpus, fetched_art
from paribus.study.sources import beside, differing, rewritten, stamped
from paribus.study.stage import Stage
from paribus.types import Config, Runtime, Source, Stamp
from paribus.vqa import glyphqa, store
from paribus.vqa.benchmark import Asked, Benchmark
from paribus.vqa.questions import Split
from paribus.vqa.records import opened
from paribus.vqa.registry import AnyBenchmark


class QuestionsRecord(Config):
    """What was made."""

    train: int
    test: int
    digest: str


class Questions(Stage[QuestionsRecord]):
    """The built-in benchmark's questions and pictures."""

    name: ClassVar[str] = "questions"
    kind: Literal["glyphqa"] = "glyphqa"
    version: int = 2
    corpus: Corpus
    config: glyphqa.GlyphQAConfig

    def compute(self, folder: Path, runtime: Runtime) -> QuestionsRecord:
        """Make them all."""
        corpus = self.corpus.folder(runtime) / "glyphs"
        glyphqa.build(self.config, corpus, fetched_art(runtime), folder / "glyphqa", runtime.workers)
        test = self.open(runtime, "test")
        return QuestionsRecord(train=len(self.open(runtime, "train")), test=len(test), digest=test.digest)

    def open(self, runtime: Runtime, split: Split) -> glyphqa.GlyphQA:
        """One split."""
        return glyphqa.GlyphQA(self.folder(runtime) / "glyphqa", split)

    def test(self, runtime: Runtime) -> Benchmark:
        """What is asked."""
        return self.open(runtime, "test")

    @property
    def title(self) -> str:
        """The benchmark's name."""
        return self.kind

    @property
    def asked(self) -> int:
        """About how many questions."""
        return self.config.test


class PublishedRecord(Config):
    """What was read."""

    questions: int
    digest: str
    files: dict[str, Stamp] = Field(description="that they were read from")
    pictures: dict[str, Stamp] = Field(description="that these files name, where any lie beside them")


class Published(Stage[PublishedRecord]):
    """A benchmark read from its publisher's files, and kept as questions."""

    name: ClassVar[str] = "benchmark"
    kind: Literal["published"] = "published"
    version: int = 3
    config: AnyBenchmark

    def compute(self, folder: Path, runtime: Runtime) -> PublishedRecord:
        """Read and keep them all."""
        files, about = stamped(self.config.tables()), {"config": self.config.model_dump(mode="json")}
        remove(folder / "questions")  # what a kill left of other files would be taken for somebody's
        with opened() as pictures:
            store.write(self.config.read(), folder / "questions", about)
        kept = self.test(runtime)
        return PublishedRecord(
            questions=len(kept),
            digest=kept.digest,
            files=files,
            pictures=beside(self.config.tables(), pictures),
        )

    def outdated(self, runtime: Runtime) -> str:
        """Of its files, where they are at hand."""
        record = self.cached(runtime)
        if record is None:
            return ""
        return differing(record.files, self._at_hand) or rewritten(record.pictures, self._at_hand)

    def _at_hand(self) -> Sequence[Path]:
        """Nothing is fetched."""
        return self.config.tables() if Path(self.config.path).expanduser().exists() else ()

    def test(self, runtime: Runtime) -> Benchmark:
        """What is asked."""
        return store.Stored(self.folder(runtime) / "questions")

    def label(self) -> str:
        """Names the benchmark."""
        return f"{self.name}-{self.title}"

    @property
    def title(self) -> str:
        """The benchmark's name, and which split of it."""
        name = str(getattr(self.config, "name", self.config.kind))
        split = getattr(self.config, "split", None)
        return f"{name}-{split}" if split else name

    @property
    def asked(self) -> int:
        """About how many questions; where nothing is known, VMCBench's."""
        return 9018


AnyQuestions = Annotated[Questions | Published, Field(discriminator="kind")]


class TalkRecord(Config):
    """What there is to learn from."""

    samples: int
    digest: str


class Captions(Stage[TalkRecord]):
    """A corpus' pictures and captions, as conversations."""

    name: ClassVar[str] = "captions"
    kind: Literal["captions"] = "captions"
    version: int = 1
    corpus: AnyCorpus
    captions: str

    def compute(self, folder: Path, runtime: Runtime) -> TalkRecord:
        """Nothing to make."""
        del folder
        source = self.open(runtime)
        return TalkRecord(samples=len(source), digest=source.digest)

    def open(self, runtime: Runtime) -> Source:
        """The corpus: a caption is a conversation."""
        return self.corpus.open(runtime, captions=self.captions)

    def expected(self) -> int:
        """About how many pictures."""
        return self.corpus.expected()


class Asking(Stage[TalkRecord]):
    """The training half of the built-in questions."""

    name: ClassVar[str] = "asking"
    kind: Literal["asking"] = "asking"
    version: int = 1
    questions: Questions
    template: str

    def compute(self, folder: Path, runtime: Runtime) -> TalkRecord:
        """Nothing to make."""
        del folder
        source = self.open(runtime)
        return TalkRecord(samples=len(source), digest=hashlib.sha256(source.digest.encode()).hexdigest())

    def open(self, runtime: Runtime) -> Source:
        """Questions and their answers."""
        return Asked(self.questions.open(runtime, "train"), self.template)

    def expected(self) -> int:
        """About how many pictures."""
        return self.questions.config.train


class MixRecord(TalkRecord):
    """What could be read, and what was lost."""

    pictured: int
    lost: dict[str, dict[str, int]] = Field(description="source -> fault -> records")
    files: dict[str, Stamp] = Field(description="of records; pictures are compared when they are shown")


class Mix(Stage[MixRecord]):
    """Conversations in LLaVA's published layout."""

    name: ClassVar[str] = "mix"
    kind: Literal["mix"] = "mix"
    version: int = 3
    config: ConversationsConfig

    def compute(self, folder: Path, runtime: Runtime) -> MixRecord:
        """Read, check and index every record; the pictures stay where they are."""
        remove(folder / "mix")  # of other files, and nothing else would say so
        files = stamped(find_files(self.config.file).paths)
        meta = build_mix(self.config, folder / "mix", runtime.workers)
        return MixRecord(
            samples=meta.samples,
            digest=meta.digest,
            pictured=meta.pictured,
            lost=meta.losses,
            files=files,
        )

    def outdated(self, runtime: Runtime) -> str:
        """Of its files of records, where they are at hand."""
        record = self.cached(runtime)
        return "" if record is None else differing(record.files, self._at_hand)

    def _at_hand(self) -> Sequence[Path]:
        """Nothing is fetched."""
        return find_files(self.config.file).paths if Path(self.config.file).expanduser().exists() else ()

    def meta(self, runtime: Runtime) -> MixMeta | None:
        """What it holds and what was left out, as it was last read; also if it is not the declared number."""
        folder = self.folder(runtime) / "mix"
        return read_meta(folder) if folder.exists() else None

    def open(self, runtime: Runtime) -> Source:
        """The conversations; the files of records are not needed any more."""
        images = self.config.images
        home = Path(images).expanduser() if images else local_home(self.config.file)
        return Conversations(self.folder(runtime) / "mix", home)

    def expected(self) -> int:
        """The declared number of records."""
        return self.config.samples or 0


AnyTalks = Annotated[Captions | Asking | Mix, Field(discriminator="kind")]
