"""The server over real HTTP: who is let in, what is taken, and that nothing gives an encoder away."""

import base64
import contextlib
import hashlib
import io
import json
import re
import socket
import threading

import numpy as np
import pytest
from PIL import Image

from paribus.annotate.server import Desk, Server, page, seats
from paribus.annotate.store import LABELS, Store, read_pairs
from paribus.errors import UserError

from . import ENCODERS, ask, build, raw, served

MARK = {"place": 2, "label": "semantic", "seconds": 1.25}


@pytest.fixture
def run(tmp_path):
    return build(tmp_path / f"compare-{'-'.join(ENCODERS)}")


@pytest.fixture
def server(run):
    with served(run) as one:
        yield one


def state(server):
    return json.loads(ask(server.address + "state").content)["labels"]


def local(server):
    return ("Host", f"127.0.0.1:{server.server_port}")


def test_it_serves_the_page_the_pictures_and_what_was_said(server):
    answer = ask(server.address)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert state(server) == [None] * 6
    assert ask(server.address + "label", MARK)[::2] == (200, b'{"kept": true}')
    assert state(server) == [None, None, "semantic", None, None, None]
    shown = server.desk.seats[2]
    for side in (0, 1):
        answer = ask(f"{server.address}picture/2/{side}")
        assert answer.content == shown.pictures[side].path.read_bytes()
        assert answer.headers["Content-Type"] == shown.pictures[side].kind
        assert Image.open(io.BytesIO(answer.content)).size[0] == 64
    assert server.desk.store.given("ada") == {shown.pair.id: "semantic"}
    assert server.desk.store.all()[0].seconds == 1.25


def test_it_hears_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("path", ["", "state", "picture/0/0", "label", "nothing"])
def test_nothing_without_the_token(server, path):
    home = f"http://127.0.0.1:{server.server_port}"
    for wrong in (
        "",
        "/",
        "/" + "x" * 32 + "/",
        f"/{server.token[:-1]}/",
        f"/{server.token}x/",
        f"/?{server.token}/",
    ):
        for sent in (None, MARK):
            assert ask(f"{home}{wrong}{path}".replace(f"{home}{path}", f"{home}/{path}"), sent).status == 403
    assert ask(f"{home}/{server.token}%2f{path}").status == 403
    assert raw(server.server_port, "GET", f"{server.address}{path}", local(server)).status == 403
    assert raw(server.server_port, "GET", f"x/{server.token}/{path}", local(server)).status == 403
    assert server.desk.store.all() == []


def test_tokens_are_long_and_never_the_same(run):
    with served(run) as one, served(run, "ben") as two:
        assert one.token != two.token
        assert min(len(one.token), len(two.token)) >= 32
        assert ask(one.address.replace(one.token, two.token)).status == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", ""]
)
def test_another_host_is_refused(server, host):
    port, path = server.server_port, f"/{server.token}/"
    named = ("Host", host.format(port=port))
    assert raw(port, "GET", path, named).status == 403
    assert raw(port, "GET", path).status == 403
    assert raw(port, "GET", path, local(server), named).status == 403
    assert raw(port, "GET", path, local(server)).status == 200
    assert raw(port, "GET", path, ("Host", f"localhost:{port}")).status == 200


def test_another_site_may_not_label(server):
    where, port = server.address + "label", server.server_port
    for origin in (
        "https://evil.example",
        "null",
        f"https://127.0.0.1:{port}",
        f"http://localhost:{port}",
        "",
    ):
        assert ask(where, MARK, Origin=origin).status == 403
    for site in ("cross-site", "same-site", "none"):
        assert ask(where, MARK, Sec_Fetch_Site=site).status == 403
    assert ask(where, MARK, Origin=f"http://127.0.0.1:{port}", Sec_Fetch_Site="cross-site").status == 403
    assert state(server) == [None] * 6
    assert ask(where, MARK, Origin=f"http://127.0.0.1:{port}", Sec_Fetch_Site="same-origin").status == 200


def test_only_json_of_a_length_is_read(server):
    where, port, path = server.address + "label", server.server_port, f"/{server.token}/label"
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "nonsense"):
        assert ask(where, MARK, Content_Type=kind).status == 415
    kind = ("Content-Type", "application/json")
    for length, status in (("-1", 411), ("x", 411), ("٣", 411), ("1025", 413), ("9" * 40, 413)):
        named = ("Content-Length", length.encode())
        assert raw(port, "POST", path, local(server), kind, named).status == status
    assert raw(port, "POST", path, local(server), kind).status == 411
    chunked = ("Transfer-Encoding", "chunked")
    assert raw(port, "POST", path, local(server), kind, chunked).status == 411
    assert state(server) == [None] * 6
    assert ask(where, MARK, Content_Type="application/json; charset=utf-8").status == 200


