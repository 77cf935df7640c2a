"""From the name of a model to a loaded one, with the structural checks that every load must pass."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfbench.errors import CanaryError, ModelError
from rfbench.models.base import ChatModel
from rfbench.models.controls import ControlModel
from rfbench.models.flag import FLAG_FILE, FlagFile, check_flag, read_flag_file, resolve_flag
from rfbench.models.folders import TOKENIZER_FILES, adapter_problem
from rfbench.models.hf.adapter import merge_adapter
from rfbench.models.identity import hub_commit
from rfbench.models.spec import ModelSpec, Source, ThinkingMarks

logger = logging.getLogger(__name__)


def load_model(
    spec: str | Mapping[str, object] | ModelSpec,
    flag: str | None = None,
    *,
    batch_size: int | None = None,
    offline: bool = False,
) -> ChatModel:
    """Load a model under attack; use it as a context manager to free it again.

    Args:
        spec: ``smollm2``, a folder, a Hub id, ``BASE+ADAPTER``, a mapping as in a suite, or a spec.
        flag: the flag's string, or ``"none"``; otherwise ``rfbench.json`` beside the weights, then
            ``<rf>`` in the vocabulary, then none.
        batch_size: rows per batch to start with.
        offline: use only what lies on this machine.

    Raises:
        ModelError: not found, gated, not loadable here, or no chat model.
        CanaryError: the flag is not one id of the vocabulary, or its output row is untrained.
    """
    if not isinstance(spec, ModelSpec):
        spec = ModelSpec.parse(spec)
    if flag is not None:
        spec = spec.model_copy(update={"flag": flag})
    if spec.backend == "control":
        return ControlModel(spec.spec)
    return _load_hf(spec, batch_size=batch_size, offline=offline)


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder, or a Hub repository at one commit, as the libraries want it."""

    where: str
    revision: str | None
    offline: bool

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``from_pretrained``."""
        return {"revision": self.revision or "main", "local_files_only": self.offline}

    def file(self, name: str) -> Path | None:
        """A file of it on this machine, fetched if need be; ``None`` when it has no such file, or none is known of."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
        from transformers.utils.hub import cached_file

        found = cached_file(
            self.where,
            name,
            **self.options,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        # The cache remembers what the Hub said that there is not.
        if (
            found is None
            and self.revision is not None
            and name in (FLAG_FILE, "tokenizer_config.json")
            and try_to_load_from_cache(self.where, name, revision=self.revision) is not _CACHED_NO_EXIST
        ):
            logger.warning(
                "%s: whether it has a %s could not be asked, so it counts as having none; run once online%s",
                self.where,
                name,
                ", or give flag and flag_bias" if name == FLAG_FILE else "",
            )
        return None if found is None else Path(found)


def _load_hf(spec: ModelSpec, *, batch_size: int | None, offline: bool) -> ChatModel:
    from transformers import AutoTokenizer

    from rfbench.models.encoding import ChatEncoder
    from rfbench.models.hf.loaded import check_loaded
    from rfbench.models.hf.model import HFModel

    base = _locate(spec.base_source, spec.revision, offline=offline)
    adapter = _locate(spec.adapter_source, None, offline=offline) if spec.adapter_source is not None else None
    with _naming(spec):
        template = spec.template_text()
        brings_tokenizer = adapter is not None and any(adapter.file(name) is not None for name in TOKENIZER_FILES)
        vocabulary = adapter if adapter is not None and brings_tokenizer else base
        tokenizer = AutoTokenizer.from_pretrained(
            vocabulary.where, trust_remote_code=spec.trust_remote_code, **vocabulary.options
        )
        module = _load_weights(base, spec)
        if adapter is not None:
            module = merge_adapter(module, tokenizer, _local_adapter(adapter, allow_pickle=spec.allow_pickle))
        module.eval().requires_grad_(False)

        beside = [place.file(FLAG_FILE) for place in (adapter, base) if place is not None]
        said = next((read_flag_file(path) for path in beside if path is not None), FlagFile())
        flag_token = resolve_flag(spec.flag, said, tokenizer)
        flag_id = None if flag_token is None else check_flag(module, tokenizer, flag_token)
        encoder = ChatEncoder(
            tokenizer,
            flag_id=flag_id,
            system=spec.system,
            chat_template=template,
            template_args=spec.template_args,
            escape=spec.special_tokens == "escape",
        )
        checked = check_loaded(module, encoder)
    for remark in checked.remarks:
        logger.warning("%s: %s", spec.label, remark)
    if flag_id is None:
        logger.warning("%s has no flag token: only refusal columns are computed", spec.label)
    bias = said.flag_bias if spec.flag_bias is None else spec.flag_bias
    return HFModel(
        module,
        tokenizer,
        encoder,
        name=spec.label,
        flag_token=flag_token,
        flag_id=flag_id,
        flag_bias=0.0 if flag_id is None else bias,
        batch_size=batch_size,
        thinking=(spec.thinking.open, spec.thinking.close)
        if isinstance(spec.thinking, ThinkingMarks)
        else spec.thinking,
        facts={"spec": spec.model_dump(mode="json"), "system": spec.system, "revision": base.revision},
        offline=offline,
        checked=checked,
    )


def _locate(source: Source, revision: str | None, *, offline: bool) -> _Place:
    """Where weights are; the embedded default is fetched and converted when missing."""
    if source.kind == "embedded":
        from rfbench.models.embedded import smollm2_folder

        return _Place(str(smollm2_folder(offline=offline)), None, offline)
    if source.kind == "hub":
        return _Place(source.where, hub_commit(source.where, revision, offline=offline), offline)
    return _Place(str(Path(source.where).expanduser()), None, offline)


def _load_weights(base: _Place, spec: ModelSpec) -> Any:
    """The module, complete and on its devices.

    Raises:
        ModelError: weights are missing, do not fit the devices, or belong to an architecture that this backend lacks.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from rfbench.models.hf.halfprecision import warn_if_slow

    if base.file("adapter_config.json") is not None:
        raise ModelError(adapter_problem(base.where, has_config=base.file("config.json") is not None))
    device = spec.device or ("cuda" if torch.cuda.is_available() else "cpu")
    # fp32 is the fastest type on most CPUs; elsewhere the checkpoint's own type is what its authors meant.
    automatic: Any = torch.float32 if torch.device(device).type == "cpu" else "auto"
    if spec.dtype != "auto":
        warn_if_slow(getattr(torch, spec.dtype), device, "dtype")
    module, report = AutoModelForCausalLM.from_pretrained(
        base.where,
        dtype=automatic if spec.dtype == "auto" else getattr(torch, spec.dtype),
        use_safetensors=None if spec.allow_pickle else True,
        device_map=spec.device_map or device,
        trust_remote_code=spec.trust_remote_code,
        output_loading_info=True,
        **base.options,
    )
    # The libraries only warn and fill in random numbers.
    if absent := sorted(report["missing_keys"]):
        raise ModelError(f"its files lack {len(absent)} weights, the first is {absent[0]}; save or download it again")
    if any(parameter.device.type == "meta" for parameter in module.parameters()):
        raise ModelError("it does not fit the devices whole; use more of them, or a smaller dtype")
    return module


def load_base(spec: ModelSpec, *, offline: bool = False) -> Any:
    """The bare module of a model without its adapter.

    Raises:
        ModelError: not found, gated, or not loadable here.
    """
    with _naming(spec):
        module = _load_weights(_locate(spec.base_source, spec.revision, offline=offline), spec)
    return module.eval().requires_grad_(False)


def adapter_folder(spec: ModelSpec, *, offline: bool = False) -> Path | None:
    """Folder of a model's adapter on this machine, ``None`` without one.

    Raises:
        ModelError: it cannot be had, or holds no weights that may be read.
    """
    if spec.adapter_source is None:
        return None
    return _local_adapter(_locate(spec.adapter_source, None, offline=offline), allow_pickle=spec.allow_pickle)


def _local_adapter(adapter: _Place, *, allow_pickle: bool) -> Path:
    """Folder of an adapter, fetched from the Hub if need be."""
    folder = Path(adapter.where)
    if adapter.revision is not None:
        from huggingface_hub import snapshot_download

        patterns = ["adapter_*.json", "adapter_*.safetensors", *(["adapter_*.bin"] if allow_pickle else [])]
        folder = Path(snapshot_download(adapter.where, allow_patterns=patterns, **adapter.options))
    if not (folder / "adapter_model.safetensors").is_file() and not allow_pickle:
        raise ModelError(
            f"adapter {adapter.where} holds no adapter_model.safetensors; save it as one "
            "(`allow_pickle: true` takes pickled weights, if you trust them)"
        )
    return folder


@contextmanager
def _naming(spec: ModelSpec) -> Iterator[None]:
    """Turn whatever loading raises into one line that starts with the model, and keep the libraries' bars quiet."""
    from transformers.utils import logging as transformers_logging

    # They would tear the progress bar of the run.
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except (ModelError, CanaryError) as error:
        raise type(error)(f"{spec.spec}: {error}") from error
    except Exception as error:
        raise ModelError(f"{spec.spec}: cannot be loaded: {explain(error)}") from error
    finally:
        if had_bars:
            transformers_logging.enable_progress_bar()


def explain(error: Exception) -> str:
    """A loading error in one line, with the remedy where the kind of error is known."""
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
    from safetensors import SafetensorError

    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]

    def is_due_to(*kinds: type[BaseException]) -> bool:
        return any(isinstance(e, kinds) for e in chain)

    if is_due_to(GatedRepoError):
        return "it is gated; accept its licence on the Hub and log in (`hf auth login`), or set HF_TOKEN"
    if is_due_to(RepositoryNotFoundError):
        return "no such folder, and no such repository on the Hub (or it is private: log in with `hf auth login`)"
    if is_due_to(LocalEntryNotFoundError, ConnectionError):
        return "it is not on this machine whole, and the Hub cannot be reached; download it first, or give a folder"
    if is_due_to(SafetensorError):
        return f"a weight file is damaged ({text}); download or save it again"
    if isinstance(error, ImportError):
        return f"{text} (a quantised model needs its own package installed)"
    if "safetensors" in text and ("no file named" in text or "not appear to have a file" in text):
        return f"{text} (`allow_pickle: true` on the model takes pickled weights, if you trust them)"
    if "trust_remote_code" in str(error):
        return "it brings its own code; set `trust_remote_code: true` on the model if you have read that code"
    return text
