"""Public files pinned by commit and checksum, and the local copies that are made of them.

Where no copy lies below ``RFBENCH_DATA``, the same bytes are made from the public files: fetched once, checked, and
kept in the cache of this machine. Nothing is fetched before a dataset is read, and nothing that is not named here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from rfbench.errors import DataError
from rfbench.files.atomic import write_atomically
from rfbench.files.cache import cache_root

logger = logging.getLogger(__name__)

TIMEOUT = 60.0
"""Seconds without an answer before a download is given up."""


@dataclass(frozen=True, slots=True)
class PublicFile:
    """A file of a public repository on GitHub at one commit, with the SHA-256 (hex) of its bytes."""

    repository: str
    commit: str
    path: str
    sha256: str

    @property
    def url(self) -> str:
        """Where it is had."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{self.path}"


Maker = Callable[[Sequence[bytes]], bytes]


def as_it_is(contents: Sequence[bytes]) -> bytes:
    """The one file that there is."""
    (content,) = contents
    return content


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicCopy:
    """A file made of public ones, the same bytes as the copy ``name`` below ``RFBENCH_DATA``; ``sha256`` is its own."""

    name: str
    sha256: str
    files: tuple[PublicFile, ...]
    make: Maker = as_it_is

    @property
    def cached(self) -> Path:
        """Where :func:`fetch` keeps it."""
        return cache_root() / "data" / f"{self.sha256[:12]}-{Path(self.name).name}"

    def __str__(self) -> str:
        return " and ".join(sorted({f"github.com/{file.repository} at {file.commit[:12]}" for file in self.files}))


Download = Callable[[str], bytes]
"""From a URL to the bytes behind it; raises ``OSError``."""


def download(url: str) -> bytes:
    """The bytes behind an ``https`` URL, through the proxies of the environment.

    Raises:
        OSError: no answer, or another one than the file.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # URLs of this package  # nosec B310
            content: bytes = answer.read()
    except HTTPException as error:  # cut in the middle
        raise OSError(f"{type(error).__name__}: {error}") from error
    return content


def fetch(copy: PublicCopy, *, offline: bool = False, download: Download = download) -> None:
    """Make sure that the copy lies in the cache, whole.

    Raises:
        DataError: it is not in the cache and cannot be had, is not what was pinned, or cannot be kept.
    """
    path = copy.cached
    remedy = f"put {copy.name} below the folder that RFBENCH_DATA names"
    try:
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == copy.sha256:
            return
        if offline:
            raise DataError(f"{copy.name} is not in the cache {path.parent} and this run is offline; {remedy}")
        content = copy.make([_checked(file, download, remedy) for file in copy.files])
        _check(content, copy.sha256, copy.name, remedy)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise DataError(f"{path}: cannot be kept ({error.strerror}); set RFBENCH_CACHE, or {remedy}") from error


def _checked(file: PublicFile, download: Download, remedy: str) -> bytes:
    logger.info("fetching %s", file.url)
    try:
        content = download(file.url)
    except OSError as error:
        raise DataError(f"{file.url}: cannot be fetched ({error}); go online, or {remedy}") from error
    _check(content, file.sha256, file.url, remedy)
    return content


def _check(content: bytes, sha256: str, name: str, remedy: str) -> None:
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataError(f"{name}: SHA-256 is {found}, expected {sha256}: not the file that was pinned; {remedy}")


def self_instruct_prompts(contents: Sequence[bytes]) -> bytes:
    """Seed tasks and user-oriented tasks of Self-Instruct (arXiv 2212.10560) as JSONL of ``source`` and ``prompt``.

    A prompt is the instruction, and below it the input of the first instance where there is one.
    """
    lines = []
    for source, content in zip(("seed", "user_oriented"), contents, strict=True):
        for task in map(json.loads, content.decode("utf-8").splitlines()):
            parts = (task["instruction"], task["instances"][0]["input"])
            prompt = "\n".join(part for part in parts if part.strip())
            lines.append(json.dumps({"source": source, "prompt": prompt}, ensure_ascii=False) + "\n")
    return "".join(lines).encode()
