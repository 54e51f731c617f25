"""What is read, what is kept, and what is refused."""

import json
import sqlite3
import threading

import pytest

from paribus.annotate.store import LABELS, Store, read_pairs
from paribus.errors import UserError

from . import build, rewrite, rows_of

WEIRD = (
    "a \"quoted\" 'name'.png",
    "two\nlines.jpg",
    "<script>alert(1)<!script>.png",
    "ünï—😀.jpg",
    "%2e%2e&#x2f;.png",
)


@pytest.fixture
def run(tmp_path):
    return build(tmp_path / "run")


def test_pairs_are_what_the_file_says(run):
    pairs = read_pairs(run)
    assert [
        {"id": p.id, "left": p.left.path.name, "right": p.right.path.name, "alike": p.alike, "apart": p.apart}
        for p in pairs
    ] == rows_of(run)
    assert {(p.left.kind, p.right.kind) for p in pairs} == {("image/png", "image/jpeg")}
    assert len({p.digest for p in pairs}) == 6


def test_any_file_name_will_do(tmp_path):
    pairs = read_pairs(build(tmp_path / "run", names=WEIRD))
    assert [p.left.path.name for p in pairs[:3]] == list(WEIRD[::2])


def damaged(run, what):
    """A run of which one thing is wrong."""
    path, rows = run / "pairs" / "pairs.json", rows_of(run)
    match what:
        case "no file":
            path.unlink()
        case "cut":
            path.write_bytes(path.read_bytes()[:-9])
        case "no text":
            path.write_bytes(b"\xff\xfe\x00")
        case "deep":
            path.write_text("[" * 100_000)
        case "a list":
            path.write_text(json.dumps(rows))
        case "no rows":
            rewrite(run, [])
        case "row is text":
            rewrite(run, ["x", *rows])
        case "no field":
            rewrite(run, [{k: v for k, v in rows[0].items() if k != "apart"}])
        case "number":
            rewrite(run, [{**rows[0], "id": 3}])
        case "empty":
            rewrite(run, [{**rows[0], "alike": ""}])
        case "half a character":
            rewrite(run, [{**rows[0], "id": "\ud800"}])
        case "same id":
            rewrite(run, [*rows, {**rows[1], "id": rows[0]["id"]}])
        case "three encoders":
            rewrite(run, [*rows, {**rows[1], "id": "new", "alike": "third"}])
        case "alike and apart":
            rewrite(run, [{**rows[0], "apart": rows[0]["alike"]}])
        case "missing picture":
            (run / "pairs" / rows[2]["right"]).unlink()
        case "picture is a folder":
            (run / "pairs" / rows[2]["right"]).unlink()
            (run / "pairs" / rows[2]["right"]).mkdir()
        case "cut png":
            file = run / "pairs" / rows[2]["left"]
            file.write_bytes(file.read_bytes()[:2000])
        case "cut jpg":
            file = run / "pairs" / rows[2]["right"]
            file.write_bytes(file.read_bytes()[:800])
        case "svg":
            (run / "pairs" / rows[2]["left"]).write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        case _:
            rewrite(run, [{**rows[0], "left": what}])


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no file", "There is no pairs/pairs.json in"),
        ("cut", "is damaged"),
        ("no text", "is damaged"),
        ("deep", "is damaged"),
        ("a list", "is damaged"),
        ("no rows", "There are no pairs"),
        ("row is text", "is damaged"),
        ("no field", "is damaged"),
        ("number", "is damaged"),
        ("empty", "is damaged"),
        ("half a character", "is damaged"),
        ("same id", "have the id 'clip-like-000'"),
        ("three encoders", "name 3 encoders"),
        ("alike and apart", "both alike and apart"),
        ("missing picture", "The picture 'clip-like-2-right.jpg' of pair 'clip-like-002' is missing"),
        ("picture is a folder", "is missing"),
        ("cut png", "is no whole PNG, JPEG, WebP or GIF"),
        ("cut jpg", "is no whole PNG, JPEG, WebP or GIF"),
        ("svg", "is no whole PNG, JPEG, WebP or GIF"),
        ("../secret.png", "without folders"),
        ("/etc/passwd", "without folders"),
        ("..", "without folders"),
        ("a\\b.png", "without folders"),
        ("a\0.png", "without folders"),
        ("x" * 300 + ".png", "is missing"),
    ],
)  # fmt: skip
def test_bad_pairs_are_refused_in_one_sentence(run, what, words):
    damaged(run, what)
    with pytest.raises(UserError) as refusal:
        read_pairs(run)
    said = str(refusal.value)
    assert words in said
    assert said.endswith(".") and "\n" not in said and ": " in said


