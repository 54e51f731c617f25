"""A push to a stand-in that speaks the hub's API on the loopback: the files arrive bit for bit."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from report import build

from encoders.checkpoints import perturbed
from paribus.encoders.card import model_card
from paribus.encoders.folders import Trained, read_folder, write_paribus, write_transformers
from paribus.encoders.hub import push
from paribus.encoders.vision import EncoderConfig, VisionEncoder, weights_digest
from paribus.errors import UserError

CONFIG = EncoderConfig(patch=8, width=32, depth=2, heads=4, mlp_ratio=3.0, image_size=32)
TOKEN = "hf_of-nobody"


class StandIn(BaseHTTPRequestHandler):
    """What huggingface_hub calls for a push: create, validate, preupload, LFS batch, put, commit."""

    def log_message(self, *_):
        pass

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, said, status=200):
        raw = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_PUT(self):
        oid = self.path.rsplit("/", 1)[-1]
        self.server.large[oid] = self._body()
        assert hashlib.sha256(self.server.large[oid]).hexdigest() == oid
        self._answer({})

    def do_GET(self):
        self._answer({"error": "no such repository"}, 404)

    def do_POST(self):
        raw, hub = self._body(), self.server
        hub.calls.append(self.path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" or hub.status != 200:
            return self._answer({"error": "no"}, hub.status if hub.status != 200 else 401)
        if self.path == "/api/repos/create":
            hub.made = json.loads(raw)
            return self._answer({"url": f"{hub.address}/me/encoder"})
        if self.path == "/api/validate-yaml":
            hub.yaml = json.loads(raw)["content"]
            return self._answer({"errors": [], "warnings": []})
        if self.path.startswith("/api/models/me/encoder/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": hub.mode(file["path"]), "shouldIgnore": False}
                for file in json.loads(raw)["files"]
            ]
            return self._answer({"files": files})
        if self.path == "/me/encoder.git/info/lfs/objects/batch":
            return self._answer({"transfer": "basic", "objects": self._places(json.loads(raw)["objects"])})
        if self.path.startswith("/api/models/me/encoder/commit/main"):
            hub.commits.append([json.loads(line) for line in raw.splitlines()])
            return self._answer({"commitOid": "c" * 40, "commitUrl": f"{hub.address}/me/encoder/commit/1"})
        return self._answer({"error": f"what is {self.path}?"}, 500)

    def _places(self, wanted):
        at = f"{self.server.address}/store/"
        return [
            {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": at + o["oid"]}}}
            for o in wanted
        ]


@contextmanager
def stand_in(large=r"(?!)", status=200):
    """A hub on the loopback that wants files whose names match ``large`` sent as large ones."""
    hub = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    hub.address = f"http://127.0.0.1:{hub.server_address[1]}"
    hub.mode = lambda path: "lfs" if re.search(large, path) else "regular"
    hub.status, hub.calls, hub.commits, hub.large, hub.made, hub.yaml = status, [], [], {}, None, None
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def arrived(hub):
    """Name -> bytes of the one commit."""
    (lines,) = hub.commits
    files = {}
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.large[value["oid"]]
    return files


@pytest.fixture(autouse=True)
def _online(monkeypatch):
    """The loopback is a network; large files go the old way, since nothing can stand in for Xet's storage."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")


