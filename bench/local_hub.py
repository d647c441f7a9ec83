"""A small Hub on loopback: it answers huggingface_hub like the real one, with faults on demand."""

import base64
import json
import shutil
import socket
import struct
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bench.hub_files import BIG, Hub, Repo, entry, sha256, size


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        raw = urlsplit(self.path).path.strip("/")
        path = unquote(raw)
        self.hub.log.append((self.command, path, self.headers.get("Range")))
        if self.hub.fail[path] > 0:
            self.hub.fail[path] -= 1
            return self._send(503, {}, b"")
        parts = [unquote(part) for part in raw.split("/")]
        api = parts[0] == "api"
        parts = parts[1:] if api else parts
        kind = parts.pop(0) if parts[0] in ("models", "datasets") else "models"
        repo = self.hub.repos.get(f"{kind}/{'/'.join(parts[:2])}")
        verb, revision, *rest = parts[2:] + ["", "main"][len(parts[2:]) :]
        if self._refused(repo, revision, verb):
            return None
        return self._listing(repo, verb) if api else self._file(repo, "/".join(rest))

    def do_POST(self) -> None:
        path, data = urlsplit(self.path).path.strip("/"), self._body()
        self.hub.log.append((self.command, path, None))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not self.hub.writer or token != self.hub.writer:
            return self._send(403 if token else 401, {}, b"{}")
        if path == "api/repos/create":
            return self._create(json.loads(data))
        if path == "api/validate-yaml":
            return self._answer({"warnings": [], "errors": []})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._answer({"transfer": "basic", "objects": self._batch(json.loads(data)["objects"])})
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(data)["files"]]
            modes = {name: "lfs" if name.endswith((*BIG, ".gguf")) else "regular" for name in names}
            files = [
                {"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()
            ]
            return self._answer({"files": files})
        return self._commit(path, data)

    def do_PUT(self) -> None:
        data = self._body()
        self.hub.big_files[sha256(data)] = data
        self._send(200, {}, b"")

    def _body(self) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _answer(self, content: dict) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _create(self, request: dict) -> None:
        name = f"{request['organization']}/{request['name']}"
        known = f"models/{name}" in self.hub.repos
        if not known:
            self.hub.repos[f"models/{name}"] = Repo({}, private=request.get("visibility") == "private")
        body = json.dumps({"url": f"{self.hub.url}/{name}", "name": name}).encode()
        self._send(409 if known else 200, {"Content-Type": "application/json"}, body)

    def _batch(self, objects: list[dict]) -> list[dict]:
        return [
            each | {"actions": {"upload": {"href": f"{self.hub.url}/upload/{each['oid']}", "header": {}}}}
            for each in objects
        ]

    def _commit(self, path: str, data: bytes) -> None:
        """Operations of a commit, one per line: small files with their content, big ones by their sum."""
        repo = self.hub.repos["/".join(path.split("/")[1:4])]
        for line in data.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.big_files[value["oid"]]
        url = f"{self.hub.url}/{'/'.join(path.split('/')[2:4])}/commit/{repo.commit}"
        self._answer({"success": True, "commitOid": repo.commit, "commitUrl": url})

    def _refused(self, repo: Repo | None, revision: str, verb: str) -> bool:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token == "stale":
            self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b"")
        elif repo is None or (repo.token and token != repo.token):
            self._send(404 if token else 401, {"X-Error-Code": "RepoNotFound"}, b"")
        elif revision not in (repo.commit, *repo.branches):
            self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"")
        elif repo.gated and verb == "resolve":
            self._send(403, {"X-Error-Code": "GatedRepo"}, b"")
        else:
            return False
        return True

    def _listing(self, repo: Repo, verb: str) -> None:
        entries = [entry(name, data) for name, data in repo.files.items()]
        siblings = [{"rfilename": name} for name in repo.files]
        answer = entries if verb == "tree" else {"id": "x/y", "sha": repo.commit, "siblings": siblings}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _file(self, repo: Repo, name: str) -> None:
        if name not in repo.files:
            return self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.commit}, b"")
        data, listed = repo.files[name], entry(name, repo.files[name])
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{listed["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" in listed:
            headers |= {"X-Linked-Etag": f'"{listed["lfs"]["oid"]}"', "X-Linked-Size": str(listed["size"])}
        if isinstance(data, Path) and "lfs" in listed:
            return self._stream(headers, data)
        data = data.read_bytes() if isinstance(data, Path) else data
        if self.command == "GET" and self.hub.spoil[name] > 0:
            self.hub.spoil[name] -= 1
            data = bytes([data[0] ^ 1]) + data[1:]
        span = self.headers.get("Range")
        if not span:
            return self._send(200, headers, data, name)
        start = int(span.removeprefix("bytes=").split("-")[0])
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self._send(206, headers, data[start:], name)

    def _stream(self, headers: dict[str, str], path: Path) -> None:
        """Send a file that is too large for memory, whole and without faults."""
        self.send_response(200)
        for key, value in (headers | {"Accept-Ranges": "none", "Content-Length": str(size(path))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            with path.open("rb") as file:
                shutil.copyfileobj(file, self.wfile, 1 << 20)

    def _send(self, status: int, headers: dict[str, str], body: bytes, name: str = "") -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cut[name] > 0:
            self.hub.cut[name] -= 1
            body, self.close_connection = body[: len(body) // 2], True
        self.wfile.write(body)
        if self.close_connection and self.hub.reset:
            # Closed here, since the server's own way out ends a connection in good order first.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.connection.detach())


@contextmanager
def running(repos: dict[str, Repo]):
    """A Hub that serves repos ("models/owner/name" or "datasets/owner/name") until the block ends."""
    hub = Hub(repos=repos)
    for repo in repos.values():
        # Checksums of large files take longer than a client waits for an answer.
        for name, data in repo.files.items():
            entry(name, data)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
