"""What identifies a model: hashes of its files, or the commit of its Hub repository. Nothing is loaded."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfbench.cachefolder import file_sha256
from rfbench.errors import ModelError
from rfbench.files import write_atomically
from rfbench.models.spec import ModelSpec, Source
from rfbench.records import digest

log = logging.getLogger(__name__)

_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "nanogcg", "lm_eval", "rfbench")
_ADAPTER_CONFIG = "adapter_config.json"
_TEMPLATE = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
    "tokenizer.model",
    "spiece.model",
)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")
_FOR_PEOPLE = (".md", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".html", ".log")
_NOTICES = frozenset({"README", "LICENSE", "LICENCE", "NOTICE", "COPYING", "manifest.json"})
"""Files that no library reads. ``manifest.json`` is what :mod:`rfbench.models.embedded` writes."""
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED, _PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model")
"""Where an adapter has one of these, the tokenizer is read from beside it: a token that it adds stands there."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Equal identities mean equal weights, tokenizer, template and configuration.

    A model from the Hub is identified by ``revision`` (a commit), which pins all its files: the
    other fields are then empty, but for what the user put on top (a chat template, an adapter).
    """

    revision: str = ""
    weights_sha256: str = ""
    tokenizer_sha256: str = ""
    template_sha256: str = ""
    adapter_sha256: str = ""
    config_sha256: str = ""

    def as_dict(self) -> dict[str, str]:
        """The fields, for unit keys and provenance."""
        return dataclasses.asdict(self)


def identify(spec: ModelSpec, *, offline: bool = False) -> ModelIdentity:
    """The identity of a model; fetches the embedded model when it is not in the cache yet.

    A Hub model that lies in the local cache is identified by the commit that lies there, also when
    the Hub has moved on. Load it with ``revision=identity.revision``, so that both are the same.

    Raises:
        ModelError: no weights, no such folder, repository or revision, or no way to reach it.
    """
    source, adapter = spec.base_source, spec.adapter_source
    if source.kind == "control":
        return ModelIdentity(weights_sha256=digest(["control", source.where, 1]))
    folder = _folder(source, offline=offline)
    revision = "" if folder else hub_commit(source.where, spec.revision, offline=offline)
    code = spec.trust_remote_code
    adapter_folder = Path(adapter.where).expanduser() if adapter is not None and adapter.kind == "folder" else None
    vocabulary = adapter_folder if adapter_folder is not None and brings_tokenizer(adapter_folder) else folder
    override = spec.template_text()
    return ModelIdentity(
        revision=revision,
        weights_sha256=_hash(folder, _weights(folder, allow_pickle=spec.allow_pickle)) if folder else "",
        tokenizer_sha256=_hash(vocabulary, _listed(vocabulary, _TOKENIZER)) if vocabulary else "",
        template_sha256=digest(override) if override else _template(vocabulary) if vocabulary else "",
        adapter_sha256=_adapter(adapter, code=code, offline=offline) if adapter else "",
        config_sha256=_hash(folder, _settings(folder, code=code)) if folder else "",
    )


def brings_tokenizer(adapter: Path) -> bool:
    """Whether the tokenizer is read from an adapter's folder: one that adds a token brings its own."""
    return any((adapter / name).is_file() for name in TOKENIZER_FILES)


def adapter_problem(name: str, *, has_config: bool) -> str:
    """Why a place that holds an ``adapter_config.json`` is not loaded as a model.

    transformers would load the adapter on top: of the weights beside it, else of whatever its configuration names.
    """
    if not has_config:
        return f"{name!r} holds an adapter, not a model; write BASE+{name}"
    return (
        f"{name!r} holds weights of its own and an adapter ({_ADAPTER_CONFIG}), and which of the two is meant is not "
        "clear; move the adapter into a folder of its own, and name it as BASE+ADAPTER or leave it out"
    )