def test_a_file_in_place_of_the_run(tmp_path):
    (tmp_path / "run").write_text("no folder")
    with pytest.raises(UserError, match=r"There is no pairs/pairs\.json"):
        read_pairs(tmp_path / "run")


def test_labels_are_kept_and_changed(run):
    pairs = read_pairs(run)
    store = Store(run, pairs)
    store.put("ada", pairs[0].id, "semantic", 1.5)
    store.put("ada", pairs[1].id, "both", 2.5)
    store.put("ben", pairs[0].id, "neither", 0.5)
    store.put("ada", pairs[0].id, "perceptual", 3.0)
    store.close()
    again = Store(run, pairs)
    assert again.given("ada") == {pairs[0].id: "perceptual", pairs[1].id: "both"}
    assert again.given("nobody") == {}
    assert [row[:4] for row in again.all()] == [
        ("ada", pairs[0].id, "perceptual", 3.0),
        ("ada", pairs[1].id, "both", 2.5),
        ("ben", pairs[0].id, "neither", 0.5),
    ]
    assert all(row.time.endswith("+00:00") for row in again.all())
    again.close()
    with sqlite3.connect(run / "labels.sqlite") as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    for pair, label in (("none", "both"), (pairs[0].id, "similar")):
        with pytest.raises(UserError, match="There is no pair"):
            Store(run, pairs).put("ada", pair, label, 1.0)


def test_many_begin_and_write_at_once(run):
    pairs = read_pairs(run)
    start = threading.Barrier(8)
    faults = []

    def work(name):
        try:
            start.wait()
            store = Store(run, pairs)  # each its own connection, as processes have
            for pair in pairs:
                for label in LABELS:
                    store.put(name, pair.id, label, 1.0)
            store.close()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(f"person {k}",)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    rows = Store(run, pairs).all()
    assert len(rows) == 8 * 6
    assert {row.label for row in rows} == {LABELS[-1]}


def test_what_is_no_database_of_labels_is_refused(run):
    pairs, path = read_pairs(run), run / "labels.sqlite"
    path.write_text("annotator,pair,label\n" * 200)
    with pytest.raises(UserError, match=r"is no whole database of labels .*: move it away\.$"):
        Store(run, pairs)
    assert path.read_text().startswith("annotator")
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE labels (x)")
    with pytest.raises(UserError, match="is no database of labels: move it away"):
        Store(run, pairs)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="Cannot use"):
        Store(run, pairs)


def test_a_damaged_database_is_refused(run):
    pairs, path = read_pairs(run), run / "labels.sqlite"
    store = Store(run, pairs)
    for person in range(100):
        for pair in pairs:
            store.put(f"person {person}", pair.id, "both", 1.0)
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(UserError, match="is no whole database of labels"):
        Store(run, pairs)


def test_an_empty_file_is_a_new_one(run):
    (run / "labels.sqlite").touch()
    store = Store(run, read_pairs(run))
    assert store.all() == []


@pytest.mark.parametrize("change", ["pixels", "direction", "gone"])
def test_labels_of_pairs_that_changed_are_refused(run, change):
    pairs, rows = read_pairs(run), rows_of(run)
    store = Store(run, pairs)
    store.put("ada", pairs[0].id, "semantic", 1.0)
    store.close()
    if change == "pixels":
        (run / "pairs" / rows[0]["left"]).write_bytes((run / "pairs" / rows[1]["left"]).read_bytes())
    elif change == "direction":
        rewrite(run, [{**rows[0], "alike": rows[0]["apart"], "apart": rows[0]["alike"]}, *rows[1:]])
    else:
        rewrite(run, rows[1:])
    with pytest.raises(UserError, match=r"are of other pairs \(pair 'clip-like-000' has changed\)"):
        Store(run, read_pairs(run))


def test_pairs_that_nobody_labelled_may_change(run):
    pairs, rows = read_pairs(run), rows_of(run)
    store = Store(run, pairs)
    store.put("ada", pairs[0].id, "semantic", 1.0)
    store.close()
    rewrite(run, [*rows[:4], {**rows[4], "id": "another"}])
    assert Store(run, read_pairs(run)).given("ada") == {pairs[0].id: "semantic"}
