"""Our GCG against nanoGCG 0.3.0: same model, chat and settings, alternating, each in a process of its own.

    python benchmarks/gcg.py [--json] [--rounds 3] [--gap-seeds 1] [--env DIR]
    python benchmarks/gcg.py --json --device cuda --shape llama-1b --width 512 --gap-seeds 0

nanogcg runs in an environment with transformers 4.47.1, the version that it is made for, which is built on first
use; PyTorch is the one that runs this script. Measured: seconds a step with identical mathematics and in the
approximate mode (the draft `glimpse` ranks the candidates, in bfloat16 where this machine multiplies it faster than
float32), what the approximate mode loses, peak memory of the processes at width 512, and the share of the machine's
measured matrix-multiply peak that our steps achieve. With `--device cuda` both sides compute in bfloat16 (or
`--dtype`), and memory is that of tensors on the device; `--shape llama-1b` puts random weights of that shape in
SmolLM2's place, whose losses mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rfbench.data.load import load_builtin
from rfbench.files.cache import cache_root
from rfbench.models.embedded import smollm2_folder
from rfbench.models.hf.cpu import packed
from rfbench.records import Behavior

WORKER = Path(__file__).parent / "workers" / "gcg_worker.py"
PACKAGES = ("nanogcg==0.3.0", "transformers==4.47.1")
INITIAL = " x" * 20
NOTICEABLE_SECONDS = 0.02
"""A product this long says what the machine can do; one of fixed size takes minutes where a dtype is emulated."""
SHAPES: dict[str, dict[str, Any]] = {
    # Llama-3.2-1B, but for the vocabulary, which is that of the tokenizer.
    "llama-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    }
}


class Side:
    """A worker process that serves one side."""

    def __init__(self, name: str, python: str, folder: Path, threads: int, device: str, dtype: str) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [python, str(WORKER), name, str(folder), str(threads), device, dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if name == "nanogcg" else None,  # its progress bars
            text=True,
            env=environment,
        )

    def run(self, behavior: Behavior, *, n_steps: int, width: int, seed: int = 0, **fields: Any) -> dict[str, Any]:
        """One optimisation; seconds of each of its steps, its lowest loss, the process's peak memory so far."""
        job = {
            "request": behavior.request,
            "target": behavior.target,
            "initial": INITIAL,
            "n_steps": n_steps,
            "width": width,
            "topk": 256,
            "seed": seed,
            "fields": fields,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self._process.args[2]} worker ended with exit code {self._process.wait()}")  # type: ignore[index]
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def reference_python(folder: Path) -> str:
    """The interpreter of nanogcg's environment, built if need be. It borrows PyTorch from ours."""
    python = folder / "bin" / "python"
    marker = folder / "complete"
    if not marker.exists():
        print(f"building {folder} with {' and '.join(PACKAGES)}")
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        ours = sysconfig.get_path("purelib")
        theirs = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        # Read after its own packages, so that those win.
        (Path(theirs) / "zz_borrowed.pth").write_text(ours + "\n")
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, *PACKAGES], check=True)
        marker.write_text("\n".join(PACKAGES))
    return str(python)


def random_model(shape: str, tokenizer: Path, folder: Path) -> Path:
    """A model folder of a shape with random weights in bfloat16, and the tokenizer of the folder ``tokenizer``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(tokenizer / name, folder)
    known = json.loads((tokenizer / "config.json").read_text())
    ids = {
        name: known[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id") if name in known
    }
    LlamaForCausalLM(LlamaConfig(**ids, **SHAPES[shape])).to(torch.bfloat16).save_pretrained(folder)
    return folder


def reference_copy(model: Path, folder: Path) -> Path:
    """A copy of a model folder that transformers 4.47.1 reads."""
    shutil.copytree(model, folder)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    template = folder / "chat_template.jinja"
    if template.exists():
        tokenizer["chat_template"] = template.read_text()
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "config.json").read_text())
    if "rope_parameters" in config:
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def machine(device: str) -> str:
    """The accelerator, or the processor, by the name that the system gives it."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_flops(threads: int, dtype: torch.dtype, device: str = "cpu", rounds: int = 5) -> float:
    """Operations per second of the fastest of some matrix products, of a size that takes a noticeable time.

    On CPUs also with a packed weight, as the search multiplies: another library does that, faster on some of them.
    """
    torch.set_num_threads(threads)
    size, best = 128, 0.0
    while best < NOTICEABLE_SECONDS:
        size *= 2
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        layer = torch.nn.Linear(size, size, bias=False, device=device, dtype=dtype).requires_grad_(False)
        products: list[Callable[[], torch.Tensor]] = [partial(torch.mm, a, b), partial(packed(layer), a)]
        # The first product of a size warms up; where products take seconds, it is all that is needed.
        best = min(map(_seconds_of, products))
        if best < 10 * NOTICEABLE_SECONDS:
            best = min(_seconds_of(product) for product in products for _ in range(rounds))
    return 2.0 * size**3 / best


def _seconds_of(product: Callable[[], torch.Tensor]) -> float:
    started = time.perf_counter()
    product()[0, 0].item()  # waits for an accelerator
    return time.perf_counter() - started


