"""The download of pictures: good and bad ones on the loopback, the real img2dataset, and the index.

img2dataset lives in an environment of its own: where PARIBUS_IMG2DATASET says, on the path, or where
`make img2dataset` puts it.
"""

import hashlib
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from PIL import Image
from study import ROOT, begin, paribus

from data.test_shards import crop, saved, see_through, write_tar
from paribus.data import img2dataset as program_module
from paribus.data.download import PER_PICTURE, ahead, download, plan
from paribus.data.img2dataset import Home, Settings, check_alone, find_program, version_of
from paribus.data.outcome import (
    LOST,
    OTHER,
    Stats,
    compared,
    failures,
    is_passing,
    rate,
    read_stats,
    reason_of,
    tidy,
)
from paribus.data.shards import Shards, ShardsConfig, build_index
from paribus.data.uids import read_uids
from paribus.data.wanted import TOLD, count_rows, cut, even, fetch_metadata, find_metadata, read_wanted
from paribus.errors import UserError

OWN = ROOT / ".venv" / "img2dataset" / "bin" / "img2dataset"
PROGRAM = os.environ.get("PARIBUS_IMG2DATASET") or shutil.which("img2dataset") or shutil.which(str(OWN))
real = pytest.mark.skipif(PROGRAM is None, reason="img2dataset is not there: run `make img2dataset`")
SMALL = Settings(timeout=1, retries=1, processes=1, threads=8)


def uid(name):
    return hashlib.md5(name.encode()).hexdigest()


def digest(blob):
    return hashlib.sha256(blob).hexdigest()


def bomb(side):
    """A PNG that says it has so many pixels, in a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


GOOD = {
    "a.jpg": saved(crop(1, 90, 120), "JPEG", quality=95),
    "b.png": saved(crop(2), "PNG"),
    "c.webp": saved(crop(3), "WEBP"),
    "gray.jpg": saved(crop(4).convert("L"), "JPEG"),
    "alpha.png": saved(see_through(crop(5)), "PNG"),
    "large.jpg": saved(crop(6).resize((1600, 1000)), "JPEG"),
}
BAD = {
    "text.jpg": b"<html>no longer here</html>",
    "empty.jpg": b"",
    "bomb.png": bomb(40_000),
}
FAILURES = {
    "HTTP 404": 1,
    "HTTP 410": 1,
    "no picture, or a damaged one": 3,
    "timed out": 1,
    "opted out (X-Robots-Tag)": 1,
    "connection broken": 1,
    "no connection": 1,
}


class Pages(BaseHTTPRequestHandler):
    """Serves pictures by their names; a few names behave badly."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.server.asked[name] += 1
        time.sleep(self.server.delay)
        if name == "slow.jpg":
            self.server.ended.wait(8)
        blob = self.server.pictures.get(name)
        if blob is None:
            return self.send_error({"gone": 410, "busy": 503}.get(name[:4], 404))
        self.send_response(200)
        if name == "opted.jpg":
            self.send_header("X-Robots-Tag", "noai")
        self.send_header("Content-Length", str(len(blob) + 1000 * (name == "broken.jpg")))
        self.end_headers()
        try:
            self.wfile.write(blob)
        except OSError:  # the other side has given up
            self.close_connection = True
        return None


@contextmanager
def serving(pictures, delay=0.0):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.daemon_threads = True
    server.pictures, server.delay, server.asked, server.ended = pictures, delay, Counter(), threading.Event()
    server.at = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def write_metadata(folder, rows, columns=("url", "text", "sha256", "uid")):
    """Rows of (url, text, sha256, uid) as a parquet file."""
    folder.mkdir(parents=True, exist_ok=True)
    table = {
        name: pa.array(cells, pa.string())
        for name, cells in zip(columns, zip(*rows, strict=True), strict=False)
    }
    pq.write_table(pa.table(table), folder / "train-00000-of-00001.parquet")
    return folder


def row(server, name, blob=b"", text=None):
    return (f"{server.at}/{name}", text or f"a picture called {name}, 寺", digest(blob), uid(name))


def all_rows(server):
    """Every outcome there is: 6 come, of which one is other bytes than listed, and 9 do not.

    Of each four rows one comes, so that no shard is tried again.
    """
    pictures = (
        GOOD | BAD | {"slow.jpg": GOOD["a.jpg"], "opted.jpg": GOOD["a.jpg"], "broken.jpg": GOOD["a.jpg"]}
    )
    server.pictures.update(pictures)
    names = [*GOOD, *BAD, "slow.jpg", "opted.jpg", "broken.jpg", "missing.jpg", "gone.jpg"]
    told = {**pictures, "c.webp": b"what the address had in 2023"}
    rows = [row(server, name, told.get(name, b"")) for name in names]
    rows.append((f"http://127.0.0.1:{closed_port()}/x.jpg", "nobody there", digest(b""), uid("closed")))
    good, bad = rows[: len(GOOD)], rows[len(GOOD) :]
    return [*good[:2], *bad[:3], good[2], *bad[3:6], *good[3:5], *bad[6:8], good[5], bad[8]]


def in_tars(folder):
    """uid -> caption, size of the picture; by tarfile and Pillow."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            blobs = {member.name: tar.extractfile(member).read() for member in tar}
        for key in {name.partition(".")[0] for name in blobs}:
            told = json.loads(blobs[f"{key}.json"])
            assert told["uid"] not in found
            found[told["uid"]] = (
                blobs[f"{key}.txt"].decode(),
                Image.open(io.BytesIO(blobs[f"{key}.jpg"])).size,
            )
    return found


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    """The loopback is not behind a proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


