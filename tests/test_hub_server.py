"""The Hub of the tests answers as the real one does: huggingface_hub's own client is content with it, and refused."""

import subprocess
import sys

import pytest

ROUND_TRIP = """
import warnings
from pathlib import Path
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download

folder = Path("folder")
(folder / "energy").mkdir(parents=True)
(folder / "README.md").write_text("---\\nlicense: mit\\ntags: [silicon]\\n---\\n# Card\\n")
(folder / "energy" / "model.safetensors").write_bytes(bytes(range(256)) * 100)
api = HfApi()
for kind in ("model", "dataset"):
    api.create_repo("org/x", repo_type=kind)
    api.create_repo("org/x", repo_type=kind, exist_ok=True)
    first = api.upload_folder(repo_id="org/x", folder_path=folder, repo_type=kind)
    api.create_tag("org/x", tag="v1", repo_type=kind)
    second = api.upload_folder(repo_id="org/x", folder_path=folder, repo_type=kind)
    assert first.oid == second.oid, "nothing changed, so there is nothing to commit"
    api.upload_file(repo_id="org/x", path_or_fileobj=b"new", path_in_repo="notes/new.txt", repo_type=kind)
    api.delete_file("README.md", "org/x", repo_type=kind)
    assert sorted(api.list_repo_files("org/x", repo_type=kind)) == ["energy/model.safetensors", "notes/new.txt"]
    assert "README.md" in api.list_repo_files("org/x", repo_type=kind, revision="v1")
    refs = api.list_repo_refs("org/x", repo_type=kind)
    assert [ref.name for ref in refs.tags] == ["v1"] and refs.tags[0].target_commit == first.oid
    api.create_branch("org/x", branch="feature/one", repo_type=kind, revision="v1")
    assert api.repo_info("org/x", repo_type=kind, revision="feature/one").sha == first.oid
    copy = Path(snapshot_download("org/x", repo_type=kind, revision="v1"))
    for file in ("README.md", "energy/model.safetensors"):
        assert (copy / file).read_bytes() == (folder / file).read_bytes()
    tree = {entry.path: entry for entry in api.list_repo_tree("org/x", repo_type=kind)}
    assert set(tree) == {"energy", "notes"}
    (weights,) = api.list_repo_tree("org/x", "energy", repo_type=kind)
    assert weights.lfs.size == weights.size == 25600
    prefix = "datasets/" if kind == "dataset" else ""
    with HfFileSystem().open(f"{prefix}org/x/energy/model.safetensors") as file:
        file.seek(1000)
        assert file.read(3) == bytes([232, 233, 234])
assert api.model_info("org/x", revision="v1").card_data.license == "mit"
"""

REFUSALS = """
import sys
from huggingface_hub import HfApi, errors, hf_hub_download

api = HfApi()
kind, call = sys.argv[1:]
try:
    eval(call)
except Exception as error:
    print(type(error).__name__, getattr(getattr(error, "response", None), "status_code", ""), error, sep="|")
    assert type(error).__name__ == kind, (type(error), error)
else:
    raise SystemExit("it went well")
"""


@pytest.fixture
def client(hub, tmp_path):
    def run(code: str, *arguments: str, token: str | None = hub.token) -> subprocess.CompletedProcess:
        environment = hub.env(tmp_path / "hf", token)
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_round_trip(hub, client):
    run = client(ROUND_TRIP)
    assert run.returncode == 0, run.stderr
    assert hub.count("PUT", "/lfs/") == 1  # the same content is not sent again
    assert hub.count("POST", "/commit/") == 6
    assert {len(hub.repository("org/x", kind).commits) for kind in ("model", "dataset")} == {4}


@pytest.mark.parametrize(
    ("token", "kind", "call", "status"),
    [
        ("hf_writer", "RepositoryNotFoundError", "api.model_info('org/none')", 404),
        (None, "RepositoryNotFoundError", "api.model_info('org/private')", 401),
        ("hf_stranger", "RepositoryNotFoundError", "api.model_info('org/private')", 404),
        ("hf_writer", "RevisionNotFoundError", "api.model_info('org/x', revision='v9')", 404),
        ("hf_writer", "RemoteEntryNotFoundError", "hf_hub_download('org/x', 'none.txt')", 404),
        ("hf_wrong", "HfHubHTTPError", "api.model_info('org/x')", 401),
        ("hf_stranger", "HfHubHTTPError", "api.create_repo('org/new')", 403),
        ("hf_reader", "HfHubHTTPError", "api.create_repo('org/new')", 403),
        ("hf_reader", "HfHubHTTPError", "api.create_tag('org/private', tag='v1')", 403),
        ("hf_writer", "HfHubHTTPError", "api.create_repo('org/x')", 409),
    ],
)
def test_refusals(hub, client, token, kind, call, status):
    hub.create("org/x")
    hub.create("org/private", private=True)
    run = client(REFUSALS, kind, call, token=token)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.split("|")[1] == str(status)


def test_planned_faults(hub, client):
    hub.create("org/x")
    upload = "api.upload_file(repo_id='org/x', path_or_fileobj=bytes(9_000_000), path_in_repo='x.bin')"
    hub.fail("PUT", "/lfs/", cut=1000)  # http_backoff sends it again
    hub.fail("POST", "/commit/", status=500, message="out of order")
    run = client(REFUSALS, "HfHubHTTPError", upload)
    assert "out of order" in run.stdout, run.stdout + run.stderr
    assert hub.count("PUT", "/lfs/") == 2 and not hub.repository("org/x").files
    hub.reject_card("no such license")
    card = "api.upload_file(repo_id='org/x', path_or_fileobj=b'# Card', path_in_repo='README.md')"
    run = client(REFUSALS, "ValueError", card)
    assert "no such license" in run.stdout, run.stdout + run.stderr
    commits = len(hub.repository("org/x").commits)
    assert client("from huggingface_hub import HfApi\napi = HfApi()\n" + upload).returncode == 0
    assert hub.count("PUT", "/lfs/") == 2 and len(hub.repository("org/x").commits) == commits + 1
