"""What of a model can be opened without its weights: its device, files, architecture, tokenizer, flag and template.

Loading asks the same questions; here they are asked of all models of a suite before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rfbench.errors import CanaryError, ModelError
from rfbench.files.text import says
from rfbench.models.architecture import kind_problem
from rfbench.models.flag import flag_id_of
from rfbench.models.folders import ADAPTER_CONFIG, adapter_problem, read_object, refuse_special_files
from rfbench.models.hf.anatomy import auto_class
from rfbench.models.parts import Checkpoint, Place, load_tokenizer, make_encoder, naming, read_flag, refuse_harm
from rfbench.models.remedies import on_the_model
from rfbench.models.spec import ModelSpec


def look_into(spec: ModelSpec) -> Iterator[str]:
    """Why a model could not be loaded, as far as it shows without weights and without the network; a line for each.

    Raises:
        ModelError: it is not on this machine.
    """
    checkpoint = Checkpoint.of(spec, offline=True)
    checks: tuple[Callable[[ModelSpec, Checkpoint], None], ...] = (
        lambda spec, _: check_device(spec.device),
        _check_files,
        lambda spec, checkpoint: check_quantisation(checkpoint.base, spec),
        _check_chat,
    )
    for check in checks:
        try:
            with naming(spec):
                check(spec, checkpoint)
        except (ModelError, CanaryError) as error:
            yield str(error)


def check_device(device: str | None) -> None:
    """Tensors can be put on a device of this name.

    Raises:
        ModelError: they cannot.
    """
    import torch

    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except Exception as error:  # what is raised hangs on the device
        remedy = f"set {on_the_model('device', 'cpu')}, or another that is there"
        raise ModelError(f"device {device!r} cannot be used here: {says(error)}; {remedy}") from error


def check_base(base: Place, *, allow_pickle: bool) -> None:
    """What lies here is a language model with all its weights, and nothing that would do harm.

    Of a model on the Hub the weights are for the Hub to say.

    Raises:
        ModelError: it is not.
    """
    if base.file(ADAPTER_CONFIG) is not None:
        raise ModelError(adapter_problem(base.where, has_config=base.file("config.json") is not None))
    if base.revision is None and Path(base.where).is_dir():
        refuse_special_files(Path(base.where))
        if not (Path(base.where) / "config.json").is_file():
            raise ModelError("it is no model folder: it holds no config.json")
    path = base.file("config.json")
    said = {} if path is None else read_object(path)
    if problem := kind_problem(said):
        raise ModelError(f"it {problem}")
    auto_class(said)
    refuse_harm(base, allow_pickle=allow_pickle)


def check_quantisation(base: Place, spec: ModelSpec) -> None:
    """What a quantised model needs is installed, and its device can run it.

    Raises:
        ModelError: it is quantised in a way that cannot be read here.
    """
    import torch
    from transformers import AutoConfig
    from transformers.quantizers import AutoHfQuantizer

    config = AutoConfig.from_pretrained(base.where, trust_remote_code=spec.trust_remote_code, **base.options)
    how = getattr(config, "quantization_config", None)
    if how is None:
        return
    place = spec.device_map or spec.device or ("cuda" if torch.cuda.is_available() else "cpu")
    quantizer = AutoHfQuantizer.from_config(how, pre_quantized=True)
    quantizer.validate_environment(device_map=place if spec.device_map else {"": place}, weights_only=True)


def _check_files(spec: ModelSpec, checkpoint: Checkpoint) -> None:
    """Weights are there, and whole as far as their headers say."""
    from safetensors import safe_open

    from rfbench.models.hf.load import local_adapter

    check_base(checkpoint.base, allow_pickle=spec.allow_pickle)
    folders = [Path(checkpoint.base.where)]
    if checkpoint.adapter is not None:
        refuse_special_files(Path(checkpoint.adapter.where))
        folders.append(local_adapter(checkpoint.adapter, allow_pickle=spec.allow_pickle))
    for file in (file for folder in folders for file in folder.glob("*.safetensors")):
        with safe_open(file, framework="np"):
            pass


def _check_chat(spec: ModelSpec, checkpoint: Checkpoint) -> None:
    """Tokenizer, flag and chat template."""
    tokenizer = load_tokenizer(spec, checkpoint)
    token, _ = read_flag(spec, checkpoint, tokenizer)
    flag_id = None if token is None else flag_id_of(tokenizer, token)
    make_encoder(spec, tokenizer, flag_id, spec.template_text())
