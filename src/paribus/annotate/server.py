"""The page's server: on this machine only, for who has its token, and blind.

Nothing that is sent names an encoder, a pair or a file, all of which may give away who found a pair alike:
a pair is known by its place in the annotator's own order.
"""

import base64
import errno
import hashlib
import hmac
import json
import secrets
import sys
from collections.abc import Sequence
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from paribus.annotate.store import LABELS, Pair, Picture, Store
from paribus.errors import UserError

HOST = "127.0.0.1"
_HERE = Path(__file__).parent
_LONGEST = 1024
"""Most bytes of a label that is sent."""
_NAME = 64
"""Most characters of an annotator's name."""


class Seat(NamedTuple):
    """A pair as one annotator sees it."""

    pair: Pair
    pictures: tuple[Picture, Picture]


class Mark(NamedTuple):
    """A label as the page sends it."""

    place: int
    label: str
    seconds: float


def seats(pairs: Sequence[Pair], annotator: str, seed: int) -> tuple[Seat, ...]:
    """All pairs in an order of the annotator's own, half of them with the two pictures swapped.

    Both are a function of seed, name and pair alone (as ``rng.stream``, which would need torch).
    """

    def seated(pair: Pair) -> tuple[bytes, Seat]:
        text = "\x1f".join([str(seed), "annotate", annotator, pair.id])
        drawn = hashlib.blake2b(text.encode(), digest_size=16).digest()
        swapped = drawn[-1] % 2 == 1
        return drawn, Seat(pair, (pair.right, pair.left) if swapped else (pair.left, pair.right))

    return tuple(seat for _, seat in sorted(map(seated, pairs), key=lambda each: each[0]))


class Desk:
    """What one annotator works at: pairs by their place, and where labels go.

    Raises:
        UserError: a name that is none.
    """

    def __init__(self, pairs: Sequence[Pair], store: Store, annotator: str, seed: int = 0) -> None:
        if not annotator.isprintable() or annotator != annotator.strip() or not 1 <= len(annotator) <= _NAME:
            raise UserError(
                f"The annotator's name {annotator!r} is none: give 1 to {_NAME} printable characters with "
                "--annotator."
            )
        self.seats, self.store, self.annotator = seats(pairs, annotator, seed), store, annotator

    def labels(self) -> list[str | None]:
        """What the annotator said of each pair, by place."""
        given = self.store.given(self.annotator)
        return [given.get(seat.pair.id) for seat in self.seats]

    def put(self, mark: Mark) -> None:
        """Keep a label; an unwritable file is a ``UserError``."""
        self.store.put(self.annotator, self.seats[mark.place].pair.id, mark.label, mark.seconds)

    def mark(self, content: bytes) -> Mark:
        """What the page sent, checked.

        Raises:
            ValueError: anything but the place of a pair, a label and the seconds that it took.
        """
        try:
            sent = json.loads(content)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not isinstance(sent, dict) or set(sent) != set(Mark._fields):
            raise ValueError(f"send an object of {', '.join(Mark._fields)}")
        place, label, seconds = (sent[name] for name in Mark._fields)
        if type(place) is not int or not 0 <= place < len(self.seats):
            raise ValueError("there is no such pair")
        if label not in LABELS:
            raise ValueError("there is no such label")
        if type(seconds) not in (int, float) or not 0 <= seconds <= sys.float_info.max:
            raise ValueError("seconds are a number from 0 on")
        return Mark(place, label, float(seconds))