# With the real program.


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory):
    """A finished download of everything that can happen, four rows a shard."""
    if PROGRAM is None:
        pytest.skip("img2dataset is not there: run `make img2dataset`")
    folder = tmp_path_factory.mktemp("download")
    with pytest.MonkeyPatch.context() as patch, serving({}) as server:
        patch.setenv("NO_PROXY", "127.0.0.1")
        rows = all_rows(server)
        metadata = write_metadata(folder / "metadata", rows)
        manifest = download(folder / "out", SMALL, PROGRAM, metadata=metadata, per_shard=4)
        asked = Counter(server.asked)
    return folder / "out", manifest, rows, asked


@real
def test_every_outcome_is_counted(downloaded):
    out, manifest, _, asked = downloaded
    assert (manifest.wanted, manifest.tried, manifest.came) == (15, 15, 6)
    assert manifest.failed == FAILURES and sum(FAILURES.values()) == 9
    assert (manifest.shards, manifest.shards_done) == (4, 4)
    assert (manifest.same, manifest.changed) == (5, 1)
    assert manifest.share == 6 / 15 and manifest.versions["img2dataset"] not in ("", "unknown")
    assert manifest.bytes == sum(path.stat().st_size for path in (out / "shards").glob("*.tar"))
    assert asked["slow.jpg"] == asked["missing.jpg"] == 1 + SMALL.retries and asked["a.jpg"] == 1
    assert json.loads((out / "download.json").read_text()) == json.loads(manifest.model_dump_json())
    names = sorted(path.name for path in (out / "shards").iterdir())
    assert names == [f"{n:08d}{end}" for n in range(4) for end in (".parquet", ".tar", "_stats.json")]
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock",
        "download.json",
        "img2dataset.log",
        "shards",
        "wanted",
    ]


@real
def test_what_came_has_its_caption_and_uid_and_the_size_of_datacomps(downloaded):
    out, _, rows, _ = downloaded
    found = in_tars(out / "shards")
    captions = {row[3]: row[1] for row in rows}
    assert set(found) == {uid(name) for name in GOOD}
    assert all(caption == captions[name] for name, (caption, _) in found.items())
    sizes = {name: found[uid(name)][1] for name in GOOD}
    assert sizes["large.jpg"] == (512, 320) and sizes["a.jpg"] == (120, 90)


@real
def test_the_index_reads_it_and_keeps_by_uid(downloaded, tmp_path):
    out, _, _, _ = downloaded
    done = paribus(tmp_path, "corpus", "index", out / "shards", "--out", tmp_path / "index", "--samples", "6")
    assert done.code == 0, done.err
    source = Shards(tmp_path / "index", out / "shards")
    texts = {source[n].text for n in range(len(source))}
    assert texts == {f"a picture called {name}, 寺" for name in GOOD}
    keep = tmp_path / "keep.txt"
    keep.write_text(f"{uid('b.png')}\n{uid('missing.jpg')}\n")
    meta = build_index(ShardsConfig(root=str(out / "shards"), keep=str(keep)), tmp_path / "kept", 1)
    assert (meta.samples, meta.listed, meta.absent) == (1, 2, 1)


@real
def test_a_finished_download_is_only_told_again(downloaded):
    """The server is gone by now; nobody asks it."""
    out, manifest, _, _ = downloaded
    before = {path: path.stat() for path in (out / "shards").iterdir()}
    assert download(out, SMALL, PROGRAM) == manifest
    assert {path: path.stat() for path in (out / "shards").iterdir()} == before
    with pytest.raises(UserError, match="holds the download of other 15 rows: go on as that was begun"):
        download(out, SMALL.model_copy(update={"verify": True}), PROGRAM)


@real
def test_the_command_refuses_other_bytes_if_asked_and_fetches_what_is_listed(tmp_path):
    with serving(dict(GOOD)) as server:
        told = GOOD | {"c.webp": b"what the address had in 2023"}
        rows = [row(server, name, told[name]) for name in GOOD]
        metadata = write_metadata(tmp_path / "metadata", rows)
        keep = tmp_path / "keep.txt"
        keep.write_text("\n".join([uid("a.jpg"), uid("c.webp"), uid("b.png"), "f" * 32]))
        line = (
            "corpus",
            "datacomp-12m",
            tmp_path / "out",
            "--metadata",
            metadata,
            "--keep",
            keep,
            "--verify",
        )
        line += ("--processes", "1", "--threads", "2", "--img2dataset", PROGRAM)
        done = paribus(tmp_path, *line)
        assert done.code == 0, done.err
        assert server.asked.keys() == {"a.jpg", "b.png", "c.webp"}
    first, *others = done.out.splitlines()
    assert first.startswith("2 of 3 pictures came (66.7%), ")
    assert others[0] == "  other bytes than listed (sha256): 1"
    assert others[1] == "  of those that came, 100.0% are the listed bytes"
    assert others[2].endswith(f"Next: paribus corpus index {tmp_path / 'out' / 'shards'}")
    assert set(in_tars(tmp_path / "out" / "shards")) == {uid("a.jpg"), uid("b.png")}
    wanted = read_wanted(tmp_path / "out" / "wanted")
    assert (wanted.rows, wanted.unlisted, wanted.listed, wanted.absent) == (3, 3, 4, 1)


def six_a_shard():
    """For the command, which has no such option."""
    from paribus.data.download import download

    download.__kwdefaults__["per_shard"] = 6


@pytest.fixture
def many():
    """Thirty pictures, each after a moment: five shards of six."""
    pictures = {f"{n}.jpg": saved(crop(n), "JPEG") for n in range(30) if n % 7 != 3}
    with serving(pictures, delay=0.1) as server:
        yield server


def many_line(many, folder):
    rows = [row(many, f"{n}.jpg", many.pictures.get(f"{n}.jpg", b"")) for n in range(30)]
    metadata = write_metadata(folder / "metadata", rows)
    line = ("corpus", "datacomp-12m", folder / "out", "--metadata", metadata)
    return (*line, "--processes", "1", "--threads", "1", "--img2dataset", PROGRAM)


