"""What identifies a model covers every file that loading it opens, and a changed file changes it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import CHATML, tiny_tokenizer
from opened import files_opened
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rfbench.errors import ModelError
from rfbench.models import identity
from rfbench.models.hf.load import load_base
from rfbench.models.identity import ModelIdentity, identify
from rfbench.models.load import load_model
from rfbench.models.spec import ModelSpec

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify tells who opens what on Linux only"),
    pytest.mark.filterwarnings("ignore"),
]

TinyModel = Callable[..., Path]
CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

from .own_parts import scale


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        scale()
        return super().forward(*args, **kwargs)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFBENCH_CACHE", str(tmp_path / "cache"))


def as_it_is(folder: Path) -> dict[str, Any]:
    return {}


def sharded(folder: Path) -> dict[str, Any]:
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert (folder / "model.safetensors.index.json").is_file()
    return {}


def index_beside_a_single_file(folder: Path) -> None:
    save_file(load_file(folder / "model.safetensors"), folder / "other.safetensors", metadata={"format": "pt"})
    weights = dict.fromkeys(load_file(folder / "other.safetensors"), "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))


def named_weights(folder: Path) -> dict[str, Any]:
    (folder / "model.safetensors").rename(folder / "mine.safetensors")
    edit(folder / "config.json", transformers_weights="mine.safetensors")
    return {}


def pickled(folder: Path) -> dict[str, Any]:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return {"allow_pickle": True}


def many_templates(folder: Path) -> dict[str, Any]:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool_use.jinja").write_text(CHATML)
    return {}


def old_tokenizer_files(folder: Path) -> dict[str, Any]:
    """As GPT-2's: a vocabulary and merges, from which the tokenizer is made at load."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"] | {"<rf>": 330}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]))
    (folder / "tokenizer.json").unlink()
    edit(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", unk_token="<|endoftext|>")
    (folder / "added_tokens.json").write_text('{"<rf>": 330}')
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<|im_end|>"}')
    return {}


def processor_files(folder: Path) -> dict[str, Any]:
    (folder / "processor_config.json").write_text("{}")
    (folder / "preprocessor_config.json").write_text("{}")
    (folder / "rfbench.json").write_text('{"flag_token": "<rf>"}')
    return {}


def own_code(folder: Path) -> dict[str, Any]:
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    edit(folder / "config.json", model_type="own", auto_map=classes)
    (folder / "own.py").write_text(CODE)
    (folder / "own_parts.py").write_text("def scale():\n    return 1\n")
    return {"trust_remote_code": True}


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


SHAPES = [
    as_it_is,
    sharded,
    named_weights,
    pickled,
    many_templates,
    old_tokenizer_files,
    processor_files,
    own_code,
]


def lora(base: Path, folder: Path, **settings: Any) -> Path:
    from peft import LoraConfig, get_peft_model

    module = AutoModelForCausalLM.from_pretrained(base)
    adapted = get_peft_model(module, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **settings))
    adapted.save_pretrained(folder)
    return folder