def test_a_huge_body_is_not_read(server):
    """It is refused before it has come; who goes on sending may find the line closed."""
    with contextlib.suppress(OSError):
        assert ask(server.address + "label", b"[" * (64 << 20)).status == 413
    assert state(server) == [None] * 6


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"{", b"\xff", b"[" * 1024, b"null", b"[]", b'"semantic"',
        {}, {**MARK, "more": 1}, {"place": 0, "label": "both"},
        {**MARK, "place": 6}, {**MARK, "place": -1}, {**MARK, "place": True}, {**MARK, "place": "2"},
        {**MARK, "place": 1.0}, {**MARK, "place": None}, {**MARK, "place": 10**300},
        {**MARK, "label": "similar"}, {**MARK, "label": "Semantic"}, {**MARK, "label": ["semantic"]},
        {**MARK, "label": None}, {**MARK, "label": {}},
        {**MARK, "seconds": -1}, {**MARK, "seconds": "1"}, {**MARK, "seconds": True},
        {**MARK, "seconds": None}, {**MARK, "seconds": float("nan")}, {**MARK, "seconds": float("inf")},
        {**MARK, "seconds": 10**400},
    ],
)  # fmt: skip
def test_what_is_no_label_of_a_pair_is_refused(server, sent):
    answer = ask(server.address + "label", sent)
    assert answer[::2] == (400, b"That is no label of a pair.\n")
    assert state(server) == [None] * 6


@pytest.mark.parametrize(
    "path",
    [
        "../", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/", "picture/../state",
        "picture/0/0/../1",
        "picture/0/../../../labels.sqlite", "labels.sqlite", "pairs/pairs.json", "pairs.json", "page.js",
        "picture/clip-like-0-left.png/0", "picture//etc/passwd", "picture/0", "picture/0/2", "picture/-1/0",
        "picture/6/0", "picture/00/0", "picture/²/0", "picture/0/%00", "state/", "favicon.ico",
        "//etc/passwd",
    ],
)  # fmt: skip
def test_only_pictures_of_pairs_are_served(server, path):
    path = f"/{server.token}/{path}".encode().decode("latin-1")
    if path.isascii():
        answer = raw(server.server_port, "GET", path, local(server))
        assert answer[::2] == (404, b"There is nothing here.\n")
    with socket.create_connection(("127.0.0.1", server.server_port)) as line:
        line.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode("latin-1"))
        assert line.makefile("rb").readline().split()[1] == b"404"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "PATCH"])
def test_there_is_no_other_method(server, method):
    answer = raw(server.server_port, method, f"/{server.token}/state", local(server))
    assert answer.status == 501
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_an_address_without_its_last_slash_is_not_there(server):
    assert ask(server.address[:-1]).status == 404


def test_nonsense_does_not_stop_it(server, capsys):
    for sent in (
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET\0/ HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.0\r\n" + b"x" * 70000,
        b"",
    ):
        with socket.create_connection(("127.0.0.1", server.server_port)) as line:
            line.sendall(sent)
    half = socket.create_connection(("127.0.0.1", server.server_port))
    half.sendall(b"POST /")
    assert state(server) == [None] * 6
    half.close()
    assert "Traceback" not in capsys.readouterr().err


def test_headers_are_strict_everywhere(server):
    content, policy = page()
    inside = (
        re.search(rb"<script>(.*)</script>", content, re.DOTALL)[1],
        re.search(rb"<style>(.*)</style>", content, re.DOTALL)[1],
    )
    for text in inside:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy
    assert not re.search(rb"\son\w+=|\sstyle=|https?://|//\w", content.replace(b"// ", b""))
    for path in ("", "state", "picture/0/0", "nothing"):
        headers = ask(server.address + path).headers
        assert headers["Content-Security-Policy"] == policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Python" not in headers["Server"]


