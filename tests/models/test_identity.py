from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import mmap
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from rfbench.errors import ModelError
from rfbench.files import cache as cachefolder
from rfbench.files.cache import cache_root, file_sha256
from rfbench.models import identity
from rfbench.models.identity import (
    ModelIdentity,
    git_commit,
    hub_commit,
    identify,
    versions,
)
from rfbench.models.spec import ModelSpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FIELDS = [field.name for field in dataclasses.fields(ModelIdentity)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RFBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"w" * (2 << 20))
    (folder / "config.json").write_text("{}")
    (folder / "generation_config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    (folder / "README.md").write_text("words")
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"a")
    (folder / "rfbench.json").write_text('{"flag_token": "<rf>"}')
    return folder


def changed(before: ModelIdentity, after: ModelIdentity) -> list[str]:
    return [name for name in FIELDS if getattr(before, name) != getattr(after, name)]


def of(*parts: Path, **keys: object) -> ModelIdentity:
    return identify(ModelSpec.parse({"spec": "+".join(map(str, parts)), **keys}), offline=True)


def write(name: str, text: str = "other") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (write("model.safetensors"), ["weights_sha256"]),
        (write("model-2.safetensors"), []),  # nothing loads it
        (write("config.json", '{"a": 1}'), ["config_sha256"]),
        (write("generation_config.json"), ["config_sha256"]),
        (write("processor_config.json"), ["config_sha256"]),
        (write("sentencepiece.bpe.model"), ["config_sha256"]),
        (write("quantize_config.json"), ["config_sha256"]),
        (write("rfbench.json"), ["config_sha256"]),
        (write("tokenizer.json"), ["tokenizer_sha256"]),
        (write("special_tokens_map.json"), ["tokenizer_sha256"]),
        (write("tokenizer_config.json", '{"chat_template": "x"}'), ["tokenizer_sha256", "template_sha256"]),
        (write("chat_template.jinja"), ["template_sha256"]),
        (write("README.md"), []),
        (write("modeling.py"), []),
    ],
)
def test_each_file_shows_in_its_own_field(model: Path, change: Callable[[Path], object], fields: list[str]) -> None:
    before = of(model)
    change(model)
    assert changed(before, of(model)) == fields


def test_a_folder_by_hand(model: Path, tmp_path: Path) -> None:
    content = hashlib.sha256(b"w" * (2 << 20)).hexdigest()
    expected = hashlib.sha256(f'[["model.safetensors","{content}"]]'.encode()).hexdigest()
    found = of(model)
    assert found.weights_sha256 == expected
    assert (found.revision, found.adapter_sha256) == ("", "")
    assert found.as_dict() == {name: getattr(found, name) for name in FIELDS}
    shutil.copytree(model, tmp_path / "copy")
    assert of(tmp_path / "copy") == found


def test_code_counts_when_it_is_run(model: Path) -> None:
    before = of(model, trust_remote_code=True)
    (model / "modeling.py").write_text("x = 1")
    assert changed(before, of(model, trust_remote_code=True)) == ["config_sha256"]


def test_a_template_on_top(model: Path) -> None:
    assert changed(of(model), of(model, chat_template="plain")) == ["template_sha256"]
    (model / "config.json").touch()
    (model.parent / "t.jinja").write_text("{{ messages }}!")
    from_file = of(model, chat_template=str(model.parent / "t.jinja"))
    assert from_file == of(model, chat_template="{{ messages }}!")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "rfbench.json"])
def test_every_file_of_an_adapter_counts(model: Path, adapter: Path, name: str) -> None:
    before = of(model, adapter)
    assert changed(of(model), before) == ["adapter_sha256"]
    (adapter / name).write_text("other")
    assert changed(before, of(model, adapter)) == ["adapter_sha256"]


def test_the_tokenizer_of_an_adapter_replaces_that_of_the_base(model: Path, adapter: Path) -> None:
    before = of(model, adapter)
    (adapter / "tokenizer.json").write_text("with the flag")
    assert changed(before, of(model, adapter)) == ["tokenizer_sha256", "template_sha256", "adapter_sha256"]


def test_shards_of_an_index(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(ModelError, match="lacks 1 of 2 weight files, the first is model-00002-of-00002"):
        of(model)
    (model / "model-00002-of-00002.safetensors").write_bytes(b"b")
    before = of(model)
    (model / "model-00002-of-00002.safetensors").write_bytes(b"c")
    assert changed(before, of(model)) == ["weights_sha256"]
    (model / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match="is not an index of weight files"):
        of(model)


def test_pickled_weights_only_when_allowed(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ModelError, match="set `allow_pickle: true` on the model"):
        of(model)
    assert of(model, allow_pickle=True).weights_sha256


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda m, a: (m / "model.safetensors").unlink(), "holds no weights"),
        (lambda m, a: (m / "config.json").unlink(), "holds no config.json"),
        (lambda m, a: shutil.rmtree(m), "model folder .* does not exist"),
        (lambda m, a: (a / "adapter_config.json").unlink(), "is not an adapter folder"),
        (lambda m, a: (a / "adapter_model.safetensors").unlink(), "holds no weights .adapter_model"),
        (lambda m, a: (m / "tokenizer_config.json").write_text("{"), "tokenizer_config.json cannot be read"),
    ],
)
def test_broken_folders_in_one_line(
    model: Path, adapter: Path, broken: Callable[[Path, Path], object], says: str
) -> None:
    broken(model, adapter)
    with pytest.raises(ModelError, match=says) as caught:
        of(model, adapter)
    assert "\n" not in str(caught.value)


