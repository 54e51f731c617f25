"""VMCBench: 9,018 four-option questions made from twenty data sets (arXiv 2501.03225).

Published as suyc21/VMCBench: ``data/dev-00000-of-00001.parquet`` (1,000 questions with answers) and the two
shards ``data/test-*.parquet`` (8,018), columns index, question, A, B, C, D, answer, category, image; and the
same as ``data/tsv/VMCBench_DEV.tsv`` and ``VMCBench_TEST.tsv`` with pictures in base64. There ``category``
names the data set that a question is from. How many each has is not published, only that there are twenty.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from paribus.data.tables import Row, all_rows
from paribus.errors import UserError
from paribus.vqa.benchmark import Question
from paribus.vqa.handin import write_answers
from paribus.vqa.records import Pictures, Reader, home, lenders, letter, matching

SOURCES: dict[str, tuple[str, ...]] = {
    "General": ("SEEDBench", "MMStar", "A-OKVQA", "VizWiz", "MMVet", "VQAv2", "OKVQA"),
    "Reasoning": ("MMMU", "MathVista", "ScienceQA", "RealWorldQA", "GQA", "MathVision"),
    "OCR": ("TextVQA", "OCRVQA"),
    "Doc & Chart": ("AI2D", "ChartQA", "DocVQA", "InfoVQA", "TableVQABench"),
}
"""Category -> its sources, as lmms-eval and VLMEvalKit group them (``vmcbench.py``, ``utils.py``)."""

COUNTS = {"dev": 1_000, "test": 8_018}
_CATEGORY = {source: category for category, sources in SOURCES.items() for source in sources}
_OPTIONS = ("A", "B", "C", "D")


class VMCBenchConfig(Reader):
    """One split of VMCBench."""

    kind: Literal["vmcbench"] = "vmcbench"
    split: Literal["dev", "test"] = Field("dev", description="the test split has no answers")
    partial: bool = Field(False, description="whether a part of the split will do")

    def tables(self) -> list[Path]:
        """The split's files.

        Raises:
            UserError: there is none.
        """
        parquet = f"*{self.split}-*.parquet"
        return matching(home(self.path, [parquet]), parquet, f"*VMCBench_{self.split.upper()}.tsv")

    def read(self) -> Iterator[Question]:
        """The split's questions in the order of its files.

        Raises:
            UserError: a file is missing or cannot be read, a row is not as published, or some are missing.
        """
        files = self.tables()
        if not self.partial:
            self._check_whole(files)
        pictures = Pictures(files[0].parent, lenders(files, "index", "image"))
        for place, row in enumerate(all_rows(files)):
            yield self._question(place, row, pictures)

    def _check_whole(self, files: Sequence[Path]) -> None:
        # Only names are read here: what is missing should be told before a thousand pictures are decoded.
        found = Counter(row.text("category") for row in all_rows(files, ("category",)))
        total, missing = found.total(), [source for source in _CATEGORY if source not in found]
        if total != COUNTS[self.split] or missing:
            lacking = f", none from {', '.join(missing)}" if missing else ""
            raise UserError(
                f"VMCBench's {self.split} has {COUNTS[self.split]:,} questions of {len(_CATEGORY)} sources, "
                f"{self.path} has {total:,}{lacking}: get the files again, or set partial: true for a part."
            )

    def _question(self, place: int, row: Row, pictures: Pictures) -> Question:
        source = row.one_of("category", tuple(_CATEGORY))
        return Question(
            index=place,
            question=row.text("question"),
            options=tuple(row.text(name) for name in _OPTIONS),
            answer=self._answer(row),
            category=_CATEGORY[source],
            image=pictures.of(row, "image"),
            source=source,
            key=f"vmcbench-{self.split}-{row.whole('index'):05d}",
        )

    def _answer(self, row: Row) -> str:
        if self.split == "test" and not row.text_or("answer", ""):
            return ""
        return letter(row, "answer", len(_OPTIONS))


def leaderboard(questions: Sequence[Question], letters: Sequence[str], path: Path) -> None:
    """Write the answers to the test split as a CSV for the leaderboard, or as JSON if the path says so.

    The authors score uploads in a Space, suyc21/Automated_Evaluation_for_VMCBench, and no description of the
    form that it takes was found. So this is the table that their own evaluations read (AutoConverter's
    ``eval_vmcbench.ipynb``, VLMEvalKit's ``image_mcq.py``): ``index`` as published, the question's columns,
    ``prediction``. Look at the Space's page before you upload it.

    Args:
        questions: of the test split, as ``VMCBenchConfig`` reads them.
        letters: a letter for each.
        path: the file to write, whole or not at all.

    Raises:
        UserError: a question is not VMCBench's, or has no letter of its own.
    """
    write_answers(questions, letters, path, _published_index)


def _published_index(question: Question) -> int:
    name, _, index = question.key.rpartition("-")
    if name != "vmcbench-test":
        raise UserError(
            f"Question {question.key} is not of VMCBench's test split: give those questions only."
        )
    return int(index)
