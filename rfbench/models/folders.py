"""Which files of a model's folder the libraries read: weights, tokenizer, template, and all else beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rfbench.errors import ModelError
from rfbench.models.remedies import on_the_model

ADAPTER_CONFIG = "adapter_config.json"
TEMPLATE = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
TOKENIZER = (
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
        f"{name!r} holds weights of its own and an adapter ({ADAPTER_CONFIG}), and which of the two is meant is not "
        "clear; move the adapter into a folder of its own, and name it as BASE+ADAPTER or leave it out"
    )


def is_quantised(folder: Path) -> bool:
    """Whether the configuration of a model folder says so; one that cannot be read is for the loader to report."""
    try:
        return bool(read_object(folder.expanduser() / "config.json").get("quantization_config"))
    except ModelError:
        return False


def weight_files(folder: Path, *, allow_pickle: bool) -> list[Path]:
    """The files that transformers loads the weights of a model folder from, and the index that names them.

    In its order: what ``config.json`` names as ``transformers_weights``, one safetensors file, the shards of an index,
    and last, where they are allowed, pickled ones in the same order.
    """
    named = read_object(folder / "config.json").get("transformers_weights")
    names = [named] if isinstance(named, str) else [_SINGLE, _INDEX]
    pickled = [name for name in (_PICKLED, _PICKLED_INDEX) if (folder / name).is_file()]
    if allow_pickle and not isinstance(named, str):
        names += pickled
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is not None:
        return _shards(folder, found) if found.name.endswith(".index.json") else [found]
    if pickled:
        raise ModelError(
            f"{folder} holds pickled weights only; save it as safetensors, or, if you trust them, set "
            f"{on_the_model('allow_pickle', 'true')}"
        )
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


def settings(folder: Path, *, code: bool) -> list[Path]:
    """What of a model folder is neither weights nor tokenizer nor template."""
    apart = {*listed(folder, TOKENIZER), *listed(folder, TEMPLATE), folder / _INDEX, folder / _PICKLED_INDEX}
    return [path for path in beside(folder, code=code) if path not in apart]


def beside(folder: Path, *, code: bool) -> list[Path]:
    """All that a library may read from a folder besides weights.

    The names are many and change: vocabularies, processors, quantisation, prompts. So everything counts that is not
    plainly for people; ``code`` says that Python files are run.
    """
    read = [
        path
        for path in listed(folder, ("[!.]*", *TEMPLATE))
        if path.suffix.lower() not in (*_WEIGHTS, *_FOR_PEOPLE, ".py") and not {path.name, path.stem} & _NOTICES
    ]
    return sorted({*read, *(listed(folder, ("**/*.py",)) if code else ())})


def listed(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The files of a folder that fit one of the patterns, sorted."""
    return sorted({p for pattern in patterns for p in folder.glob(pattern) if p.is_file()})


def read_object(path: Path) -> Mapping[str, Any]:
    """The object in a file; empty for no file, and for what is no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"{path} cannot be read: {reason}") from error
    return content if isinstance(content, dict) else {}
