"""
A Hub for tests: repositories in memory behind the endpoints that `huggingface_hub`, `transformers` and `datasets` ask.

`huggingface_hub` reads where the Hub is when it is imported, so what talks to this one runs in a process of its own,
with the environment that [`Hub.env`] gives. Faults are planned with [`Hub.fail`].
"""

import base64
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from hub_repositories import HubError, Repository, front_matter, git_oid, prefix, sha256

NAMESPACE = "org"
# token -> (user, organisations, whether it may write). Any other token is one that the Hub does not know.
USERS: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "hf_writer": ("writer", (NAMESPACE,), True),
    "hf_reader": ("reader", (NAMESPACE,), False),
    "hf_stranger": ("stranger", (), True),
}
# As the .gitattributes of a new repository has it.
LFS_SUFFIXES = (".safetensors", ".parquet", ".png", ".arrow", ".bin", ".npz")


@dataclass
class Fault:
    """A planned failure of the next `times` requests (None: of all) of `method` whose path contains `part`."""

    method: str
    part: str
    status: int = 500
    times: int | None = 1
    after: int = 0  # requests that are answered first
    message: str = "planned failure"
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    cut: int | None = None  # the connection breaks after so many bytes of content, either way; HEAD gets no answer
    lost: bool = False  # what was asked for is done, and the connection breaks before the answer

    def matches(self, method: str, path: str) -> bool:
        if method != self.method or self.part not in path or self.times == 0:
            return False
        if self.after:
            self.after -= 1
            return False
        self.times = None if self.times is None else self.times - 1
        return True


