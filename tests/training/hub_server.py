"""As much of the hub as huggingface_hub asks when a folder is pushed, in memory: what it says is what was asked of
huggingface_hub 0.36's source (create_repo, create_commit, lfs.py)."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

OWNER, TOKEN = "someone", "hf_of_someone"  # who has the token, and a name without an owner


class Hub(ThreadingHTTPServer):
    """repositories: the files of each by path. lfs: which of them went by LFS. refuse: answer commits with 500."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.lfs: set[str] = set()
        self.refuse = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body, path = self.read_body(), self.path.split("?")[0]
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.validate_card(json.loads(body)["content"])
        elif path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = {file["path"]: "lfs" if file["path"].endswith(".safetensors") else "regular" for file in files}
            self.answer(
                {"files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]}
            )
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [{**one, "actions": self.lfs_actions(one["oid"])} for one in json.loads(body)["objects"]]
            self.answer({"transfer": "basic", "objects": objects})
        elif path == "/lfs/verify":
            wanted = json.loads(body)
            stored = len(self.server.blobs[wanted["oid"]]) == wanted["size"]
            self.answer({}, 200 if stored else 422)
        elif path.endswith("/commit/main") and not self.server.refuse:
            self.commit(path.removeprefix("/api/models/").removesuffix("/commit/main"), body)
        else:
            self.answer({"error": f"no {path} today"}, 500)

    def do_PUT(self):
        body, oid = self.read_body(), self.path.removeprefix("/lfs/")
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.blobs[oid] = body
        self.answer({})

    def lfs_actions(self, oid: str) -> dict:
        return {"upload": {"href": f"{self.server.url}/lfs/{oid}"}, "verify": {"href": f"{self.server.url}/lfs/verify"}}

    def create(self, asked: dict) -> None:
        name = f"{asked['organization'] or OWNER}/{asked['name']}"
        there = name in self.server.repositories
        self.server.repositories.setdefault(name, {})
        self.answer({"url": f"{self.server.url}/{name}"}, 409 if there else 200)

    def validate_card(self, card: str) -> None:
        _, metadata, _ = card.split("---\n", 2)
        known = yaml.safe_load(metadata)
        base = known.get("base_model", "none/given")
        errors = [] if base.count("/") == 1 and base[0] not in "./" else [{"message": f"base_model {base}"}]
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def commit(self, name: str, body: bytes) -> None:
        files = self.server.repositories[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
                self.server.lfs.add(value["path"])
        self.answer({"commitUrl": f"{self.server.url}/{name}/commit/0", "commitOid": "0"})

    def read_body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def answer(self, body: dict, status: int = 200) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def hub_server() -> Iterator[Hub]:
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()