def measure_speed(
    ours: Side, theirs: Side, behavior: Behavior, rounds: int, width: int, approximate: dict[str, Any]
) -> dict[str, float]:
    """Seconds a step, alternating; medians of ratios over rounds. The first step of a run warms up."""
    seconds: dict[str, list[float]] = {"nanogcg": [], "exact": [], "approx": []}
    achieved = []
    for n in range(rounds):
        seconds["nanogcg"].append(min(theirs.run(behavior, n_steps=2, width=width, seed=n)["seconds"][1:]))
        exact = ours.run(behavior, n_steps=2, width=width, seed=n)
        seconds["exact"].append(min(exact["seconds"][1:]))
        achieved.append(exact["flops"][-1] / exact["seconds"][-1])
        seconds["approx"].append(min(ours.run(behavior, n_steps=2, width=width, seed=n, **approximate)["seconds"][1:]))
    report = {f"seconds_{name}": round(statistics.median(values), 3) for name, values in seconds.items()}
    for name in ("exact", "approx"):
        ratios = [a / b for a, b in zip(seconds[name], seconds["nanogcg"], strict=True)]
        report[f"ratio_{name}"] = round(statistics.median(ratios), 3)
    return report | {"flops_per_second": statistics.median(achieved)}


def measure_gap(
    ours: Side, behaviors: list[Behavior], seeds: int, n_steps: int, width: int, approximate: dict[str, Any]
) -> dict[str, Any]:
    """What the approximate mode loses: mean best loss over that of exact mode, less one, from equal starts."""
    losses: dict[str, list[list[float]]] = {"exact": [], "approx": []}
    for seed in range(seeds):
        for name, fields in (("exact", {}), ("approx", approximate)):
            runs = [ours.run(b, n_steps=n_steps, width=width, seed=seed, **fields)["loss"] for b in behaviors]
            losses[name].append(runs)
    means = {name: [statistics.mean(runs) for runs in values] for name, values in losses.items()}
    by_seed = [a / e - 1 for a, e in zip(means["approx"], means["exact"], strict=True)]
    return {
        "loss_exact": round(statistics.mean(means["exact"]), 4),
        "loss_approx": round(statistics.mean(means["approx"]), 4),
        "loss_gap_approx": round(statistics.mean(means["approx"]) / statistics.mean(means["exact"]) - 1, 4),
        "loss_gap_by_seed": [round(gap, 4) for gap in by_seed],
    }


def measure_memory(ours: Side, theirs: Side, behavior: Behavior, width: int) -> dict[str, float]:
    """Peak memory of two fresh processes, model included, after one step at a large width."""
    peaks = {
        name: side.run(behavior, n_steps=1, width=width)["peak_memory_mb"]
        for name, side in (("rfbench", ours), ("nanogcg", theirs))
    }
    return {
        "peak_memory_mb": round(peaks["rfbench"]),
        "peak_memory_mb_nanogcg": round(peaks["nanogcg"]),
        "peak_memory_ratio": round(peaks["rfbench"] / peaks["nanogcg"], 3),
    }


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--env", type=Path, help="folder of nanogcg's environment (default: in the cache)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: float32 on cpu, bfloat16 on cuda")
    parser.add_argument("--shape", choices=sorted(SHAPES), help="random weights of this shape, not SmolLM2's")
    parser.add_argument(
        "--draft", type=json.loads, default={}, help='fields of gcg for the approximate mode: {"draft_target": 8}'
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the speed comparison; 0 leaves it out")
    parser.add_argument("--width", type=int, default=128, help="width of the speed comparison")
    parser.add_argument("--memory-width", type=int, default=512, help="0 leaves the memory comparison out")
    parser.add_argument("--gap-seeds", type=int, default=1, help="0 leaves the loss comparison out")
    parser.add_argument("--gap-steps", type=int, default=40)
    parser.add_argument("--gap-width", type=int, default=32)
    parser.add_argument("--gap-behaviors", type=int, default=4)
    arguments = parser.parse_args()
    started = time.perf_counter()
    python = reference_python(arguments.env or cache_root() / "nanogcg-0.3.0")
    device = arguments.device
    dtype = arguments.dtype or ("float32" if device == "cpu" else "bfloat16")
    behaviors = load_builtin("train/harmful")[: max(1, arguments.gap_behaviors)]
    single, half = (peak_flops(arguments.threads, number, device) for number in (torch.float32, torch.bfloat16))
    peak = single if dtype == "float32" else half
    draft_dtype = "bfloat16" if half > 1.2 * single else "float32"
    approximate = {"ranking": "draft", "draft": "glimpse", "draft_dtype": draft_dtype} | arguments.draft
    report: dict[str, Any] = {
        "machine": machine(device),
        "instructions": torch.backends.cpu.get_cpu_capability() if device == "cpu" else None,
        "model": arguments.shape or "smollm2",
        "dtype": dtype,
        "threads": arguments.threads,
        "peak_flops_per_second": single,
        "peak_flops_per_second_bfloat16": half,
        "draft_dtype": draft_dtype,
        "draft": arguments.draft,
    }
    with tempfile.TemporaryDirectory() as scratch:
        model = smollm2_folder()
        if arguments.shape:
            model = random_model(arguments.shape, model, Path(scratch) / "random")
        copy = reference_copy(model, Path(scratch) / "model")

        def start() -> tuple[Side, Side]:
            placed = (arguments.threads, device, dtype)
            return Side("rfbench", sys.executable, model, *placed), Side("nanogcg", python, copy, *placed)

        if arguments.memory_width:
            ours, theirs = start()
            report |= measure_memory(ours, theirs, behaviors[0], arguments.memory_width)
            ours.close()
            theirs.close()
        ours, theirs = start()
        if arguments.rounds:
            report |= measure_speed(ours, theirs, behaviors[0], arguments.rounds, arguments.width, approximate)
            report["flops_fraction"] = round(report["flops_per_second"] / peak, 3)
        theirs.close()
        if arguments.gap_seeds:
            steps, width = arguments.gap_steps, arguments.gap_width
            report |= measure_gap(ours, behaviors, arguments.gap_seeds, steps, width, approximate)
        ours.close()
    report["minutes"] = round((time.perf_counter() - started) / 60, 1)
    for name, value in report.items():
        print(f"{name}: {value}")
    if arguments.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