def wait_for(what, seconds=120):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def group_of(home):
    return json.loads(home.running.read_text())["group"]


@real
@pytest.mark.slow
def test_a_download_that_is_interrupted_and_killed_ends_with_the_same_pictures(many, tmp_path):
    home, line = Home(tmp_path / "out"), many_line(many, tmp_path)
    command = begin(tmp_path, *line, before=six_a_shard)
    wait_for(lambda: read_stats(home.shards) and len(list(home.shards.glob("*.tar"))) >= 2)
    group = group_of(home)
    os.kill(command.process.pid, signal.SIGINT)
    done = command.wait()
    assert done.code == 130 and "run the same command again to go on" in done.err
    assert not program_module._living(group) and not home.running.exists()
    stopped, asked = read_stats(home.shards), Counter(many.asked)
    assert 1 <= len(stopped) < 4
    assert {path.stem for path in home.shards.glob("*.tar")} == set(stopped)
    assert not (home.shards / "_tmp").exists()

    command = begin(tmp_path, *line, before=six_a_shard)
    assert command.kill_when(lambda: len(read_stats(home.shards)) > len(stopped), 0.1)
    group = group_of(home)
    assert program_module._living(group)
    refused = paribus(tmp_path, *line, before=six_a_shard)
    assert refused.code == 2
    assert f"is running: wait for it, or end its processes (kill -- -{group}) and run again" in refused.err
    os.killpg(group, signal.SIGKILL)
    wait_for(lambda: not program_module._living(group))

    done_names = {f"{n}.jpg" for shard in stopped for n in range(6 * int(shard), 6 * int(shard) + 6)}
    assert all(many.asked[name] == asked[name] for name in done_names)
    damaged = min(stopped)
    (home.shards / f"{damaged}_stats.json").write_text('{"count": 6')  # cut off: the shard is not done
    done = paribus(tmp_path, *line, before=six_a_shard)
    assert done.code == 0, done.err
    assert done.out.startswith(f"{len(many.pictures)} of 30 pictures came")
    assert set(in_tars(home.shards)) == {uid(name) for name in many.pictures}
    assert not home.running.exists()


@real
@pytest.mark.slow
def test_without_a_network_nothing_comes_and_all_is_tried_again(tmp_path):
    with serving(dict(GOOD)) as server:
        rows = [row(server, name) for name in GOOD]
    metadata = write_metadata(tmp_path / "metadata", rows)
    with pytest.raises(
        UserError, match=r"None of 6 pictures came \(no connection: 6\): see whether there is a n"
    ):
        download(tmp_path / "out", SMALL, PROGRAM, metadata=metadata)
    server = ThreadingHTTPServer(server.server_address, Pages)
    server.pictures, server.delay, server.asked = GOOD, 0.0, Counter()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        assert download(tmp_path / "out", SMALL, PROGRAM).came == 6
    finally:
        server.shutdown()
        server.server_close()


@real
def test_what_failed_for_now_is_tried_again_and_nothing_else(tmp_path):
    names = [
        "a.jpg",
        "busy.jpg",
        "gone.jpg",
        "slow.jpg",
        "b.png",
        "busy2.jpg",
        "text.jpg",
        "c.webp",
        "missing.jpg",
    ]
    with serving(GOOD | BAD | {"slow.jpg": GOOD["a.jpg"]}) as server:
        metadata = write_metadata(tmp_path / "metadata", [row(server, name) for name in names])
        home, said = Home(tmp_path / "out"), []

        def passed(**options):
            server.asked.clear()
            manifest = download(home.root, SMALL, PROGRAM, again=True, say=said.append, **options)
            return manifest, set(server.asked)

        first, _ = passed(metadata=metadata, per_shard=4)
        assert "What was begun goes on" in said.pop()
        assert (first.tried, first.came, first.shards, first.again) == (9, 3, 3, {})
        assert {reason: first.failed[reason] for reason in ("HTTP 503", "timed out")} == {
            "HTTP 503": 2,
            "timed out": 1,
        }
        before = {path: path.read_bytes() for path in home.shards.iterdir()}
        (home.wanted / "00000003.parquet").write_bytes(b"of a pass that was killed before it was recorded")
        (home.wanted / "00000004.parquet").write_bytes(b"another")
        server.ended.set()
        server.pictures["busy.jpg"] = GOOD["gray.jpg"]

        second, asked = passed()
        assert said.pop().startswith("3 addresses failed for a reason that may pass")
        assert asked == {"busy.jpg", "busy2.jpg", "slow.jpg"}
        assert (second.wanted, second.tried, second.came, second.shards) == (9, 9, 5, 4)
        assert (
            second.again == {"HTTP 503": 2, "timed out": 1}
            and "  3 addresses were tried again" in second.spell()
        )
        assert second.failed == {
            "HTTP 410": 1,
            "HTTP 404": 1,
            "HTTP 503": 1,
            "no picture, or a damaged one": 1,
        }
        assert all(path.read_bytes() == blob for path, blob in before.items())
        came = {uid(name) for name in ("a.jpg", "b.png", "c.webp", "busy.jpg", "slow.jpg")}
        assert set(in_tars(home.shards)) == came  # each once
        plain = download(home.root, SMALL, PROGRAM)
        assert plain == second

        (home.shards / "00000003_stats.json").unlink()  # as if it had been interrupted: that pass goes on
        resumed, asked = passed()
        assert asked == {"busy.jpg", "busy2.jpg", "slow.jpg"} and resumed == second.model_copy(
            update={"bytes": resumed.bytes}
        )
        said.clear()
        third, asked = (
            passed()
        )  # of the latest pass alone; nothing comes, which is no reason to begin it anew
        assert asked == {"busy2.jpg"} and (third.tried, third.came, third.shards) == (9, 5, 5)
        assert third.failed == second.failed and third.again == {"HTTP 503": 3, "timed out": 1}
        server.asked.clear()
        assert download(home.root, SMALL, PROGRAM) == third and not server.asked
        server.pictures["busy2.jpg"] = GOOD["a.jpg"]
        assert passed()[0].came == 6
        said.clear()
        assert passed()[1] == set() and said == [
            "0 addresses failed for a reason that may pass and are tried again."
        ]
    build_index(ShardsConfig(root=str(home.shards)), tmp_path / "index", 1)
    assert len(Shards(tmp_path / "index", home.shards)) == 6