def hashed(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """The files whose content is in the identity."""
    seen: set[Path] = set()
    real = identity.file_sha256

    def spy(path: Path) -> str:
        seen.add(path)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(identity, "file_sha256", spy)
        identify(spec, offline=True)
    return seen


def opened(spec: ModelSpec, *folders: Path) -> set[Path]:
    with files_opened(*folders) as found, load_model(spec, offline=True):
        pass
    assert {"config.json", "adapter_config.json"} & {path.name for path in found}
    assert any(path.suffix in (".safetensors", ".bin") for path in found)
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_every_opened_file_is_in_the_identity(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: Callable[[Path], dict[str, Any]]
) -> None:
    folder = Path(shutil.copytree(tiny_model(tied=False), tmp_path / "model"))
    spec = ModelSpec.parse({"spec": str(folder), **shape(folder)})
    known = hashed(spec, monkeypatch)
    found = opened(spec, folder)
    assert found <= known, sorted(path.name for path in found - known)
    weights = {path for path in known if path.suffix in (".safetensors", ".bin")}
    assert weights <= found, sorted(path.name for path in weights - found)


@pytest.mark.parametrize("with_tokenizer", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_every_opened_file_of_an_adapter_too(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_tokenizer: bool, old: bool
) -> None:
    base = Path(shutil.copytree(tiny_model(), tmp_path / "model"))
    adapter = lora(base, tmp_path / "adapter")
    if with_tokenizer:
        tiny_tokenizer().save_pretrained(adapter)
        shutil.copy(base / "config.json", adapter)
        (adapter / "rfbench.json").write_text('{"flag_token": "<rf>"}')
    if old:
        torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
        (adapter / "adapter_model.safetensors").unlink()
    spec = ModelSpec.parse({"spec": f"{base}+{adapter}", "allow_pickle": old})
    known = hashed(spec, monkeypatch)
    found = opened(spec, base, adapter)
    assert found <= known, sorted(map(str, found - known))


def index_of(folder: Path, name: str) -> Path:
    """Make the weights of ``folder`` those of an index that names one file; that file."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    torch.save(weights, folder / name) if name.endswith(".bin") else save_file(weights, folder / name)
    return folder / name


def refusals(folder: Path, **settings: Any) -> set[str]:
    spec, said = ModelSpec.parse({"spec": str(folder), **settings}), set()
    for use in (identify, load_model, load_base):
        with pytest.raises(ModelError) as error:
            use(spec)
        said.add(str(error.value).replace(f"{folder}/", "").replace(f"{folder}: ", "").replace(f"{folder}", "it"))
    return said


def test_an_index_beside_a_single_file_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    """transformers takes the single file and says nothing of the other."""
    folder = Path(shutil.copytree(tiny_model(tied=False), tmp_path / "model"))
    index_beside_a_single_file(folder)
    assert refusals(folder) == {
        "it holds model.safetensors and model.safetensors.index.json, and which of the two is meant is not clear; "
        "remove one"
    }


def test_an_index_that_names_a_pickle_is_not_opened(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model(tied=False), tmp_path / "model"))
    pickle = index_of(folder, "pytorch_model.bin")
    words = "names pytorch_model.bin, which is no safetensors file; save it as one (`allow_pickle: true` on the model"
    with files_opened(folder) as found:
        said = refusals(folder)
    assert pickle not in found
    assert said == {f"model.safetensors.index.json {words} takes pickled weights, if you trust them)"}
    load_model(ModelSpec.parse({"spec": str(folder), "allow_pickle": True}))


def test_a_configuration_that_names_a_pickle_is_not_followed(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model(tied=False), tmp_path / "model"))
    torch.save(load_file(folder / "model.safetensors"), folder / "mine.bin")
    edit(folder / "config.json", transformers_weights="mine.bin")
    with files_opened(folder) as found:
        (said,) = refusals(folder)
    assert folder / "mine.bin" not in found
    assert said.startswith("config.json names mine.bin, which is no safetensors file; save it as one")


def test_an_index_that_names_files_elsewhere_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model(tied=False), tmp_path / "model"))
    index_of(folder, "../elsewhere.safetensors")
    (said,) = refusals(folder)
    assert said.startswith("model.safetensors.index.json names ../elsewhere.safetensors, which lies outside")


def test_a_folder_with_weights_and_an_adapter_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    """transformers loads the adapter on top, silently; a changed adapter would then resume a finished run."""
    folder = Path(shutil.copytree(tiny_model(), tmp_path / "model"))
    lora(tiny_model(), folder)
    spec = ModelSpec.parse(str(folder))
    for use in (identify, load_model, load_base):
        with pytest.raises(ModelError, match=r"weights of its own and an adapter .*BASE\+ADAPTER") as error:
            use(spec)
        assert "\n" not in str(error.value)
    (folder / "adapter_config.json").rename(tmp_path / "adapter_config.json")
    assert isinstance(identify(spec), ModelIdentity)
    load_model(spec)