def test_no_byte_names_an_encoder_a_file_or_a_pair(run):
    """Of all that is sent, also where it refuses; the run, ids and files are named after the encoders."""
    sent = []
    with served(run, annotator=f"{ENCODERS[0]} fan") as server:
        home, port = server.address, server.server_port
        sent += [ask(home + path) for path in ("", "state", "nothing", "label", "../", "picture/9/0")]
        sent += [ask(f"{home}picture/{place}/{side}") for place in range(6) for side in (0, 1)]
        sent += [ask(home + "label", {**MARK, "place": place}) for place in range(7)]
        sent += [ask(home + "label", MARK, Origin="https://evil.example"), ask(f"http://127.0.0.1:{port}/")]
        sent += [raw(port, "PUT", "/"), raw(port, "GET", "/", ("Host", "evil.example"))]
        server.desk.seats[0].pictures[0].path.unlink()
        sent.append(ask(home + "picture/0/0"))
        server.desk.store.close()
        sent += [ask(home + "state"), ask(home + "label", MARK)]
        assert [reply.status for reply in sent[-3:]] == [404, 500, 500]
        names = {name for seat in server.desk.seats for name in (seat.pair.id, seat.pair.left.path.name)}
    names |= {*ENCODERS, "clip", "dino", "compare-", run.name}
    assert len(sent) == 32
    for reply in sent:
        assert not [name for name in names if name.lower().encode() in reply.all.lower()]


def test_a_full_disk_is_told_and_nothing_is_taken_for_kept(server, capsys):
    server.desk.store.close()
    assert ask(server.address + "label", MARK).status == 500
    assert "labels.sqlite" in capsys.readouterr().err


def test_everyone_has_an_order_that_never_changes(tmp_path):
    pairs = read_pairs(build(tmp_path / "run", pairs=40))

    def told(annotator, seed, of=pairs):
        return [(seat.pair.id, seat.pictures[0] is seat.pair.left) for seat in seats(of, annotator, seed)]

    ada = told("ada", 0)
    assert ada == told("ada", 0)
    assert sorted(name for name, _ in ada) == sorted(pair.id for pair in pairs)
    assert len({tuple(told(name, seed)) for name in ("ada", "ben", "Ada") for seed in (0, 1)}) == 6
    assert [each for each in ada if each[0] != pairs[0].id] == told("ada", 0, pairs[1:])
    assert ada == told("ada", 0, pairs[::-1])
    for seat in seats(pairs, "ada", 0):
        assert set(seat.pictures) == {seat.pair.left, seat.pair.right}


def test_the_order_tells_nothing_of_direction_or_side(tmp_path):
    pairs = read_pairs(build(tmp_path / "run", pairs=40))
    swaps, firsts, places = [], [], []
    for k in range(400):
        seated = seats(pairs, f"person {k}", 0)
        swaps += [seat.pictures[0] is seat.pair.left for seat in seated]
        firsts.append(seated[0].pair.alike == ENCODERS[0])
        places.append([seat.pair.id for seat in seated].index(pairs[0].id))
    assert abs(np.mean(swaps) - 0.5) < 4 * 0.5 / np.sqrt(len(swaps))
    assert abs(np.mean(firsts) - 0.5) < 4 * 0.5 / np.sqrt(len(firsts))
    assert abs(np.mean(places) - 19.5) < 4 * 11.5 / np.sqrt(len(places))


def test_two_annotators_at_once(run):
    """Two servers on one file, each asked by several threads."""
    faults = []
    with served(run, "ada") as ada, served(run, "ben") as ben:

        def work(server, label, places):
            for place in places:
                reply = ask(server.address + "label", {"place": place, "label": label, "seconds": 1})
                if reply.status != 200:
                    faults.append(reply)

        threads = [
            threading.Thread(target=work, args=(server, label, range(k, 6, 2)))
            for server, label in ((ada, "semantic"), (ben, "perceptual"))
            for k in (0, 1)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults
        assert state(ada) == ["semantic"] * 6
        assert state(ben) == ["perceptual"] * 6
        assert len(ada.desk.store.all()) == 12


@pytest.mark.parametrize("name", ["", " ada", "two\nlines", "x" * 65, "\0", "\ud800"])
def test_a_name_that_is_none(run, name):
    pairs = read_pairs(run)
    with pytest.raises(UserError, match=r"is none: give 1 to 64 printable characters with --annotator\.$"):
        Desk(pairs, Store(run, pairs), name)


def test_a_port_in_use(run):
    with served(run) as one:
        pairs = read_pairs(run)
        with pytest.raises(UserError, match=f"Port {one.server_port} is in use"):
            Server(Desk(pairs, Store(run, pairs), "ben"), one.server_port)


def test_labels_of_the_page_are_those_of_the_file():
    assert tuple(re.findall(r'data-label="(\w+)"', page()[0].decode())) == LABELS