def hub_commit(repo: str, revision: str | None = None, *, offline: bool = False) -> str:
    """The commit that ``revision`` (default: the main branch) means: in the local cache, else on the Hub.

    What the Hub says is noted in the cache, so that it is asked once: loading finds what was identified, and so does a
    run without the network.

    Raises:
        ModelError: not in the cache and offline, no such repository or revision, no access, no answer.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, constants, errors, try_to_load_from_cache

    at = f"{repo}@{revision}" if revision else repo
    try:
        for name in ("config.json", "adapter_config.json"):
            if isinstance(found := try_to_load_from_cache(repo, name, revision=revision), str):
                return Path(found).parent.name
    except errors.HFValidationError as error:
        raise ModelError(f"{repo!r} is neither a folder nor a Hub id (owner/name)") from error
    if offline or constants.HF_HUB_OFFLINE:
        raise ModelError(f"{at} is not in the local Hub cache and this run is offline; run once online")
    if noted := _noted(_ref(repo, revision)):
        return noted
    # OSError, and the base error of whichever HTTP library the Hub client is built on.
    unreachable: tuple[type[Exception], ...] = errors.HfHubHTTPError.__bases__
    try:
        commit = HfApi().model_info(repo, revision=revision, timeout=30).sha
    except errors.GatedRepoError as error:
        raise ModelError(f"{repo} is gated: accept its terms on the Hub, then log in with `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{repo} has no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{repo!r} is neither a folder nor a model on the Hub; for a private one log in with `hf auth login`"
        ) from error
    except unreachable as error:
        reason = _first_line(error)
        raise ModelError(f"the Hub did not answer for {at} ({reason}); go online, or name a folder") from error
    if commit is None:
        raise ModelError(f"the Hub named no commit for {at}; give one with revision:")
    _remember(_ref(repo, revision), commit)
    return commit


def _ref(repo: str, revision: str | None) -> Path:
    """Where the Hub's cache says which commit a branch or tag means (its documented layout, ``refs``)."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=repo, repo_type="model")
    return Path(constants.HF_HUB_CACHE) / folder / "refs" / (revision or "main")


def _remember(ref: Path, commit: str) -> None:
    """Note the commit: what is fetched by it leaves no such note, and could not be found again without the Hub."""
    try:
        ref.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(ref, commit.encode())
    except OSError as error:
        log.info("%s cannot be written (%s): offline, give the commit as revision", ref, error.strerror)


def _noted(ref: Path) -> str | None:
    """The commit noted there, if any: two lookups of one run must not find two commits."""
    try:
        text = ref.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return text if _COMMIT.fullmatch(text) else None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results may depend on; empty where one is not installed."""
    return {name: version_of(name) for name in _PACKAGES} | {"python": platform.python_version()}


def git_commit(path: Path) -> str | None:
    """The commit checked out at the folder ``path``; ``None`` when git does not track that folder, or is absent."""
    try:
        # A package installed below somebody else's repository must not report that repository's commit.
        for command in (["ls-files", "--error-unmatch", "."], ["rev-parse", "HEAD"]):
            done = subprocess.run(["git", "-C", str(path), *command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def version_of(package: str) -> str:
    """The version of an installed package; empty where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _folder(source: Source, *, offline: bool) -> Path | None:
    """The folder that holds the base model, ``None`` when the Hub does."""
    if source.kind == "embedded":
        from rfbench.models.embedded import smollm2_folder

        return smollm2_folder(offline=offline)
    if source.kind == "hub":
        return None
    folder = Path(source.where).expanduser()
    if not folder.is_dir():
        raise ModelError(f"model folder {source.where!r} does not exist")
    has_config = (folder / "config.json").is_file()
    if (folder / _ADAPTER_CONFIG).is_file():
        raise ModelError(adapter_problem(source.where, has_config=has_config))
    if not has_config:
        raise ModelError(f"{source.where!r} is not a model folder: it holds no config.json")
    return folder


