"""Runs with real pictures to annotate, and what the tests ask a server."""

import contextlib
import http.client
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from sklearn.datasets import load_sample_images

ENCODERS = ("clip-like", "dinosaur")


def crops(count: int) -> list[Image.Image]:
    """Squares of scikit-learn's two photographs, all different."""
    photos = load_sample_images().images
    corners = [(40 * at % 380, 70 * at % 560) for at in range(count)]
    return [Image.fromarray(photos[at % 2][y : y + 48 + at, x : x + 64]) for at, (y, x) in enumerate(corners)]


def build(run: Path, pairs: int = 6, names: tuple[str, ...] = ()) -> Path:
    """A run whose pairs go in turns to the two encoders, with ids and files that give that away."""
    (run / "pairs").mkdir(parents=True)
    rows = []
    pictures = crops(2 * pairs)
    for at in range(pairs):
        alike, apart = ENCODERS if at % 2 == 0 else ENCODERS[::-1]
        files = [f"{alike}-{at}-left.png", f"{alike}-{at}-right.jpg"]
        for side, picture in enumerate(pictures[2 * at : 2 * at + 2]):
            if 2 * at + side < len(names):
                files[side] = names[2 * at + side]
            picture.save(run / "pairs" / files[side], format="PNG" if side == 0 else "JPEG")
        rows.append(
            {
                "id": f"{alike}-{at:03d}",
                "left": files[0],
                "right": files[1],
                "alike": alike,
                "apart": apart,
            }
        )
    rewrite(run, rows)
    return run


def rows_of(run: Path) -> list[dict]:
    return json.loads((run / "pairs" / "pairs.json").read_text())["pairs"]


def rewrite(run: Path, rows: object) -> None:
    (run / "pairs" / "pairs.json").write_text(json.dumps({"pairs": rows}))


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def all(self) -> bytes:
        """Every byte of it."""
        return "\n".join(f"{k}: {v}" for k, v in self.headers.items()).encode() + self.content


def ask(url: str, sent: object = None, **headers: str) -> Reply:
    """GET, or POST of what is sent, as JSON unless it is bytes; ``_`` in names of headers is a hyphen."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = None
    if sent is not None:
        content = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
        named = {"Content-Type": "application/json", **named}
    request = urllib.request.Request(url, content, named)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return Reply(answer.status, dict(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        return Reply(error.code, dict(error.headers), error.read())


def raw(port: int, method: str, path: str, *headers: tuple[str, str], body: bytes = b"") -> Reply:
    """A request that is sent as it is written, path, headers and all."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    line.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in headers:
        line.putheader(name, value)
    line.endheaders()
    if body:
        line.send(body)
    answer = line.getresponse()
    reply = Reply(answer.status, dict(answer.headers), answer.read())
    line.close()
    return reply


@contextlib.contextmanager
def served(run: Path, annotator: str = "ada", seed: int = 0, port: int = 0) -> Iterator:
    """A server at work in a thread."""
    from paribus.annotate.server import Desk, Server
    from paribus.annotate.store import Store, read_pairs

    pairs = read_pairs(run)
    store = Store(run, pairs)
    try:
        with Server(Desk(pairs, store, annotator, seed), port) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join()
    finally:
        store.close()
