"""A stand-in for the hub's API on 127.0.0.1: what huggingface_hub asks of it up and down.

It is no Hugging Face Hub. It keeps repositories in memory, takes one token, and answers the calls
of the plain (not Xet) path: create a repository, check a card, preupload, LFS batch, upload and
verify, commit, list, resolve. What it does not know it refuses with 404, so that a client that asks
for more is noticed. It stops when its block ends.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_stand_in"


@dataclass
class StandIn:
    """What the stand-in holds.

    Attributes:
        address: of the server, to be given as HF_ENDPOINT.
        private: repositories by name, and whether each is private.
        files: of each repository, by path.
        lfs: what came as large files, by SHA-256.
        asked: method and path of every request, in order.
    """

    address: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def commit_of(self, repo: str) -> str:
        """Return the only commit of a repository: a digest of all that is in it."""
        digest = hashlib.sha1()
        for path, content in sorted(self.files[repo].items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()


@contextlib.contextmanager
def run_stand_in() -> Iterator[StandIn]:
    """Run a stand-in for as long as the block."""
    hub = StandIn()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A client that stops half-way must not hold the test up.
    timeout = 20
    state: StandIn

    def log_message(self, format: str, *args: Any) -> None:
        """Keep requests instead of printing them."""

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.state.asked.append(f"{self.command} {path}")
        body = self._read_body()
        # Large files go to addresses that were given out, which carry no token at the real hub.
        if not path.startswith("/lfs/") and self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        else:
            self._route(path.strip("/").split("/"), body)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _route(self, path: list[str], body: bytes) -> None:
        match [self.command, *path]:
            case ["POST", "api", "repos", "create"]:
                self._create(json.loads(body))
            case ["POST", "api", "validate-yaml"]:
                self._answer(200, {"errors": [], "warnings": []})
            case ["POST", "api", "models", org, name, "preupload", "main"]:
                self._answer(200, {"files": list(map(_choose_mode, json.loads(body)["files"]))})
            case ["POST", org, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                self._answer(200, self._batch(json.loads(body)))
            case ["PUT", "lfs", oid]:
                assert hashlib.sha256(body).hexdigest() == oid
                self.state.lfs[oid] = body
                self._answer(200, {})
            case ["POST", "lfs", "verify"] | ["POST", "lfs", "verify", _]:
                asked = json.loads(body)
                known = len(self.state.lfs.get(asked["oid"], b"")) == asked["size"]
                self._answer(200 if known else 404, {})
            case ["POST", "api", "models", org, name, "commit", "main"]:
                self._commit(f"{org}/{name}", body)
            case ["GET", "api", "models", org, name, *_]:
                self._describe(f"{org}/{name}", path[4:])
            case ["HEAD" | "GET", org, name, "resolve", _, *inside]:
                self._resolve(f"{org}/{name}", "/".join(inside))
            case _:
                self._answer(404, {"error": "unknown to the stand-in"})

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        url = f"{self.state.address}/{repo}"
        if repo in self.state.files:
            self._answer(409, {"error": "You already created this model repo", "url": url})
            return
        self.state.files[repo] = {}
        # huggingface_hub 2 says "visibility", 1 said "private".
        self.state.private[repo] = asked.get("visibility") == "private" or bool(
            asked.get("private")
        )
        self._answer(200, {"url": url})

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["operation"] == "upload"
        objects = []
        for one in asked["objects"]:
            href = f"{self.state.address}/lfs/{one['oid']}"
            verify = {"href": f"{self.state.address}/lfs/verify"}
            actions = {"upload": {"href": href}, "verify": verify}
            objects.append(one if one["oid"] in self.state.lfs else {**one, "actions": actions})
        return {"transfer": "basic", "objects": objects}

    def _commit(self, repo: str, body: bytes) -> None:
        files = self.state.files[repo]
        for line in body.splitlines():
            part = json.loads(line)
            value = part["value"]
            if part["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif part["key"] == "lfsFile":
                files[value["path"]] = self.state.lfs[value["oid"]]
        commit = self.state.commit_of(repo)
        url = f"{self.state.address}/{repo}/commit/{commit}"
        self._answer(200, {"success": True, "commitOid": commit, "commitUrl": url})

    def _describe(self, repo: str, inside: list[str]) -> None:
        if repo not in self.state.files:
            self._answer(404, {"error": "Repository not found"}, code="RepoNotFound")
            return
        files = self.state.files[repo]
        if inside[:1] == ["tree"]:
            tree = [_describe_file(path, content) for path, content in files.items()]
            self._answer(200, tree)
            return
        siblings = [{"rfilename": path} for path in files]
        info = {"_id": "0" * 24, "id": repo, "sha": self.state.commit_of(repo), "tags": []}
        self._answer(200, {**info, "siblings": siblings, "private": self.state.private[repo]})

    def _resolve(self, repo: str, path: str) -> None:
        content = self.state.files.get(repo, {}).get(path)
        if content is None:
            self._answer(404, {"error": "Entry not found"}, code="EntryNotFound")
            return
        digest = hashlib.sha256(content).hexdigest()
        more = {"X-Repo-Commit": self.state.commit_of(repo), "ETag": f'"{digest}"'}
        self._send(200, content, kind="application/octet-stream", more=more)

    def _answer(self, status: int, value: Any, *, code: str = "") -> None:
        more = {"X-Error-Code": code} if code else {}
        self._send(status, json.dumps(value).encode(), kind="application/json", more=more)

    def _send(self, status: int, content: bytes, *, kind: str, more: dict[str, str]) -> None:
        self.send_response(status)
        # A connection that is kept would go on being served after the stand-in has stopped.
        self.close_connection = True
        length = str(len(content))
        headers = {"Content-Type": kind, "Content-Length": length, "Connection": "close", **more}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _choose_mode(one: dict[str, Any]) -> dict[str, Any]:
    large = one["path"].endswith(".safetensors")
    mode = "lfs" if large else "regular"
    return {"path": one["path"], "uploadMode": mode, "shouldIgnore": False}


def _describe_file(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid}
    if path.endswith(".safetensors"):
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
    return entry