def test_only_reasons_that_may_pass_are_passing():
    for reason in ("timed out", "HTTP 503", "HTTP 429", "no answer from the resolver", "connection broken"):
        assert is_passing(reason)
    for reason in ("HTTP 404", "HTTP 403", "HTTP 5031", "no such host", OTHER, LOST, "bad certificate"):
        assert not is_passing(reason)


def test_reasons_that_were_forgotten_are_counted_once_when_tried_again():
    told = {"count": 9, "successes": 1, "failed_to_download": 8, "failed_to_resize": 0}
    stats = Stats(status_dict={"success": 1, "timed out": 5}, **told)
    assert failures([stats], {"timed out": 6, "HTTP 503": 1}) == {OTHER: 1}


# Without it: a stand-in that cannot download, or nothing at all.


def stand_in(folder, body):
    path = folder / "img2dataset"
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def metadata(tmp_path):
    rows = [
        (f"http://127.0.0.1:9/{n}.jpg", f"caption {n}", digest(b"%d" % n), uid(str(n))) for n in range(10)
    ]
    return write_metadata(tmp_path / "metadata", rows)


def test_a_program_that_is_missing_or_fails_is_told(metadata, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UserError, match="There is no program img2dataset: install it in an environment of its o"
    ):
        download(tmp_path / "out", SMALL, metadata=metadata)
    assert not (tmp_path / "out").exists()
    program = stand_in(tmp_path, "raise SystemExit('no module named x.')")
    with pytest.raises(
        UserError, match=r"img2dataset failed \(no module named x\): see .*img2dataset.log, mend"
    ):
        download(tmp_path / "out", SMALL, program, metadata=metadata)
    assert not (tmp_path / "out" / "running.json").exists()
    assert find_program(None) == program  # it is on the path now


def test_shards_that_the_program_did_not_finish_are_told(metadata, tmp_path):
    program = stand_in(tmp_path, "")
    with pytest.raises(UserError, match=r"3 of 3 shards failed: see .*; it goes on there"):
        download(tmp_path / "out", SMALL, program, metadata=metadata, per_shard=4)
    assert json.loads((tmp_path / "out" / "download.json").read_text())["shards_done"] == 0


def test_a_folder_that_holds_something_else_is_left_alone(metadata, tmp_path):
    program = stand_in(tmp_path, "")
    other = tmp_path / "out" / "shards" / "00000000.tar"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"mine")
    with pytest.raises(
        UserError, match="shards holds other files: go on as that was begun, or choose another"
    ):
        download(tmp_path / "out", SMALL, program, metadata=metadata)
    assert other.read_bytes() == b"mine"
    with pytest.raises(UserError, match="without \\* \\? \\[ \\] in its name"):
        download(tmp_path / "out[1]", SMALL, program, metadata=metadata)


def test_a_disk_that_is_too_small_is_told_before_anything_runs(metadata, tmp_path, monkeypatch):
    program = stand_in(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')")
    usage = shutil.disk_usage(tmp_path)
    said = []

    def free(bytes_):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(bytes_)))

    free(10 * 0.6 * PER_PICTURE + program_module.RESERVE)
    with pytest.raises(
        UserError, match="has 2 GB free, and 10 pictures need 0 to 0 GB: free some space, or want f"
    ):
        download(tmp_path / "out", SMALL, program, metadata=metadata, say=said.append)
    assert not said and not (tmp_path / "ran").exists()
    free(10 * 0.8 * PER_PICTURE + program_module.RESERVE)
    with pytest.raises(UserError, match="shards failed"):
        download(tmp_path / "out", SMALL, program, metadata=metadata, say=said.append)
    assert len(said) == 1 and "may be needed" in said[0] and (tmp_path / "ran").exists()