@pytest.fixture
def folder(tmp_path):
    write_transformers(perturbed(VisionEncoder(CONFIG), 2), tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.mark.parametrize("large", [r"(?!)", r"\.safetensors$"], ids=["all small", "weights large"])
def test_the_files_arrive_in_one_commit_with_a_card(folder, large):
    (folder / ".cache").mkdir()
    (folder / ".cache" / "secret").write_text("not to be sent")
    (folder / "README.md").write_text("an old card")
    with stand_in(large) as hub:
        url = push(folder, "me/encoder", private=True, endpoint=hub.address, token=TOKEN)
        files = arrived(hub)
    assert url == f"{hub.address}/me/encoder/commit/1"
    assert (hub.made["name"], hub.made["organization"], hub.made["visibility"]) == (
        "encoder",
        "me",
        "private",
    )
    sent = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert set(files) == sent | {"README.md"}
    assert all(files[name] == (folder / name).read_bytes() for name in sent)
    assert bool(hub.large) == ("safetensors" in large)
    card = files["README.md"].decode()
    assert card == hub.yaml and card.startswith("---\ntags:\n- paribus\n")
    assert 'AutoModel.from_pretrained("me/encoder")' in card and "library_name: transformers" in card
    assert (folder / "README.md").read_text() == "an old card", "nothing is written where the checkpoint lies"


def test_a_public_push_says_nothing_of_visibility(folder):
    with stand_in() as hub:
        push(folder, "me/encoder", endpoint=hub.address, token=TOKEN)
    assert "visibility" not in hub.made


def test_a_stage_is_pushed_in_our_format_and_can_be_read_back(tmp_path):
    from paribus.study.stages import Untrained
    from paribus.types import Runtime

    stage, runtime = Untrained(encoder=CONFIG, seed=3), Runtime(cache=tmp_path / "cache")
    record = stage.run(runtime)
    place = stage.folder(runtime)
    loaded = read_folder(place)
    assert loaded.about.format == "stage" and loaded.about.trained.seed == 3
    assert weights_digest(loaded.encoder) == record.start
    with stand_in() as hub:
        push(place, "me/encoder", endpoint=hub.address, token=TOKEN)
        files = arrived(hub)
    assert set(files) == {"encoder.json", "encoder.safetensors", "README.md"}
    back = tmp_path / "back"
    back.mkdir()
    for name, raw in files.items():
        (back / name).write_bytes(raw)
    again = read_folder(back)
    assert weights_digest(again.encoder) == record.start and again.about.trained.seed == 3


@pytest.mark.parametrize(
    ("status", "match"),
    [
        (401, r"the hub does not know the token \(401\).*HF_TOKEN"),
        (403, r"the token may not write there \(403\)"),
        (500, "the hub answered 500"),
    ],
)
def test_refusals_of_the_hub_are_one_sentence(folder, status, match):
    with stand_in(status=status) as hub, pytest.raises(UserError, match=match) as told:
        push(folder, "me/encoder", endpoint=hub.address, token=TOKEN)
    assert "\n" not in str(told.value) and not hub.commits


def test_a_wrong_token_no_token_no_network_and_no_name_are_one_sentence(folder, monkeypatch):
    with stand_in() as hub:
        with pytest.raises(UserError, match="does not know the token"):
            push(folder, "me/encoder", endpoint=hub.address, token="hf_wrong")
        with pytest.raises(UserError, match="There is no token for the hub"):
            push(folder, "me/encoder", endpoint=hub.address)
        assert hub.calls == ["/api/repos/create"]
        with pytest.raises(UserError, match="is no name of a repository"):
            push(folder, "me/en/coder", endpoint=hub.address, token=TOKEN)
        gone = hub.address
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:\d+ cannot be reached") as told:
        push(folder, "me/encoder", endpoint=gone, token=TOKEN)
    assert "\n" not in str(told.value)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        push(folder, "me/encoder", endpoint=gone, token=TOKEN)


def test_nothing_is_sent_of_what_is_no_checkpoint(tmp_path, folder):
    (folder / "model.safetensors").unlink()
    with stand_in() as hub:
        for place, match in ((folder, "holds no weights"), (tmp_path, "has no config")):
            with pytest.raises(UserError, match=match):
                push(place, "me/encoder", endpoint=hub.address, token=TOKEN)
    assert hub.calls == []


# The card.


def test_the_card_tells_the_ledger_and_the_probes_with_their_intervals(tmp_path):
    results, _ = build()
    trained = Trained(objective=next(iter(results.arms)), data="d" * 64, order="o" * 64, samples=12_345)
    write_paribus(perturbed(VisionEncoder(CONFIG)), tmp_path / "encoder", trained)
    loaded = read_folder(tmp_path / "encoder")
    card = model_card(loaded, "me/encoder", results)
    arm = trained.objective
    assert "d" * 64 in card and "12,345" in card and results.hypothesis in card
    assert f"`sha256 {weights_digest(loaded.encoder)}`" in card
    for row in results.ledger:
        if row.role == "control":
            assert f"| {row.path} | control | {row.values[arm]} |" in card
    probes = [m for m in results.measures if m.arm == arm and m.section in ("probe", "knn")]
    assert len(probes) > 3
    for m in probes:
        line = f"| {m.section} | {m.task} | {m.metric} | {m.value:.4g} [{m.low:.4g}, {m.high:.4g}] |"
        assert line in card
    other = next(name for name in results.arms if name != arm)
    assert model_card(loaded, "me/encoder", results, other) != card
    with pytest.raises(UserError, match="has no arm nothing: say --arm with one of"):
        model_card(loaded, "me/encoder", results, "nothing")


def test_the_card_without_a_study_says_how_to_load_each_format(tmp_path):
    write_paribus(VisionEncoder(CONFIG), tmp_path / "encoder")
    card = model_card(read_folder(tmp_path / "encoder"), "me/encoder")
    assert "snapshot_download" in card and "Ledger" not in card and "library_name" not in card
