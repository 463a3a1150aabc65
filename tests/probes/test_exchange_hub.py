"""push and pull against a small server that speaks the hub's protocol, on this machine alone."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
import yaml

from probes.__main__ import main
from probes.errors import ExchangeError
from probes.exchange import hub
from probes.exchange.model_card import model_card
from steering.artefact import load_probe, save_probe
from steering.errors import CorruptProbe


class Hub(ThreadingHTTPServer):
    """Repositories in memory: name -> commits, newest last, each {file: bytes}."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.fetched: list[str] = []

    def sha(self, repository: str, index: int) -> str:
        return hashlib.sha1(f"{repository}:{index}".encode()).hexdigest()

    def at(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.commits.get(repository, [])
        shas = [self.sha(repository, index) for index in range(len(commits))]
        if revision == "main" and commits:
            return shas[-1], commits[-1]
        return (revision, commits[shas.index(revision)]) if revision in shas else None


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repository = "/".join(parts[2:4])
            what, revision = (parts[4], parts[5]) if len(parts) > 5 else ("revision", "main")
            found = self.server.at(repository, revision)
            if found is None:
                code = "RevisionNotFound" if repository in self.server.commits else "RepoNotFound"
                return self.answer(404, b"{}", {"X-Error-Code": code})
            sha, files = found
            if what == "tree":
                entries = [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in files.items()]
                return self.answer(200, json.dumps(entries).encode())
            document = {"id": repository, "sha": sha, "siblings": [{"rfilename": name} for name in files]}
            return self.answer(200, json.dumps(document).encode())
        repository, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        found = self.server.at(repository, revision)
        assert found is not None
        sha, files = found
        if self.command == "GET":
            self.server.fetched.append(name)
        etag = hashlib.sha256(files[name]).hexdigest()
        return self.answer(200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": sha})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts[-1] == "validate-yaml":
            return self.answer(200, b'{"errors": [], "warnings": []}')
        if parts[-1] == "create":
            given = json.loads(body)
            repository = f"{given['organization']}/{given['name']}"
            self.server.commits.setdefault(repository, [])
            return self.answer(200, json.dumps({"url": f"{self.base}/{repository}"}).encode())
        repository = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, json.dumps({"files": files}).encode())
        lines = [json.loads(line) for line in body.splitlines()]
        commits = self.server.commits[repository]
        files = dict(commits[-1]) if commits else {}
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        commits.append(files)
        sha = self.server.sha(repository, len(commits) - 1)
        answer = {"commitUrl": f"{self.base}/{repository}/commit/{sha}", "commitOid": sha, "pullRequestUrl": None}
        return self.answer(200, json.dumps(answer).encode())

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def server(monkeypatch, tmp_path) -> Iterator[Hub]:
    with Hub() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        endpoint = f"http://127.0.0.1:{found.server_port}"
        constants = huggingface_hub.constants
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        huggingface_hub.utils.close_session()
        yield found
        huggingface_hub.utils.close_session()
        found.shutdown()
        thread.join()


@pytest.fixture
def folder(probe, tmp_path) -> Path:
    """A saved probe with a card, and files that have no business on a hub."""

    def beside(path: Path) -> None:
        (path / "card.md").write_text("# its card\n\nfigures\n", encoding="utf-8")
        (path / "layers.png").write_bytes(b"picture")
        (path / "notes.pt").write_bytes(b"pickle")
        (path / ".secret.json").write_text("{}", encoding="utf-8")

    return save_probe(probe, tmp_path / "made", beside=beside)


def test_what_is_pushed_is_pulled_at_its_commit(server, folder, tmp_path, capsys):
    assert main(["push", str(folder), "me/tox", "--licence", "apache-2.0"]) == 0
    pinned = capsys.readouterr().out.strip()
    assert pinned == f"me/tox@{server.sha('me/tox', 0)}"
    assert server.commits["me/tox"][0].keys() == {
        "README.md",
        "card.md",
        "layers.png",
        "probe.json",
        "probe.safetensors",
    }
    server.commits["me/tox"].append({"README.md": b"the newest commit holds nothing"})

    assert main(["pull", pinned, "--out", str(tmp_path / "got")]) == 0
    out, err = capsys.readouterr()
    got = tmp_path / "got" / "toxicity" / "1"
    assert out.strip() == str(got)
    assert pinned in err
    for name in ("probe.safetensors", "probe.json", "card.md", "layers.png"):
        assert (got / name).read_bytes() == (folder / name).read_bytes()
    assert json.loads((got / "hub.json").read_text()) == {"repository": "me/tox", "commit": pinned.split("@")[1]}
    assert main(["verify", str(tmp_path / "got")]) == 0
    assert main(["pull", pinned, "--out", str(tmp_path / "got")]) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert main(["pull", "me/tox", "--out", str(tmp_path / "newest")]) == 2
    assert "has no probe.json" in capsys.readouterr().err


def test_only_our_kinds_of_file_are_fetched_and_the_rest_is_named(server, folder, tmp_path, capsys):
    hub.push(folder, "me/tox")
    more = {
        "model.pt": b"x",
        "code.pkl": b"x",
        "run.py": b"x",
        ".gitattributes": b"x",
        "hub.json": b"{}",
        "a/b.html": b"h",
    }
    server.commits["me/tox"][0].update(more)
    assert main(["pull", "me/tox", "--out", str(tmp_path)]) == 0
    err = capsys.readouterr().err
    assert "not fetched: model.pt, code.pkl, run.py, .gitattributes, hub.json" in err
    assert not {"model.pt", "code.pkl", "run.py", ".gitattributes", "hub.json"} & set(server.fetched)


def test_a_strangers_web_page_is_never_fetched_and_the_card_is_made_here(server, folder, tmp_path):
    (folder / "card.html").write_text("<p>figures")
    hub.push(folder, "me/tox")
    files = server.commits["me/tox"][0]
    assert files["card.html"] == b"<p>figures"
    files |= {"card.html": b"<script>alert(1)</script>", "a/b.html": b"<script>"}
    pulled = hub.pull("me/tox", tmp_path)
    assert {"card.html", "a/b.html"} <= set(pulled.left)
    assert not [name for name in server.fetched if name.endswith("html")]
    page = (pulled.folder / "card.html").read_text(encoding="utf-8")
    assert "toxicity@1" in page
    assert "<script" not in page
    assert not (pulled.folder / "a").exists()


def test_a_lone_tensor_file_is_not_laid_out_as_an_empty_repository(folder, tmp_path):
    with pytest.raises(ExchangeError, match="one file of a probe; give the folder"):
        hub.lay_out(folder / "probe.safetensors", tmp_path / "layout")
    assert not (tmp_path / "layout").exists()


def test_verify_goes_on_after_a_manifest_whose_files_lead_out_of_the_folder(folder, tmp_path, capsys):
    shutil.copytree(folder, folder.parent / "2")
    manifest = json.loads((folder / "probe.json").read_text())
    (folder / "probe.json").write_text(json.dumps(manifest | {"files": manifest["files"] | {"../x.md": "0" * 64}}))
    assert main(["verify", str(folder.parents[1])]) == 2
    out = capsys.readouterr().out
    assert "toxicity/1: 1 lacks ../x.md" in out
    assert "toxicity/2: holds toxicity@1" in out


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/evil.json", "a/../../evil.json", "a\\..\\evil.json", "C:evil.json"]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(name, server, folder, tmp_path):
    hub.push(folder, "me/tox")
    server.commits["me/tox"][0][name] = b"{}"
    with pytest.raises(ExchangeError, match="leads out of its folder"):
        hub.pull("me/tox", tmp_path / "got")
    assert not (tmp_path / "got").exists()
    assert server.fetched == []


@pytest.mark.parametrize(("name", "reason"), [("probe.safetensors", "SHA-256"), ("probe.json", "not one of schema")])
def test_what_arrives_altered_never_lands(name, reason, server, folder, tmp_path):
    hub.push(folder, "me/tox")
    content = server.commits["me/tox"][0][name]
    server.commits["me/tox"][0][name] = content[:-2] + b"  "
    with pytest.raises(CorruptProbe, match=reason):
        hub.pull("me/tox", tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_every_file_of_the_manifest_is_checked(folder, tmp_path):
    manifest = json.loads((folder / "probe.json").read_text())
    manifest["files"]["card.md"] = hashlib.sha256((folder / "card.md").read_bytes()).hexdigest()
    (folder / "probe.json").write_text(json.dumps(manifest))
    hub.lay_out(folder, tmp_path / "layout")
    (folder / "card.md").write_text("another card")
    with pytest.raises(CorruptProbe, match=r"card.md does not have the SHA-256"):
        hub.lay_out(folder, tmp_path / "again")
    assert main(["verify", str(folder)]) == 2
    (folder / "card.md").unlink()
    with pytest.raises(CorruptProbe, match=r"lacks card.md"):
        hub.lay_out(folder, tmp_path / "again")


@pytest.mark.parametrize(
    ("repository", "reason"),
    [
        ("me/absent", "the hub refuses me/absent"),
        ("me/tox@" + "0" * 40, "the hub refuses me/tox"),
        ("me/tox@", "names no revision"),
        ("not a name", "is no repository name"),
    ],
)
def test_what_the_hub_does_not_have_is_said_in_one_line(repository, reason, server, folder, tmp_path, capsys):
    hub.push(folder, "me/tox")
    assert main(["pull", repository, "--out", str(tmp_path / "got")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "got").exists()


def test_offline_is_said_and_local_needs_no_hub(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert main(["pull", "me/tox", "--out", str(tmp_path / "got")]) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    assert main(["push", str(folder), "me/tox", "--local", str(tmp_path / "layout")]) == 0
    names = {path.name for path in (tmp_path / "layout").iterdir()}
    assert names == {"README.md", "card.md", "layers.png", "probe.json", "probe.safetensors"}
    assert load_probe(tmp_path / "layout").id == "toxicity@1"
    assert main(["push", str(folder), "me/tox", "--local", str(tmp_path / "layout")]) == 2
    shutil.rmtree(folder)
    assert main(["push", str(folder), "me/tox", "--local", str(tmp_path / "other")]) == 2


def test_the_card_opens_with_what_the_hub_searches_by(probe):
    text = model_card(probe.manifest, body="# its card")
    _, front, body = text.split("---\n", 2)
    data = yaml.safe_load(front)
    assert data["library_name"] == "tiller"
    assert {"steering", "linear-probe", "toxicity"} <= set(data["tags"])
    assert (data["license"], data["license_name"]) == ("other", "none")
    assert "base_model" not in data  # 'tiny-llama' is no repository of the hub
    assert body.lstrip().startswith("# its card")
    base = probe.manifest.base_model.model_copy(update={"id": "owner/model"})
    named = model_card(probe.manifest.model_copy(update={"base_model": base}), body=None, licence="mit")
    data = yaml.safe_load(named.split("---\n", 2)[1])
    assert (data["base_model"], data["license"]) == ("owner/model", "mit")
    assert "license_name" not in data
    assert "Reads **toxicity** from the residual stream of `owner/model`" in named