def test_a_disk_that_fills_up_stops_the_program(metadata, tmp_path, monkeypatch):
    program = stand_in(tmp_path, "import time; time.sleep(60)")
    usage = shutil.disk_usage(tmp_path)
    left = iter([usage.free, usage.free])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=next(left, 1)))
    begun = time.monotonic()
    with pytest.raises(UserError, match="is full: free some space and run again; it goes on there"):
        download(tmp_path / "out", SMALL, program, metadata=metadata)
    assert time.monotonic() - begun < 30  # the program would have slept on
    assert not (tmp_path / "out" / "running.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whoever_ends_the_command_ends_the_programs_processes(metadata, tmp_path, number):
    """Also those that do not listen, and whoever asks twice."""
    body = (
        "import os, signal, time\nif os.fork(): signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(99)"
    )
    program, home = stand_in(tmp_path, body), Home(tmp_path / "out")
    line = ("corpus", "datacomp-12m", home.root, "--metadata", metadata, "--img2dataset", program)
    command = begin(tmp_path, *line, before=impatient)
    wait_for(home.running.exists)
    time.sleep(0.5)
    group = group_of(home)
    assert program_module._living(group)
    told = json.loads(home.running.read_text())
    assert told["boot"] == program_module._boot() and told["started"] == program_module._started(group)
    for _ in range(3):
        os.kill(command.process.pid, number)
        time.sleep(0.2)
    assert command.wait().code == 130
    assert not program_module._living(group) and not home.running.exists()


def impatient():
    program_module.PATIENCE = 1.0


def test_of_two_downloads_into_a_folder_one_is_refused(metadata, tmp_path):
    """Also when both begin at once, and when the first one has not started its program yet."""
    home, ran = Home(tmp_path / "out"), tmp_path / "ran"
    program = stand_in(tmp_path, f"import time\nopen({str(ran)!r}, 'a').write('x')\ntime.sleep(99)")
    refusal = f"A download into {home.root} is running: wait for it, or end it."
    home.root.mkdir()
    with FileLock(home.lock), pytest.raises(UserError, match=refusal):
        download(home.root, SMALL, program, metadata=metadata)
    assert sorted(path.name for path in home.root.iterdir()) == [".lock"]
    line = ("corpus", "datacomp-12m", home.root, "--metadata", metadata, "--img2dataset", program)
    both = [begin(tmp_path, *line) for _ in range(2)]
    wait_for(lambda: ran.exists() and not all(each.process.is_alive() for each in both))
    first, second = sorted(both, key=lambda each: not each.process.is_alive())
    done = second.wait()
    assert done.code == 2 and refusal in done.err
    os.kill(first.process.pid, signal.SIGINT)
    assert first.wait().code == 130
    assert ran.read_text() == "x"


@pytest.mark.skipif(program_module._boot() is None, reason="this system does not tell of its starts")
def test_a_number_that_was_given_anew_does_not_keep_a_download_out(tmp_path):
    home = Home(tmp_path)
    living = subprocess.Popen(["sleep", "99"], start_new_session=True)
    boot, started = program_module._boot(), program_module._started(living.pid)
    told = {"host": socket.gethostname(), "group": living.pid}
    try:
        for same in (told, told | {"boot": None, "started": None}, told | {"boot": boot, "started": started}):
            home.running.write_text(json.dumps(same))
            with pytest.raises(UserError, match="is running: wait for it, or end its processes"):
                check_alone(home)
        for other in ({"boot": "another", "started": started}, {"boot": boot, "started": started - 1}):
            home.running.write_text(json.dumps(told | other))
            check_alone(home)
            assert not home.running.exists()
        assert living.poll() is None
    finally:
        living.kill()
        living.wait()


def test_a_run_of_another_machine_is_not_disturbed(tmp_path):
    home = Home(tmp_path)
    check_alone(home)
    home.running.write_text(json.dumps({"host": "elsewhere", "group": 1}))
    with pytest.raises(UserError, match="runs on elsewhere, or was killed there: if it does not run, delete"):
        check_alone(home)
    ended = subprocess.Popen(["true"], start_new_session=True)
    ended.wait()
    home.running.write_text(json.dumps({"host": socket.gethostname(), "group": ended.pid}))
    check_alone(home)
    assert not home.running.exists()
    home.running.write_text("{")
    with pytest.raises(UserError, match="runs on another machine"):
        check_alone(home)


def test_the_version_of_a_program_without_a_python_is_unknown(tmp_path):
    assert version_of(stand_in(tmp_path, "")) == "unknown"


# Metadata.


def hub_tar(path, names):
    """As the hub has them: three files a sample."""
    members = []
    for name in names:
        told = {"uid": uid(name), "sha256": digest(name.encode()), "original_width": 10}
        members += [
            (f"{uid(name)}.url.txt", f"http://127.0.0.1:9/{name}\n".encode()),
            (f"{uid(name)}.txt", f"caption of {name}, 寺 ".encode()),
            (f"{uid(name)}.json", json.dumps(told).encode()),
        ]
    return write_tar(path, members)


def rows_in(folder):
    """All rows of a folder of cut files, in their order."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return [tuple(row.values()) for table in tables for row in table.to_pylist()], [len(t) for t in tables]


def test_tars_and_parquet_say_the_same(tmp_path):
    names = [f"{n}.jpg" for n in range(10)]
    hub_tar(tmp_path / "tars" / "00000000.tar", names[:5])
    hub_tar(tmp_path / "tars" / "00000001.tar", names[5:])
    (tmp_path / "tars" / "00000001.tar.B8a8E9Db").write_bytes(b"left over from an upload")
    rows = [(f"http://127.0.0.1:9/{n}", f"caption of {n}, 寺 ", digest(n.encode()), uid(n)) for n in names]
    write_metadata(tmp_path / "parquet", rows, ("url", "caption", "sha256", "key"))
    ones = [
        cut(tmp_path / kind, None, tmp_path / f"{kind}.cut", verify=True, per_shard=4)
        for kind in ("tars", "parquet")
    ]
    assert ones[0].digest == ones[1].digest
    assert (ones[0].rows, ones[0].shards, ones[0].with_sha256) == (10, 3, 10)
    found, sizes = rows_in(tmp_path / "tars.cut")
    assert found == [(url, text, name, told) for url, text, told, name in rows] and sizes == [4, 4, 2]
    assert rows_in(tmp_path / "parquet.cut")[0] == found
    assert count_rows(tmp_path / "tars", None, False) == (10, False)
    assert count_rows(tmp_path / "parquet", None, False) == (10, True)


def test_a_sample_says_by_its_files_before_its_json(tmp_path):
    members = [
        ("a.url.txt", b"http://x/a"),
        ("a.txt", b"of the file"),
        (
            "a.json",
            json.dumps({"text": "of the json", "url": "http://x/b", "uid": "u", "sha256": "s"}).encode(),
        ),
        ("b.json", json.dumps({"caption": "of the json", "url": "http://x/b", "key": "k"}).encode()),
    ]
    write_tar(tmp_path / "tars" / "00000000.tar", members)
    cut(tmp_path / "tars", None, tmp_path / "cut", verify=False)
    assert rows_in(tmp_path / "cut")[0] == [
        ("http://x/a", "of the file", "u", "s"),
        ("http://x/b", "of the json", "b", None),
    ]


def test_text_that_no_file_can_hold_is_replaced(tmp_path):
    deep = b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    members = [
        ("a.url.txt", b"http://x/a"),
        ("a.txt", b"caf\xe9"),
        ("a.json", deep),
        ("b.json", b'{"text": "half \\ud800", "url": "http://x/b"}'),
    ]
    write_tar(tmp_path / "tars" / "00000000.tar", members)
    cut(tmp_path / "tars", None, tmp_path / "tars.cut", verify=False)
    assert rows_in(tmp_path / "tars.cut")[0] == [
        ("http://x/a", "caf\ufffd", "a", None),
        ("http://x/b", "half ?", "b", None),
    ]
    texts = pa.array([b"caf\xe9", None, "寺".encode()], pa.binary())
    urls, uids = pa.array(["http://x/0"] * 3), pa.array(list("012"))
    for kind, column in (
        ("binary", texts),
        ("string", pa.Array.from_buffers(pa.string(), 3, texts.buffers())),
    ):
        (tmp_path / kind).mkdir()
        pq.write_table(pa.table({"url": urls, "text": column, "uid": uids}), tmp_path / kind / "0.parquet")
        cut(tmp_path / kind, None, tmp_path / f"{kind}.cut", verify=False)
        assert [row[1] for row in rows_in(tmp_path / f"{kind}.cut")[0]] == ["caf\ufffd", None, "寺"]


def test_only_listed_rows_with_an_address_are_wanted(tmp_path):
    rows = [
        (f"http://x/{n}" if n % 4 else (None if n else ""), f"t{n}", None, uid(str(n))) for n in range(40)
    ]
    folder = write_metadata(tmp_path / "metadata", rows)
    keep = tmp_path / "keep.npy"
    listed = [uid(str(n)) for n in range(0, 60, 3)]
    np.save(keep, np.array([(int(u[:16], 16), int(u[16:], 16)) for u in listed], np.dtype("u8,u8")))
    wanted = cut(folder, read_uids(keep), tmp_path / "cut", verify=False, per_shard=4)
    expected = [n for n in range(40) if n % 3 == 0 and n % 4]
    found, sizes = rows_in(tmp_path / "cut")
    assert [row[1] for row in found] == [f"t{n}" for n in expected] and sizes == [4, 4, 2]
    assert (wanted.rows, wanted.unlisted, wanted.without_url) == (10, 26, 4)
    assert (wanted.listed, wanted.absent, wanted.with_sha256) == (20, 6, 0)
    assert read_wanted(tmp_path / "cut") == wanted
    assert count_rows(folder, read_uids(keep), False) == (10, True)
    none = tmp_path / "none.txt"
    none.write_text("x\n")
    with pytest.raises(
        UserError, match="none is wanted: 0 have no address, and 40 are not in the list of uids"
    ):
        cut(folder, read_uids(none), tmp_path / "none", verify=False)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("sizes", [[1], [4], [5], [9], [3, 1], [4, 4], [2, 0, 3, 8, 1], [1] * 9, [0], []])
@pytest.mark.parametrize("rows", [1, 2, 4, 9, 10])
def test_rows_are_cutevenly_and_none_is_lost(sizes, rows):
    numbers = iter(range(sum(sizes)))
    tables = [pa.table({"n": pa.array([next(numbers) for _ in range(size)], pa.int64())}) for size in sizes]
    every = list(range(sum(sizes)))
    expected = [every[start : start + rows] for start in range(0, len(every), rows)]
    assert [table["n"].to_pylist() for table in even(iter(tables), rows)] == expected


def test_uids_are_found_in_a_row_as_one_by_one(tmp_path):
    listed = [uid(str(n)) for n in range(0, 50, 7)] + ["no number"]
    (tmp_path / "keep.txt").write_text("\n".join(listed))
    uids = read_uids(tmp_path / "keep.txt")
    names = [uid(str(n)) for n in range(50)] + ["no number", "another", ""]
    places = uids.places(names)
    assert [None if place < 0 else place for place in places] == [uids.at(name) for name in names]
    assert (places >= 0).sum() == len(listed)


def test_bad_metadata_are_told(tmp_path):
    def fault(folder, verify=False):
        with pytest.raises(UserError) as told:
            cut(folder, None, tmp_path / "cut", verify=verify)
        assert not (tmp_path / "cut").exists()
        return str(told.value)

    (tmp_path / "empty").mkdir()
    assert "There are no metadata in" in fault(tmp_path / "empty")
    assert "There are no metadata in" in fault(tmp_path / "absent")
    lacking = write_metadata(tmp_path / "lacking", [("http://x", "t")], ("url", "title"))
    assert "have no column text and no column uid: there are url, title." in fault(lacking)
    undigested = write_metadata(tmp_path / "undigested", [("http://x", "t", "u")], ("url", "text", "uid"))
    assert "have no column sha256" in fault(undigested, verify=True)
    damaged = tmp_path / "damaged"
    shutil.copytree(undigested, damaged)
    path = next(damaged.iterdir())
    path.write_bytes(path.read_bytes()[:-40])
    assert "it is no parquet file, or a damaged one; get it again" in fault(damaged)
    tar = hub_tar(tmp_path / "tar" / "00000000.tar", "abc")
    tar.chmod(0o644)
    tar.write_bytes(tar.read_bytes()[:3000])
    assert "is cut off or damaged" in fault(tmp_path / "tar")
    (tmp_path / "latin").mkdir()
    shutil.copy(next(undigested.iterdir()), tmp_path / "latin" / os.fsdecode(b"caf\xe9.parquet"))
    assert "caf\\xe9.parquet is no UTF-8: rename it." in fault(tmp_path / "latin")


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks to list and to fetch files of a data set."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        name = self.path.rpartition("/")[2].partition("?")[0]
        commit = "c" * 40
        if self.path.startswith("/api/datasets/mlfoundations/DataComp-12M"):
            names = [*self.server.files, "README.md", "00000001.tar.B8a8E9Db"]
            told = {
                "id": "mlfoundations/DataComp-12M",
                "sha": commit,
                "siblings": [{"rfilename": n} for n in names],
            }
            blob = json.dumps(told).encode()
        else:
            blob = self.server.files.get(name) if f"/resolve/{commit}/" in self.path else None
        self.server.asked.append((self.command, name))
        if blob is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("ETag", f'"{digest(blob)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(blob)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(blob)
        return None


def test_the_hubs_tars_become_parquet_one_by_one_and_stay(tmp_path):
    files = {}
    for number in range(3):
        path = hub_tar(tmp_path / "hub" / f"{number:08d}.tar", [f"{number}-{n}" for n in range(4)])
        files[path.name] = path.read_bytes()
    hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    hub.files, hub.asked = files | {"00000002.tar": files["00000002.tar"][:2000]}, []
    threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True).start()
    address = f"http://127.0.0.1:{hub.server_address[1]}"
    usual = {
        "HF_ENDPOINT": address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    code = "import pathlib; from paribus.data.wanted import fetch_metadata as f; f(pathlib.Path('out'))"

    def fetch():
        line = [sys.executable, "-c", code]
        environment = os.environ | usual | {"PYTHONPATH": str(ROOT / "src")}
        return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=tmp_path)

    try:
        broken = fetch()
        assert (
            broken.returncode and "UserError" in broken.stderr and "00000002.tar is cut off" in broken.stderr
        )
        there = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert there == ["00000000.parquet", "00000001.parquet", "hub.json"]
        hub.files, hub.asked[:] = files, []
        done = fetch()
        assert done.returncode == 0, done.stderr
    finally:
        hub.shutdown()
        hub.server_close()
    assert {name for _, name in hub.asked if name.endswith(".tar")} == {"00000002.tar"}
    assert [path.name for path in find_metadata(tmp_path / "out")] == [f"{n:08d}.parquet" for n in range(3)]
    ours = cut(tmp_path / "out", None, tmp_path / "ours", verify=True, per_shard=4)
    theirs = cut(tmp_path / "hub", None, tmp_path / "theirs", verify=True, per_shard=4)
    assert ours.digest == theirs.digest and ours.rows == 12


def test_without_a_hub_and_metadata_the_way_out_is_told(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"cannot be fetched from the hub .* give a folder of them with --metadata"
    ):
        fetch_metadata(tmp_path / "metadata")


# Plans.


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(metadata, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "out"
    said = dict(line.split(": ", 1) for line in plan(out, Settings(), metadata=metadata, rate=2.0))
    assert said["Metadata"] == f"1 files in {metadata}"
    assert said["Wanted"] == f"10 pictures, in 1 tars of at most 12,500, in {out / 'shards'}"
    assert said["Command"].startswith(f"img2dataset --url_list={out / 'wanted'} --input_format=parquet ")
    assert "--retries=2" in said["Command"] and "--processes_count=16" in said["Command"]
    assert said["Time"] == "5.0 s at 2 pictures a second (as told)"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_what_was_begun_tells_what_is_left(metadata, tmp_path):
    with pytest.raises(UserError, match="3 of 3 shards failed"):
        download(tmp_path / "out", SMALL, stand_in(tmp_path, ""), metadata=metadata, per_shard=4)
    write_stats(tmp_path / "out" / "shards", "00000000", count=4, successes=3)
    said = dict(line.split(": ", 1) for line in plan(tmp_path / "out", SMALL))
    assert said["Metadata"] == "as it was begun there; 4 of 10 pictures have been tried"
    assert said["Wanted"].startswith("6 pictures")


def test_what_is_ahead_of_a_study_is_told_until_it_is_there(metadata, tmp_path):
    """Nothing yet: at the study's yield; then what is left, at the rate of what was done; then nothing."""
    root = tmp_path / "out"
    told = ahead(root / "shards", 793)
    assert told.startswith(f"{root / 'shards'} has 0 of 793 pictures: downloading 1,000 more addresses takes")
    assert "16.7 s at 60 pictures a second (datacomp #39), or 1.4 s at 690" in told
    assert told.endswith(f"; paribus corpus datacomp-12m {root}") and not root.exists()
    with pytest.raises(UserError, match="3 of 3 shards failed"):
        download(root, SMALL, stand_in(tmp_path, ""), metadata=metadata, per_shard=4)
    write_stats(root / "shards", "00000000", count=4, successes=3, start_time=100.0, end_time=102.0)
    assert ahead(root / "shards", 3) == ahead(root / "shards", 2) == ""
    told = ahead(root / "shards", 8)
    assert "has 3 of 8 pictures: downloading 6 more addresses" in told
    assert "3.0 s at 2 pictures a second (as measured here)" in told
    for shard, count in (("00000001", 4), ("00000002", 2)):
        write_stats(root / "shards", shard, count=count)
    assert ahead(root / "shards", 8) == ""
    write_tar(tmp_path / "own" / "below" / "00000000.tar", [])
    assert ahead(tmp_path / "own", 8) == ""


def test_a_rate_leaves_out_the_time_in_which_nothing_worked():
    counts = {"successes": 5, "failed_to_download": 0, "failed_to_resize": 0, "status_dict": {}}
    spans = [(0.0, 4.0), (2.0, 6.0), (3.0, 5.0), (100.0, 102.0)]
    stats = [Stats(count=20, start_time=start, end_time=end, **counts) for start, end in spans]
    assert rate(stats) == pytest.approx(80 / 8)
    assert rate([Stats(count=20, **counts)]) is None


def test_a_dry_run_without_metadata_tells_the_published_size(tmp_path):
    done = paribus(tmp_path, "corpus", "datacomp-12m", tmp_path / "out", "--dry-run", "--verify")
    assert done.code == 0, done.err
    said = dict(line.split(": ", 1) for line in done.out.splitlines())
    assert said["Metadata"].startswith(
        "none was read; mlfoundations/DataComp-12M of the hub has 12,800,000 rows"
    )
    assert "12,800,000 pictures, in 1,024 tars" in said["Wanted"]
    assert said["Yield"].startswith("8,576,000 to 12,032,000 pictures")
    assert said["Disk"].startswith("307.8 to 428.8 GB")
    assert said["Time"].startswith("2 days at 60 pictures a second (datacomp #39), or 5 h 09 min at 690")
    assert """'--verify_hash=["told_sha256", "sha256"]'""" in said["Command"]
    assert list(tmp_path.glob("out*")) == []


# What img2dataset leaves.


MESSAGES = {
    "<urlopen error [Errno 111] Connection refused>": "no connection",
    "<urlopen error [Errno -2] Name or service not known>": "no such host",
    "<urlopen error [Errno -3] Temporary failure in name resolution>": "no answer from the resolver",
    "<urlopen error timed out>": "timed out",
    "The read operation timed out": "timed out",
    "HTTP Error 403: Forbidden": "HTTP 403",
    "HTTP Error 404: Not Found": "HTTP 404",
    "hash mismatch": "other bytes than listed (sha256)",
    "Use of image disallowed by X-Robots-Tag directive": "opted out (X-Robots-Tag)",
    "<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>": "bad certificate",
    "Remote end closed connection without response": "connection broken",
    "Image decoding error": "no picture, or a damaged one",
    "unknown url type: 'x'": OTHER,
}


def test_messages_are_told_in_few_words():
    assert {message: reason_of(message) for message in MESSAGES} == MESSAGES


def test_all_that_did_not_come_is_counted_once():
    told = {"success": 5, "HTTP Error 404: Not Found": 2, "HTTP Error 404: Gone away": 1}
    stats = Stats(count=12, successes=5, failed_to_download=4, failed_to_resize=1, status_dict=told)
    found = failures([stats, stats], {})
    assert found == {"HTTP 404": 6, OTHER: 4, LOST: 4}
    assert sum(found.values()) == 2 * (12 - 5)


def write_stats(folder, shard, **counts):
    """With an empty tar and table, as of a shard that is done."""
    for end in (".tar", ".parquet"):
        (folder / f"{shard}{end}").touch()
    said = {"count": 1, "successes": 1, "failed_to_download": 0, "failed_to_resize": 0, "duration": 1.5}
    (folder / f"{shard}_stats.json").write_text(json.dumps(said | {"status_dict": {"success": 1}} | counts))


def test_shards_that_are_not_done_are_removed_and_nothing_else(tmp_path):
    for shard in ("00000000", "00000001", "00000002"):
        for end in (".tar", ".parquet"):
            (tmp_path / f"{shard}{end}").touch()
    write_stats(tmp_path, "00000000")
    (tmp_path / "00000001_stats.json").write_text('{"count": 1')
    (tmp_path / "notes.txt").touch()
    (tmp_path / "index").mkdir()
    assert list(read_stats(tmp_path)) == ["00000000"]
    tidy(tmp_path, ["00000000"])
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["00000000.parquet", "00000000.tar", "00000000_stats.json", "index", "notes.txt"]


@pytest.mark.parametrize("end", [".tar", ".parquet"])
def test_a_shard_that_lost_a_file_comes_again(metadata, tmp_path, end):
    """The stand-in makes the shard if it is not done: one of ten pictures came."""
    body = f"""
import json, pathlib, sys
told = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
shards = pathlib.Path(told["output_folder"])
if not (shards / "00000000_stats.json").exists():
    for end in (".tar", ".parquet"):
        (shards / f"00000000{{end}}").write_bytes(pathlib.Path({str(tmp_path)!r}, f"0{{end}}").read_bytes())
    counts = dict(count=10, successes=1, failed_to_download=9, failed_to_resize=0, status_dict={{}})
    (shards / "00000000_stats.json").write_text(json.dumps(counts))
"""
    (tmp_path / "0.tar").write_bytes(b"x" * 77)
    table = {"status": ["success"], "sha256": ["a"], TOLD: ["a"]}
    pq.write_table(pa.table(table), tmp_path / "0.parquet")
    program, shards = stand_in(tmp_path, body), tmp_path / "out" / "shards"
    first = download(tmp_path / "out", SMALL, program, metadata=metadata)
    assert (first.came, first.bytes, first.shards_done) == (1, 77, 1)
    (shards / f"00000000{end}").unlink()
    assert read_stats(shards) == {}
    assert download(tmp_path / "out", SMALL, program) == first
    assert (shards / f"00000000{end}").exists()


def test_digests_are_compared_where_they_are_listed(tmp_path):
    rows = {
        "status": ["success", "success", "success", "failed_to_download"],
        "sha256": ["a", "b", "c", None],
        TOLD: ["a", "x", None, "d"],
    }
    pq.write_table(pa.table(rows), tmp_path / "00000000.parquet")
    assert compared(tmp_path, ["00000000"], False) == (1, 1)
    assert compared(tmp_path, ["00000000"], True) == (3, 0)
    with pytest.raises(
        UserError, match=r"00000007.parquet is missing or damaged: delete 00000007_stats.json"
    ):
        compared(tmp_path, ["00000007"], False)


def test_a_growing_tar_is_counted_as_far_as_it_is_written(tmp_path):
    whole = tmp_path / "whole.tar"
    members = [(f"{n}.{end}", b"x" * 700) for n in range(5) for end in ("jpg", "txt", "json")]
    blob = write_tar(whole, members).read_bytes()
    seen, counts = program_module._Growing(Path(tmp_path / "growing.tar")), []
    assert seen.look() == 0
    for end in (100, 512, 2000, 4608, 4608 + 511, len(blob)):
        (tmp_path / "growing.tar").write_bytes(blob[:end])
        counts.append(seen.look())
    assert counts == [0, 1, 1, 1, 1, 5]
    assert seen.look() == 5
