"""A stand-in of the hub's HTTP interface on 127.0.0.1: what uploads ask of it, and its accidents.

Repositories, preupload, LFS objects and commits as huggingface_hub 1.33 asks for them; the protocol
of its newer storage (xet) is not here, so the client is told to do without.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

TOKEN = "hf_" + "Standin0" * 5
LARGE = (".safetensors", ".parquet")
"""Kept as LFS objects, as the hub's own .gitattributes says."""


@dataclass
class Repository:
    """Files by path, and the commits; the first one is the hub's own."""

    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is what some tests are about."""


class Hub:
    """What the server holds, and what is to go wrong."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        """By type and id: `models/org/name`."""
        self.objects: dict[str, bytes] = {}
        """LFS objects by sha256."""
        self.sent: list[str] = []
        """sha256 of every object that a client sent whole."""
        self.stalls = False
        """Whether an object is read to half, and is lost: `is_half` says when."""
        self.is_half = threading.Event()
        self.loses_answer = False
        """Whether a commit is made and the connection closed without an answer."""
        self.spoils = False
        """Whether a commit changes a byte of what it stores."""
        self.refuses = ""
        """Path under which everything is forbidden, in words that repeat the token."""
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        serve = {"target": self._server.serve_forever, "args": (0.05,), "daemon": True}
        threading.Thread(**serve).start()

    def files(self, repository: str, *, kind: str = "models") -> dict[str, bytes]:
        """What a visitor sees, without the hub's own file."""
        there = self.repositories[f"{kind}/{repository}"].files
        return {path: content for path, content in there.items() if path != ".gitattributes"}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def create(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = f"{body.get('type') or 'model'}s/{body['organization']}/{body['name']}"
        status = 409 if name in self.repositories else 200
        self.repositories.setdefault(name, Repository({".gitattributes": b"* lfs\n"}))
        return status, {"url": f"{self.endpoint}/{name.removeprefix('models/')}"}

    def tree(self, name: str) -> list[dict[str, Any]]:
        return [_entry(path, data) for path, data in self.repositories[name].files.items()]

    def preupload(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        there = {entry["path"]: entry["oid"] for entry in self.tree(name)}
        return {
            "files": [
                {
                    "path": item["path"],
                    "uploadMode": "lfs" if item["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": there.get(item["path"]),
                }
                for item in body["files"]
            ]
        }

    def batch(self, body: dict[str, Any]) -> dict[str, Any]:
        def answer(item: dict[str, Any]) -> dict[str, Any]:
            if item["oid"] in self.objects:
                return item
            return {**item, "actions": {"upload": {"href": f"{self.endpoint}/lfs/{item['oid']}"}}}

        return {"transfer": "basic", "objects": [answer(item) for item in body["objects"]]}

    def commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        repository = self.repositories[name]
        header, *operations = lines
        if header["value"].get("parentCommit") not in (None, repository.commits[-1]):
            return 412, {"error": "A commit has happened since. Please refresh and try again."}
        files = dict(repository.files)
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
            if self.spoils:
                files[value["path"]] += b"!"
        repository.files = files
        repository.commits.append(f"{len(repository.commits):040x}")
        oid = repository.commits[-1]
        return 200, {"commitUrl": f"{self.endpoint}/{name}/commit/{oid}", "commitOid": oid}


def _entry(path: str, data: bytes) -> dict[str, Any]:
    """A file as the hub lists it: git's hash of it, or of the pointer that stands for it."""
    digest = hashlib.sha256(data).hexdigest()
    large = path.endswith(LARGE)
    stored = b"pointer to " + digest.encode() if large else data
    oid = hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()
    lfs = {"lfs": {"oid": digest, "size": len(data), "pointerSize": len(stored)}} if large else {}
    return {"type": "file", "path": path, "size": len(data), "oid": oid, **lfs}


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _answer(self, status: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _serve(self) -> None:
            path = self.path.partition("?")[0]
            size = int(self.headers.get("Content-Length", 0))
            if path.startswith("/lfs/") and hub.stalls:
                self.rfile.read(size // 2)
                hub.is_half.set()
                self.close_connection = True
                return None
            body = self.rfile.read(size)
            if not path.startswith("/lfs/") and self.headers["Authorization"] != f"Bearer {TOKEN}":
                return self._answer(401, {"error": "Invalid credentials in Authorization header"})
            if hub.refuses and hub.refuses in path:
                return self._answer(403, {"error": f"no: {self.headers['Authorization']}"})
            position = re.fullmatch(r"/api/(\w+/[^/]+/[^/]+)(?:/(tree|preupload|commit)/.+)?", path)
            if path == "/api/repos/create":
                self._answer(*hub.create(json.loads(body)))
            elif path == "/api/validate-yaml":
                self._answer(200, {"warnings": [], "errors": []})
            elif path.endswith(".git/info/lfs/objects/batch"):
                self._answer(200, hub.batch(json.loads(body)))
            elif path.startswith("/lfs/"):
                self._store(path.removeprefix("/lfs/"), body)
            elif position is None or position[1] not in hub.repositories:
                self._answer(404, {"error": "Repository not found"})
            elif position[2] == "tree":
                self._answer(200, hub.tree(position[1]))
            elif position[2] == "preupload":
                self._answer(200, hub.preupload(position[1], json.loads(body)))
            elif position[2] == "commit":
                self._commit(position[1], [json.loads(line) for line in body.splitlines()])
            else:
                sha = hub.repositories[position[1]].commits[-1]
                self._answer(200, {"id": position[1].partition("/")[2], "sha": sha})

        def _store(self, oid: str, body: bytes) -> None:
            if hashlib.sha256(body).hexdigest() != oid:
                return self._answer(400, {"error": "not the object that was announced"})
            hub.objects[oid] = body
            hub.sent.append(oid)
            self._answer(200, {})

        def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
            status, value = hub.commit(name, lines)
            if hub.loses_answer:
                self.close_connection = True
            else:
                self._answer(status, value)

        do_GET = do_POST = do_PUT = _serve

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in that this process's client talks to, with its token."""
    from huggingface_hub import constants

    made = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", made.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    # Tests have no network but this.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield made
    made.close()
