"""Benchmarks in their publishers' layouts, small, with real photographs.

Each maker takes a folder and returns the config that reads what it wrote there. A new benchmark has a line in
``LAYOUTS``, so that the contract test reads it too.
"""

import base64
import csv
import json
from functools import cache

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_sample_image

SOURCES = (
    "SEEDBench", "MMStar", "A-OKVQA", "VizWiz", "MMVet", "VQAv2", "OKVQA", "MMMU", "MathVista", "ScienceQA",
    "RealWorldQA", "GQA", "MathVision", "TextVQA", "OCRVQA", "AI2D", "ChartQA", "DocVQA", "InfoVQA",
    "TableVQABench",
)  # fmt: skip
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""Hugging Face's ``Image`` as it is in parquet."""


@cache
def photo(number):
    """A piece of a photograph, RGB."""
    rng = np.random.default_rng(number)
    whole = load_sample_image(("china.jpg", "flower.jpg")[number % 2])
    top, left = int(rng.integers(0, 380)), int(rng.integers(0, 590))
    return np.ascontiguousarray(whole[top : top + 30, left : left + 40])


def png(number):
    """The piece as PNG, which keeps every pixel."""
    return cv2.imencode(".png", photo(number)[..., ::-1])[1].tobytes()


def jpeg(number):
    """The piece as JPEG."""
    return cv2.imencode(".jpg", photo(number)[..., ::-1])[1].tobytes()


def write_parquet(path, rows, images=("image",)):
    """Rows as ``datasets`` uploads them: pictures are structs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {
        name: pa.array([row.get(name) for row in rows], IMAGE_TYPE if name in images else None)
        for name in names
    }
    pq.write_table(pa.table(columns), path)


def write_table(path, rows, separator=","):
    """Rows as pandas writes them: what is missing is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as handle:
        table = csv.DictWriter(handle, list(rows[0]), delimiter=separator, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def write_lines(path, rows):
    """A JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def vmcbench_rows(count, first=0):
    """Questions of all twenty sources in turn; "None" is an option like any other."""
    return [
        {
            "index": first + number,
            "question": f"What is shown in number {number}, 'or' \"not\"?",
            "A": f"cat {number}",
            "B": f"dog {number}",
            "C": f"x, y {number}",
            "D": "None",
            "answer": "ABCD"[number % 4],
            "category": SOURCES[number % 20],
            "image": {"bytes": png(number % 7), "path": None},
        }
        for number in range(count)
    ]


def as_tsv(rows):
    """VLMEvalKit's form: pictures in base64, and the second of two equal ones as the index of the first."""
    seen, told = {}, []
    for row in rows:
        text = base64.b64encode(row["image"]["bytes"]).decode()
        lender = seen.setdefault(text, row["index"])
        told.append({**row, "image": text if lender == row["index"] else lender})
    return told


def vmcbench(folder):
    write_parquet(folder / "data" / "dev-00000-of-00001.parquet", vmcbench_rows(40))
    return {"kind": "vmcbench", "path": str(folder), "partial": True}


def mmvp_rows(pairs):
    return [
        {
            "lndex": number,
            "Question": f"Is thing {(number + 1) // 2} open (wide) or closed?",
            "Options": "(a) Open (or so) (b) Closed",
            "Correct Answer": "(a)" if number % 2 else "(b)",
        }
        for number in range(1, 2 * pairs + 1)
    ]


def mmvp(folder, pairs=4):
    write_table(folder / "Questions.csv", mmvp_rows(pairs))
    (folder / "MMVP Images").mkdir()
    for number in range(1, 2 * pairs + 1):
        (folder / "MMVP Images" / f"{number}.jpg").write_bytes(jpeg(number))
    return {"kind": "mmvp", "path": str(folder), "partial": True}


def naturalbench_rows(groups):
    texts = (
        ("yes_no", "Is it raining?", "Is it dry?", "Yes", "No"),
        ("multiple_choice", "Where?\nOption: A:To the right; B:To the left;",
         "How? Option: A: By hand. B: By machine.", "A", "B"),
        ("multiple_choice", "What follows? A. Nothing happens. B. Something moves.",
         "Pick the first, or else the second.", "A", "B"),
    )  # fmt: skip
    rows = []
    for number in range(groups):
        kind, first, second, one, two = texts[number % 3]
        rows.append(
            {
                "Index": number,
                "Image_0": {"bytes": png(2 * number), "path": "0.png"},
                "Image_1": {"bytes": png(2 * number + 1), "path": "1.png"},
                "Question_0": first,
                "Image_0_Question_0": one,
                "Image_1_Question_0": two,
                "Question_1": second,
                "Image_0_Question_1": two,
                "Image_1_Question_1": one,
                "Question_Type": kind,
                "Source": ("Flickr30K", "DOCCI")[number % 2],
            }
        )
    return rows


def naturalbench(folder):
    rows = naturalbench_rows(6)
    for shard in range(3):
        path = folder / "data" / f"train-0000{shard}-of-00003.parquet"
        write_parquet(path, rows[2 * shard : 2 * shard + 2], ("Image_0", "Image_1"))
    return {"kind": "naturalbench", "path": str(folder), "partial": True}


def pope_lines(count):
    return [
        {
            "question_id": number,
            "image": f"COCO_val2014_{number // 6:012d}.jpg",
            "image_id": number // 6,
            "text": f"Is there a chair number {number} in the image?",
            "label": ("yes", "no")[number % 2],
        }
        for number in range(count)
    ]


def pope(folder):
    """AoiDragon's files as LLaVA lays them out, beside one that is no questions."""
    for category in ("random", "popular", "adversarial"):
        write_lines(folder / "coco" / f"coco_pope_{category}.json", pope_lines(12))
    write_lines(folder / "coco" / "coco_ground_truth_objects.json", [{"image": "x", "objects": []}])
    (folder / "val2014").mkdir()
    for number in range(2):
        (folder / "val2014" / f"COCO_val2014_{number:012d}.jpg").write_bytes(jpeg(number))
    return {"kind": "pope", "path": str(folder / "coco"), "images": str(folder / "val2014")}


def pope_rows(count):
    """lmms-lab's."""
    return [
        {
            "id": str(number),
            "question_id": str(number + 1),
            "question": f"Is there a chair number {number} in the image?",
            "answer": ("yes", "no")[number % 2],
            "image_source": "COCO_val2014_000000000000",
            "image": {"bytes": jpeg(number % 3), "path": None},
            "category": ("adversarial", "popular", "random")[number % 3],
        }
        for number in range(count)
    ]


def choice(folder):
    write_table(folder / "MMBench.tsv", as_tsv(vmcbench_rows(9)), "\t")
    return {"kind": "choice", "path": str(folder), "category": "category"}


LAYOUTS = {
    "vmcbench": vmcbench,
    "mmvp": mmvp,
    "naturalbench": naturalbench,
    "pope": pope,
    "choice": choice,
}