def _adapter(source: Source, *, code: bool, offline: bool) -> str:
    if source.kind == "hub":
        return digest([source.where, hub_commit(source.where, offline=offline)])
    folder = Path(source.where).expanduser()
    if not (folder / _ADAPTER_CONFIG).is_file():
        raise ModelError(f"{source.where!r} is not an adapter folder: it holds no {_ADAPTER_CONFIG}")
    weights = _listed(folder, ("adapter_model.safetensors",)) or _listed(folder, ("adapter_model.bin",))
    if not weights:
        raise ModelError(f"adapter folder {source.where!r} holds no weights (adapter_model.safetensors)")
    return _hash(folder, weights + _beside(folder, code=code))


def _weights(folder: Path, *, allow_pickle: bool) -> list[Path]:
    """The files that transformers loads the weights of a model folder from, and the index that names them.

    In its order: what ``config.json`` names as ``transformers_weights``, one safetensors file, the shards of an index,
    and last, where they are allowed, pickled ones in the same order.
    """
    named = _json(folder / "config.json").get("transformers_weights")
    names = [named] if isinstance(named, str) else [_SINGLE, _INDEX]
    pickled = [name for name in (_PICKLED, _PICKLED_INDEX) if (folder / name).is_file()]
    if allow_pickle and not isinstance(named, str):
        names += pickled
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is not None:
        return _shards(folder, found) if found.name.endswith(".index.json") else [found]
    if pickled:
        raise ModelError(f"{folder} holds pickled weights only; save it as safetensors, or set allow_pickle: true")
    raise ModelError(f"{folder} holds no weights ({', '.join(names[:2])})")


def _shards(folder: Path, index: Path) -> list[Path]:
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [name for name in shards if not (folder / name).is_file()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is not an index of weight files; download or save the model again") from error
    if missing:
        raise ModelError(f"{folder} lacks {len(missing)} of {len(shards)} weight files, the first is {missing[0]}")
    return [index, *(folder / name for name in shards)]


def _settings(folder: Path, *, code: bool) -> list[Path]:
    """What of a model folder is neither weights nor tokenizer nor template."""
    apart = {*_listed(folder, _TOKENIZER), *_listed(folder, _TEMPLATE), folder / _INDEX, folder / _PICKLED_INDEX}
    return [path for path in _beside(folder, code=code) if path not in apart]


def _beside(folder: Path, *, code: bool) -> list[Path]:
    """All that a library may read from a folder besides weights.

    The names are many and change: vocabularies, processors, quantisation, prompts. So everything counts that is not
    plainly for people; ``code`` says that Python files are run.
    """
    listed = [
        path
        for path in _listed(folder, ("[!.]*", *_TEMPLATE))
        if path.suffix.lower() not in (*_WEIGHTS, *_FOR_PEOPLE, ".py") and not {path.name, path.stem} & _NOTICES
    ]
    return sorted({*listed, *(_listed(folder, ("**/*.py",)) if code else ())})


def _listed(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({p for pattern in patterns for p in folder.glob(pattern) if p.is_file()})


def _hash(folder: Path, files: list[Path]) -> str:
    """One hash for the names and contents of ``files``; empty for no files."""
    try:
        return digest(sorted((p.relative_to(folder).as_posix(), file_sha256(p)) for p in files)) if files else ""
    except OSError as error:
        raise ModelError(f"a file of the model in {folder} cannot be read: {error}") from error


def _template(folder: Path) -> str:
    """Hash of the chat template files, else of the template inside the tokenizer's configuration."""
    if files := _listed(folder, _TEMPLATE):
        return _hash(folder, files)
    template = _json(folder / "tokenizer_config.json").get("chat_template")
    return digest(template) if template else ""


def _json(path: Path) -> Mapping[str, Any]:
    """The object in a file; empty for no file, and for what is no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {_first_line(error)}") from error
    return content if isinstance(content, dict) else {}
