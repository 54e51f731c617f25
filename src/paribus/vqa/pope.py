"""POPE: is this thing in the picture? Half of the things are, half are not (arXiv 2305.10355).

Published in two forms. AoiDragon/POPE, which LLaVA reads too: ``coco_pope_adversarial.json``, ``_popular``
and ``_random``, a JSON object a line with question_id, image, text, label; pictures are COCO's val2014. And
lmms-lab/POPE: ``data/test-*.parquet`` (all three) and ``Full/adversarial-*.parquet`` and so on, columns
question_id, question, answer, image_source, image and category.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from paribus.data.tables import Row, rows
from paribus.vqa.benchmark import Question
from paribus.vqa.records import Pictures, Reader, home, matching

CATEGORIES = ("adversarial", "popular", "random")
"""How the things that are not there were chosen: by what is often beside the others, often at all, anyhow."""

_SHARDS = "*test-*.parquet"


class POPEConfig(Reader):
    """All of POPE that is found."""

    kind: Literal["pope"] = "pope"
    path: str = Field("lmms-lab/POPE", min_length=1, description="a file, a folder, or a data set of the hub")
    images: str = Field("", description="the folder of COCO's pictures; if empty, the questions' own")

    def read(self) -> Iterator[Question]:
        """The questions, file by file.

        Raises:
            UserError: a file is missing or cannot be read, or a row is not as published.
        """
        seen: Counter[str] = Counter()
        for file in self.tables():
            pictures = Pictures(Path(self.images).expanduser() if self.images else file.parent)
            for row in rows(file):
                category = _category(row)
                number = seen[category]
                seen[category] += 1
                yield _question(seen.total() - 1, f"pope-{category}-{number:04d}", category, row, pictures)

    def tables(self) -> list[Path]:
        """A file a category, else all that may be.

        Raises:
            UserError: there is none.
        """
        found = matching(home(self.path, [_SHARDS]), _SHARDS, "*.parquet", "*.json", "*.jsonl")
        return [file for file in found if _named(file)] or found


def _named(file: Path) -> str | None:
    """The category that a file's name ends in (JSON) or begins with (parquet)."""
    return next((name for name in CATEGORIES if file.stem.endswith(name) or file.stem.startswith(name)), None)


def _category(row: Row) -> str:
    if "category" in row.cells:
        return row.one_of("category", CATEGORIES)
    named = _named(row.file)
    if named is None:
        raise row.fault(
            "category",
            "there is none, and the file's name has none",
            f"name it after one of {', '.join(CATEGORIES)}",
        )
    return named


def _question(place: int, key: str, category: str, row: Row, pictures: Pictures) -> Question:
    return Question(
        index=place,
        question=row.text(row.which("question", "text")).strip(),
        options=("Yes", "No"),
        answer=row.yes_or_no(row.which("label", "answer")),
        category="POPE",
        image=pictures.of(row, "image"),
        source=category,
        key=key,
        lettered=False,
    )