@cache
def page() -> tuple[bytes, str]:
    """The page, style and script in it, and the policy that allows these two and nothing else."""
    parts = {name: (_HERE / f"page.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    hashes = {
        name: base64.b64encode(hashlib.sha256(parts[name].encode()).digest()).decode()
        for name in ("css", "js")
    }
    policy = (
        f"default-src 'none'; script-src 'sha256-{hashes['js']}'; style-src 'sha256-{hashes['css']}'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"
    )
    text = parts["html"].replace("{{css}}", parts["css"]).replace("{{js}}", parts["js"])
    return text.encode(), policy


class Server(ThreadingHTTPServer):
    """Serves one annotator's desk at ``address``, which holds a random token, until it is shut down.

    Raises:
        UserError: the port is another program's.
    """

    daemon_threads = True

    def __init__(self, desk: Desk, port: int = 0) -> None:
        self.desk, self.token = desk, secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise UserError(
                f"Port {port} is in use or not yours: choose another with --port, or leave that out."
            ) from error

    @property
    def hosts(self) -> set[str]:
        """What a browser calls this server; anything else is another site that resolves to this machine."""
        names = {HOST, "localhost"}
        ports = {f"{name}:{self.server_port}" for name in names}
        return ports | names if self.server_port == 80 else ports

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about a browser that went away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One request: who asks, then what for."""

    server: Server
    timeout = 30
    server_version, sys_version = "paribus", ""

    def do_GET(self) -> None:
        """The page, what was said so far, or a picture."""
        parts = self._asked()
        if parts == [""]:
            self._send(200, page()[0], "text/html; charset=utf-8")
        elif parts == ["state"]:
            self._state()
        elif parts is not None and len(parts) == 3 and parts[0] == "picture":
            self._picture(*parts[1:])
        elif parts is not None:
            self.send_error(404, "There is nothing here.")

    def do_POST(self) -> None:
        """A label."""
        parts = self._asked()
        if parts is None or self._unfit():
            return
        if parts != ["label"]:
            self.send_error(404, "There is nothing here.")
            return
        try:
            mark = self.server.desk.mark(self.rfile.read(int(self.headers["Content-Length"])))
        except ValueError:
            self.send_error(400, "That is no label of a pair.")
            return
        try:
            self.server.desk.put(mark)
        except UserError as error:
            self._fault(error)
            return
        self._send(200, b'{"kept": true}', "application/json")

    def _asked(self) -> list[str] | None:
        """The path after the token, as it was sent; None if it is no business of the one who asks."""
        hosts = self.headers.get_all("Host", [])
        before, _, rest = self.path.partition("?")[0].partition("/")
        token, slash, inner = rest.partition("/")
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:
            self.send_error(403, "This server answers to 127.0.0.1 only.")
            return None
        if before or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self.send_error(403, "Open the address that paribus annotate printed.")
            return None
        return inner.split("/") if slash else []

    def _unfit(self) -> bool:
        """Refuse what another site's page can send, and what is no short JSON."""
        origin, site = self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site")
        length = self.headers.get("Content-Length", "")
        if (origin is not None and origin != f"http://{self.headers['Host']}") or (site or "same-origin") != (
            "same-origin"
        ):
            self.send_error(403, "Another site's page may not label.")
        elif self.headers.get_content_type() != "application/json":
            self.send_error(415, "Send application/json.")
        elif not (length.isascii() and length.isdecimal()):
            self.send_error(411, "Say how long the label is.")
        elif len(length) > 9 or int(length) > _LONGEST:
            self.send_error(413, "That is too long for a label.")
        else:
            return False
        return True

    def _state(self) -> None:
        try:
            labels = self.server.desk.labels()
        except UserError as error:
            self._fault(error)
            return
        self._send(200, json.dumps({"labels": labels}).encode(), "application/json")

    def _fault(self, error: UserError) -> None:
        print(
            f"paribus: {error}", file=sys.stderr
        )  # not for the page: it names the folder, so maybe encoders
        self.send_error(500, "Labels cannot be read or kept: see the terminal.")

    def _picture(self, place: str, side: str) -> None:
        desk = self.server.desk
        names = {str(at): at for at in range(len(desk.seats))}
        if place not in names or side not in ("0", "1"):
            self.send_error(404, "There is nothing here.")
            return
        picture = desk.seats[names[place]].pictures[int(side)]
        try:
            content = picture.path.read_bytes()
        except OSError:
            self.send_error(404, "The picture is gone.")
            return
        self._send(200, content, picture.kind)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A refusal in one line, without the page that http.server makes of it."""
        self.close_connection = True
        self._send(code, f"{message or 'The request was refused.'}\n".encode(), "text/plain; charset=utf-8")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Content-Security-Policy", page()[1]),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("X-Frame-Options", "DENY"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: lines would hold the token."""