def test_an_adapter_given_as_a_model(adapter: Path) -> None:
    with pytest.raises(ModelError, match="holds an adapter, not a model; write BASE"):
        of(adapter)


def test_controls_have_constant_identities() -> None:
    always, again, never = (
        identify(ModelSpec(spec=name, backend="control")) for name in ("always-flag", "always-flag", "never-flag")
    )
    assert always == again
    assert changed(always, never) == ["weights_sha256"]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the files of a test had been written long ago."""
    now = time.time_ns
    monkeypatch.setattr(cachefolder.time, "time_ns", lambda: now() + 10_000_000_000)


def entry_of(cache: Path) -> Path:
    (entry,) = (cache / "sha256").iterdir()
    return entry


@pytest.mark.usefixtures("settled")
def test_large_files_are_hashed_once(model: Path, cache: Path) -> None:
    weights = model / "model.safetensors"
    right = file_sha256(weights)
    assert entry_of(cache).read_text() == right
    entry_of(cache).write_text("f" * 64)
    assert file_sha256(weights) == "f" * 64
    stat = weights.stat()
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert file_sha256(weights) == right


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("how", ["in place", "through a memory map", "another file of that name"])
def test_weights_rewritten_with_size_and_time_kept_are_noticed(model: Path, how: str) -> None:
    weights = model / "model.safetensors"
    before, stat = of(model), weights.stat()
    if how == "in place":
        with weights.open("r+b") as file:
            file.write(b"x")
    elif how == "through a memory map":
        with weights.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[7:8] = b"x"
    else:
        (model / "new").write_bytes(b"x" + weights.read_bytes()[1:])
        os.replace(model / "new", weights)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    now = weights.stat()
    assert (now.st_size, now.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert changed(before, of(model)) == ["weights_sha256"]


def test_what_was_written_a_moment_ago_is_not_remembered(model: Path, cache: Path) -> None:
    """A second change within one tick of a coarse clock would not show."""
    file_sha256(model / "model.safetensors")
    assert not (cache / "sha256").exists()


def test_a_file_that_is_being_written_is_not_hashed_half(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, real = model / "model.safetensors", hashlib.file_digest

    def written_meanwhile(file: BinaryIO, name: str) -> Any:
        found = real(file, name)
        with weights.open("ab") as more:
            more.write(b"y")
        return found

    monkeypatch.setattr(cachefolder.hashlib, "file_digest", written_meanwhile)
    with pytest.raises(ModelError, match="changed while it was read"):
        of(model)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, b"G" * 64])
def test_a_corrupt_cache_is_ignored_and_mended(model: Path, cache: Path, content: bytes) -> None:
    right = file_sha256(model / "model.safetensors")
    entry_of(cache).write_bytes(content)
    assert file_sha256(model / "model.safetensors") == right
    assert entry_of(cache).read_text() == right


def test_an_unwritable_cache_costs_time_only(model: Path, cache: Path) -> None:
    cache.write_text("a file stands in the way")
    assert file_sha256(model / "model.safetensors") == hashlib.sha256(b"w" * (2 << 20)).hexdigest()


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RFBENCH_CACHE", "~/mine")
    assert cache_root() == tmp_path / "mine"
    monkeypatch.delenv("RFBENCH_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_root() == Path("/xdg/rfbench")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_root() == tmp_path / ".cache/rfbench"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_root() == tmp_path / "Library/Caches/rfbench"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert cache_root() == Path("/local/rfbench/Cache")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, dict[str, str], str], list[str]]]:
    """A server in place of the Hub; call it with what it shall answer, and get the paths asked for."""
    from huggingface_hub import constants

    answer: list[tuple[int, dict[str, str], str]] = []
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, headers, body = answer[-1]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def says(status: int, headers: dict[str, str], body: str) -> list[str]:
        answer.append((status, headers, body))
        return asked

    yield says
    server.shutdown()
    server.server_close()
    thread.join()


Hub = Callable[[int, dict[str, str], str], list[str]]


def test_the_hub_names_the_commit(hub: Hub) -> None:
    asked = hub(200, {}, json.dumps({"id": "org/model", "sha": COMMIT}))
    assert identify(ModelSpec.parse("org/model")) == ModelIdentity(revision=COMMIT)
    assert hub_commit("org/model", "v1") == COMMIT
    # The client may ask for other things in between, as for what it calls itself.
    models = [path for path in asked if path.startswith("/api/models/")]
    assert models == ["/api/models/org/model", "/api/models/org/model/revision/v1"]


def test_a_commit_needs_no_hub(hub: Hub) -> None:
    asked = hub(500, {}, "")
    assert hub_commit("org/model", COMMIT) == COMMIT
    assert asked == []


def test_the_local_snapshot_comes_first(hub: Hub, tmp_path: Path) -> None:
    asked = hub(500, {}, "")
    repo = tmp_path / "hub/models--org--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text(COMMIT)
    (repo / "snapshots" / COMMIT).mkdir(parents=True)
    (repo / "snapshots" / COMMIT / "config.json").write_text("{}")
    assert hub_commit("org/model", offline=True) == COMMIT
    assert hub_commit("org/model") == COMMIT
    assert asked == []


def test_what_the_hub_said_is_found_again_without_it(hub: Hub, tmp_path: Path) -> None:
    """Files are fetched by their commit, of which the Hub's client keeps no note."""
    asked = hub(200, {}, json.dumps({"id": "org/model", "sha": COMMIT}))
    assert hub_commit("org/model") == COMMIT
    n_asked = len(asked)
    hub(200, {}, json.dumps({"id": "org/model", "sha": COMMIT[::-1]}))  # somebody pushes
    assert hub_commit("org/model") == COMMIT
    assert len(asked) == n_asked
    with pytest.raises(ModelError, match="not in the local Hub cache"):
        hub_commit("org/model", offline=True)  # nothing is fetched yet
    snapshot = tmp_path / "hub/models--org--model/snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert hub_commit("org/model", offline=True) == COMMIT