class Hub(ThreadingHTTPServer):
    """
    The server, and what tests look at.

    Attributes:
        url (`str`): Where it answers.
        token, reader_token, stranger_token (`str`): Tokens of one who may write to `org/...`, of one who may only read
            what is private there, and of somebody else.
        requests (`list[tuple[str, str]]`): Method and path of what was asked for, in order.
    """

    daemon_threads = True
    token, reader_token, stranger_token = USERS

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # large files by SHA-256
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()

    def env(self, home: str | Path, token: str | None = "hf_writer", **changes: str) -> dict[str, str]:
        """Environment of a process to which this is the Hub; its cache is `home`."""
        drop = re.compile(r"HF_|HUGGING|PYTHONPATH|.*proxy", re.IGNORECASE)
        kept = {name: value for name, value in os.environ.items() if not drop.match(name)}
        access = {} if token is None else {"HF_TOKEN": token}
        settings = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        return kept | access | settings | {"HF_HUB_DISABLE_TELEMETRY": "1"} | changes

    def fail(self, method: str, part: str, **how: Any) -> Fault:
        """Plans a [`Fault`]: `fail("POST", "/commit", status=500, times=2)`, `fail("PUT", "/lfs/", cut=1000)`."""
        fault = Fault(method, part, **how)
        self.faults.append(fault)
        return fault

    def reject_card(self, message: str = '"license" must be one of the known ones') -> Fault:
        """The next card is refused, as the Hub refuses metadata that it does not know."""
        answer = {"errors": [{"message": message}], "warnings": []}
        return self.fail("POST", "/api/validate-yaml", status=400, message="Invalid metadata", body=answer)

    def reset(self) -> None:
        """Forgets the faults and the requests, not the repositories."""
        self.faults.clear()
        self.requests.clear()

    def count(self, method: str, part: str = "") -> int:
        """How many requests of `method` had `part` in their path."""
        return sum(one == method and part in path for one, path in self.requests)

    def repository(self, name: str, kind: str = "model") -> Repository:
        return self.repositories[kind, name]

    def create(self, name: str, kind: str = "model", private: bool = False) -> Repository:
        repository = self.repositories[kind, name] = Repository(kind, name, private)
        return repository

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that clients or planned faults cut are no news; a mistake in this file is."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Cut(Exception):
    """The connection is to break now."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and content are written apart; waiting for an ACK costs 40 ms a request
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        with self.server.lock:
            self.server.requests.append((self.command, unquote(url.path)))
            fault = next((f for f in self.server.faults if f.matches(self.command, unquote(url.path))), None)
        self.cut = None if fault is None else fault.cut
        lost = fault is not None and fault.lost
        try:
            self.content = self._read_content()
            if fault is not None and fault.cut is None and not lost:
                error = HubError(fault.status, fault.message)
                error.headers |= fault.headers
                error.body |= fault.body
                raise error
            with self.server.lock:
                status, headers, content = self._route(url.path)
            if lost:
                raise _Cut
            self._send(status, headers, content)
        except HubError as error:
            self._send(error.status, error.headers, json.dumps(error.body).encode())
        except (_Cut, OSError):
            self.close_connection = True

    def _read_content(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        if self.cut is not None and self.command in ("PUT", "POST"):
            self.rfile.read(min(self.cut, length))
            raise _Cut
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(length)

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        if self.cut is not None and self.command == "HEAD":
            raise _Cut
        self.send_response(status)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(content))} | headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content if self.cut is None else content[: self.cut])
        if self.cut is not None:
            raise _Cut

    def _route(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of the answer. Revisions arrive quoted, so that their slashes are not ours."""
        self.user = self._user()
        for methods, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods.split():
                found = answer(self, **{name: unquote(part or "") for name, part in match.groupdict().items()})
                return found if isinstance(found, tuple) else (200, {}, json.dumps(found).encode())
        raise HubError(404, f"no such endpoint: {self.command} {path}")

    def _user(self) -> tuple[str, tuple[str, ...], bool] | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in USERS:
            raise HubError(401, "Invalid credentials in Authorization header")
        return USERS.get(token)

    def _member(self, name: str) -> bool:
        return self.user is not None and name.split("/")[0] in (self.user[0], *self.user[1])

    def _repository(self, kind: str, name: str) -> Repository:
        """As the Hub: who may not see a repository is not told that it exists."""
        repository = self.server.repositories.get((kind.removesuffix("s") or "model", name))
        if repository is None or (repository.private and not self._member(name)):
            if self.user is None:
                # The client knows what this 401 means by its text where the address is https; over http by the code.
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repository

    def _writable(self, kind: str, name: str) -> Repository:
        repository = self._repository(kind, name)
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        if not self._member(name):
            raise HubError(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        if not self.user[2]:
            raise HubError(403, "Forbidden: you must use a write token to upload to a repository")
        return repository

    # ------------------------------------------------------------------------------------- repositories

    def create(self) -> Any:
        asked = json.loads(self.content)
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        kind, name = asked.get("type") or "model", f"{asked.get('organization') or self.user[0]}/{asked['name']}"
        if not self._member(name) or not self.user[2]:
            namespace = name.split("/")[0]
            raise HubError(403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
        url = f"{self.server.url}/{'' if kind == 'model' else kind + 's/'}{name}"
        if kind == "space" and asked.get("sdk") not in ("gradio", "docker", "static"):
            raise HubError(400, '"sdk" is required')
        if (kind, name) in self.server.repositories:
            raise HubError(409, f"You already created this {kind} repo", url=url)
        self.server.create(name, kind, asked.get("private") or asked.get("visibility") == "private")
        return {"url": url, "name": name, "id": name}

    def validate_yaml(self) -> Any:
        try:
            front_matter(json.loads(self.content)["content"])
        except (yaml.YAMLError, TypeError) as error:
            errors = [{"message": f"Invalid YAML: {error}"}]
            raise HubError(400, "Invalid metadata", errors=errors, warnings=[]) from error
        return {"errors": [], "warnings": []}

    # ------------------------------------------------------------------------------------------------- uploading

    def preupload(self, kind: str, name: str, revision: str) -> Any:
        repository = self._writable(kind, name)
        commit = repository.at(revision)
        files = []
        for asked in json.loads(self.content)["files"]:
            path = asked["path"]
            content = commit.files.get(path)
            lfs = path.endswith(LFS_SUFFIXES)
            oid = None if content is None else sha256(content) if path in commit.lfs else git_oid(content)
            mode = "lfs" if lfs else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": files}

    def lfs_batch(self, kind: str, name: str) -> Any:
        self._writable(kind, name)
        objects = []
        for asked in json.loads(self.content)["objects"]:
            one = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.server.objects:
                one["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{asked['oid']}", "header": {}}}
            objects.append(one)
        return {"transfer": "basic", "objects": objects}

    def lfs_put(self, oid: str) -> Any:
        if sha256(self.content) != oid:
            raise HubError(400, "The content does not have the hash that was announced")
        self.server.objects[oid] = self.content
        return {}

    def commit(self, kind: str, name: str, revision: str) -> Any:
        repository = self._writable(kind, name)
        if revision not in repository.branches:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        base = repository.at(revision)
        files, lfs, title = dict(base.files), set(base.lfs), ""
        for line in self.content.decode().splitlines():
            one = json.loads(line)
            key, value = one["key"], one["value"]
            path = value.get("path", "")
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit", base.oid) != base.oid:
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[path] = base64.b64decode(value["content"])
                lfs.discard(path)
            elif key == "lfsFile":
                if value["oid"] not in self.server.objects:
                    raise HubError(422, f"LFS pointer points to a file that does not exist: {path}")
                files[path] = self.server.objects[value["oid"]]
                lfs.add(path)
            elif key in ("deletedFile", "deletedFolder"):
                gone = [one for one in files if one == path or one.startswith(f"{path.rstrip('/')}/")]
                if not gone:
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
                for one in gone:
                    del files[one]
                    lfs.discard(one)
        new = repository.commit(revision, title, files, frozenset(lfs))
        return {
            "success": True,
            "commitOid": new.oid,
            "commitUrl": f"{self.server.url}/{prefix(repository.kind)}{name}/commit/{new.oid}",
            "hookOutput": "",
        }

    # -------------------------------------------------------------------------------------- revisions and listings

    def refs(self, kind: str, name: str) -> Any:
        repository = self._repository(kind, name)

        def lines(names: dict[str, str], where: str) -> list[dict[str, str]]:
            return [{"name": one, "ref": f"refs/{where}/{one}", "targetCommit": oid} for one, oid in names.items()]

        found = {"branches": lines(repository.branches, "heads"), "tags": lines(repository.tags, "tags")}
        return found | {"converts": [], "pullRequests": []}

    def tag(self, kind: str, name: str, revision: str) -> Any:
        repository = self._writable(kind, name)
        tag = json.loads(self.content)["tag"]
        if tag in repository.tags:
            raise HubError(409, f"Tag reference exists already: refs/tags/{tag}")
        repository.tags[tag] = repository.at(revision).oid
        return {}

    def branch(self, kind: str, name: str, revision: str) -> Any:
        repository = self._writable(kind, name)
        if revision in repository.branches:
            raise HubError(409, f"Reference already exists: refs/heads/{revision}")
        start = json.loads(self.content or b"{}").get("startingPoint") or "main"
        repository.branches[revision] = repository.at(start).oid
        return {}

    def info(self, kind: str, name: str, revision: str) -> Any:
        repository = self._repository(kind, name)
        return repository.info(repository.at(revision or "main"))

    def tree(self, kind: str, name: str, revision: str, folder: str) -> Any:
        repository = self._repository(kind, name)
        return repository.tree(repository.at(revision), folder, self.query.get("recursive", "").lower() == "true")

    def resolve(self, kind: str, name: str, revision: str, path: str) -> tuple[int, dict[str, str], bytes]:
        repository = self._repository(kind, name)
        commit = repository.at(revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        content = commit.files.get(path)
        if content is None:
            error = HubError(404, "Entry not found", "EntryNotFound")
            error.headers["X-Repo-Commit"] = commit.oid  # so that the cache remembers that there is none
            raise error
        if path in commit.lfs:
            headers |= {"ETag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
            headers["X-Linked-Etag"] = headers["ETag"]
        else:
            headers["ETag"] = f'"{git_oid(content)}"'
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            return 200, headers, content
        first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        if first >= len(content):
            raise HubError(416, "Requested range not satisfiable")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return 206, headers, content[first : last + 1]


_API = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
_REVISION = r"/(?P<revision>[^/]+)"
_PAGE = r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+?)"
ROUTES: list[tuple[str, str, Any]] = [
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("POST", _API + r"/preupload" + _REVISION, _Handler.preupload),
    ("POST", _API + r"/commit" + _REVISION, _Handler.commit),
    ("POST", _API + r"/tag" + _REVISION, _Handler.tag),
    ("POST", _API + r"/branch" + _REVISION, _Handler.branch),
    ("GET", _API + r"/refs", _Handler.refs),
    ("GET", _API + r"/tree" + _REVISION + r"(?:/(?P<folder>.+))?", _Handler.tree),
    ("GET", _API + r"(?:/revision" + _REVISION + r")?", _Handler.info),
    ("POST", _PAGE + r"\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", _Handler.lfs_put),
    ("GET HEAD", _PAGE + r"/resolve" + _REVISION + r"/(?P<path>.+)", _Handler.resolve),
]