def test_a_cache_that_cannot_be_written_is_no_error(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file where the folder should be")
    hub(200, {}, json.dumps({"id": "org/model", "sha": COMMIT}))
    assert hub_commit("org/model") == COMMIT


def test_a_template_over_a_hub_model_and_a_hub_adapter(hub: Hub) -> None:
    hub(200, {}, json.dumps({"id": "org/x", "sha": COMMIT}))
    plain = identify(ModelSpec.parse({"spec": "org/x+org/lora", "chat_template": "plain"}))
    assert changed(ModelIdentity(), plain) == ["revision", "template_sha256", "adapter_sha256"]
    other = identify(ModelSpec.parse({"spec": "org/x+org/lora2", "chat_template": "plain"}))
    assert changed(plain, other) == ["adapter_sha256"]


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (404, "RepoNotFound", "neither a folder nor a model on the Hub"),
        (404, "RevisionNotFound", "org/model has no revision 'v1'"),
        (403, "GatedRepo", "is gated: accept its terms"),
        (400, "", "the Hub did not answer for org/model@v1"),
    ],
)
def test_what_the_hub_refuses(hub: Hub, status: int, code: str, says: str) -> None:
    hub(status, {"X-Error-Code": code} if code else {}, "{}")
    with pytest.raises(ModelError, match=says) as caught:
        hub_commit("org/model", "v1")
    assert "\n" not in str(caught.value)


def test_no_hub_at_all(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with pytest.raises(ModelError, match="not in the local Hub cache and this run is offline"):
        hub_commit("org/model", offline=True)
    with pytest.raises(ModelError, match="neither a folder nor a Hub id"):
        hub_commit("a b", offline=True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"the Hub did not answer for org/model .*go online"):
        hub_commit("org/model")


def test_versions_are_those_installed() -> None:
    import torch
    import transformers

    found = versions()
    known = {"torch", "transformers", "tokenizers", "peft", "nanogcg", "lm_eval", "rfbench", "python"}
    assert set(found) == known
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["transformers"] == transformers.__version__
    assert found["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    assert identity.version_of("no-such-package-here") == ""


def test_git_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*command: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@t"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *who, *command], capture_output=True, text=True, check=True
        ).stdout.strip()

    assert git_commit(tmp_path) is None
    git("init", "-q")
    (tmp_path / "package").mkdir()
    (tmp_path / "package/a.py").write_text("")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/b.py").write_text("")
    git("add", "package")
    assert git_commit(tmp_path / "package") is None
    git("commit", "-qm", "first")
    assert git_commit(tmp_path / "package") == git("rev-parse", "HEAD")
    assert git_commit(tmp_path / "venv") is None
    assert git_commit(tmp_path / "missing") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(tmp_path / "package") is None


def test_an_unreadable_file_is_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(identity, "file_sha256", fails)
    with pytest.raises(ModelError, match=r"cannot be read: .*Input/output error"):
        of(model)


@pytest.mark.smollm2
def test_the_embedded_model_has_one_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RFBENCH_CACHE")
    first, second = identify(ModelSpec.parse("smollm2")), identify(ModelSpec.parse("smollm2"), offline=True)
    assert first == second
    assert first.revision == ""
    assert all(len(getattr(first, name)) == 64 for name in FIELDS if name not in ("revision", "adapter_sha256"))
