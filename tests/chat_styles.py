"""Chat templates in the shapes that families of models use, written for the tests, and a small tokenizer for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from doubles import CHATML, LLAMA3, TEXT

_EACH = "{% for m in messages %}"
_USER = "{% if m['role'] == 'user' %}"
_ASK = "{% if add_generation_prompt %}"

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
    "{% set before = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% else %}{% set turns = messages %}{% set before = '' %}{% endif %}"
    "{% for m in turns %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (before if loop.first else '') + m['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_V1 = (
    "{{ bos_token }}" + _EACH + _USER + "{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('no system prompts here') }}{% endif %}{% endfor %}"
)
MISTRAL_V3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set order = messages[0]['content'] %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + (order + '\\n\\n' if loop.last and order is defined else '') + m['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
VICUNA = (
    _EACH + "{% if m['role'] == 'system' %}{{ m['content'] + ' ' }}"
    "{% elif m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    + _ASK
    + "{{ 'ASSISTANT:' }}{% endif %}"
)
DEEPSEEK_CHAT = (
    "{{ bos_token }}" + _EACH + _USER + "{{ 'User: ' + m['content'] + '\\n\\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] + eos_token }}"
    "{% else %}{{ m['content'] + '\\n\\n' }}{% endif %}{% endfor %}" + _ASK + "{{ 'Assistant:' }}{% endif %}"
)
DEEPSEEK_R1 = (
    "{{ bos_token }}" + _EACH + _USER + "{{ '<|User|>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{% set said = m['content'] %}"
    "{% if '</think>' in said %}{% set said = said.split('</think>')[-1] %}{% endif %}"
    "{{ '<|Assistant|>' + said + eos_token }}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    + _ASK
    + "{{ '<|Assistant|><think>\\n' }}{% endif %}"
)
QWEN3 = (
    "{% set here = namespace(query=-1) %}" + _EACH + "{% if m['role'] == 'user' %}{% set here.query = loop.index0 %}"
    "{% endif %}{% endfor %}"
    + _EACH
    + "{% if m['role'] == 'assistant' %}{% set said = m['content'] %}{% set thought = '' %}"
    "{% if '</think>' in said %}{% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{% if loop.index0 > here.query and (loop.last or thought) %}"
    "{{ '<|im_start|>assistant\\n<think>\\n' + thought + '\\n</think>\\n\\n' + said.lstrip('\\n') + '<|im_end|>\\n' }}"
    "{% else %}{{ '<|im_start|>assistant\\n' + said + '<|im_end|>\\n' }}{% endif %}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    + _ASK
    + "{{ '<|im_start|>assistant\\n' }}{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
GLM4 = (
    "{{ '[gMASK]<sop>' }}"
    + _EACH
    + "{{ '<|' + m['role'] + '|>\\n' + m['content'] }}{% endfor %}"
    + (_ASK + "{{ '<|assistant|>' }}{% endif %}")
)
GLM45 = (
    "{{ '[gMASK]<sop>' }}"
    + _EACH
    + "{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}"
    + (
        "{{ '\\n<think></think>' }}{% endif %}{{ '\\n' + m['content'] | trim }}{% endfor %}"
        + _ASK
        + "{{ '<|assistant|>' }}"
        "{% endif %}"
    )
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system prompts here') }}{% endif %}"
    + _EACH
    + "{% set who = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + who + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    + _ASK
    + "{{ '<start_of_turn>model\\n' }}{% endif %}"
)
GEMMA_CHANNEL = (
    "{{ bos_token }}" + _EACH + "{% set who = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<|turn>' + who + '\\n' + m['content'] | trim + '<turn|>\\n' }}{% endfor %}" + _ASK + "{{ '<|turn>model\\n' }}"
    "{% if not enable_thinking | default(true) %}{{ '<|channel>thought\\n<channel|>' }}{% endif %}{% endif %}"
)
HARMONY = (
    "{{ '<|start|>system<|message|>You are a model.<|end|>' }}" + _EACH + "{% if m['role'] == 'system' %}"
    "{{ '<|start|>developer<|message|># Instructions\\n\\n' + m['content'] + '<|end|>' }}"
    "{% elif m['role'] == 'user' %}{{ '<|start|>user<|message|>' + m['content'] + '<|end|>' }}"
    "{% elif loop.last and not add_generation_prompt %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] + '<|return|>' }}"
    "{% else %}{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    + _ASK
    + "{{ '<|start|>assistant' }}{% endif %}"
)
COHERE = (
    "{{ bos_token }}" + _EACH + "{% if m['role'] == 'assistant' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>' + m['content'] + "
    "'<|END_RESPONSE|><|END_OF_TURN_TOKEN|>' }}"
    "{% else %}{{ '<|START_OF_TURN_TOKEN|><|' + m['role'].upper() + '_TOKEN|>' }}"
    "{{ m['content'] + '<|END_OF_TURN_TOKEN|>' }}"
    "{% endif %}{% endfor %}"
    + _ASK
    + "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% if reasoning is defined and not reasoning %}"
    "{{ '<|START_THINKING|><|END_THINKING|>' }}{% endif %}{% endif %}"
)
PHI3 = (
    _EACH
    + "{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    + (_ASK + "{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}")
)
PHI4 = (
    _EACH
    + "{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
    + (_ASK + "{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}")
)
MAGISTRAL = (
    "{{ bos_token }}"
    + _EACH
    + "{% if m['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + m['content'] + '[/SYSTEM_PROMPT]' }}"
    "{% elif m['role'] == 'user' %}{{ '[INST]' + m['content'] + '[/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
GRANITE = (
    _EACH + "{{ '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + '<|end_of_text|>\\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|start_of_role|>assistant' }}"
    "{% if thinking is defined and thinking %}{{ ' {\"thinking\": true}' }}{% endif %}{{ '<|end_of_role|>' }}"
    "{% endif %}{% endfor %}"
)
ZEPHYR = (
    _EACH
    + "{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token + '\\n' }}{% endfor %}"
    + (_ASK + "{{ '<|assistant|>\\n' }}{% endif %}")
)
FALCON = (
    _EACH
    + "{{ m['role'].capitalize() + ': ' + m['content'] | trim + '\\n' }}{% endfor %}"
    + (_ASK + "{{ 'Assistant:' }}{% endif %}")
)
OLMO = (
    "{{ bos_token }}"
    + _EACH
    + "{{ '<|' + m['role'] + '|>\\n' + m['content'] }}{% if m['role'] == 'assistant' %}"
    + ("{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}" + _ASK + "{{ '<|assistant|>\\n' }}{% endif %}")
)
SEED = (
    _EACH
    + "{{ bos_token + m['role'] + '\\n' + m['content'] + eos_token }}{% endfor %}"
    + (
        _ASK + "{{ bos_token + 'assistant\\n' }}{% if thinking_budget is defined and thinking_budget == 0 %}"
        "{{ '<seed:think></seed:think>' }}{% endif %}{% endif %}"
    )
)


@dataclass(frozen=True)
class Style:
    """A template, and what it writes: tokens of its own, its arguments, how its tokenizer treats spaces."""

    template: str
    markers: tuple[str, ...] = ()
    thoughts: tuple[str, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)
    spaces: Literal["bytes", "metaspace"] = "bytes"
    system: bool = True


IM = ("<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>")
CHANNELS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>")
STYLES: Mapping[str, Style] = {
    "llama2": Style(LLAMA2, spaces="metaspace"),
    "llama3": Style(LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "mistral-v1": Style(MISTRAL_V1, spaces="metaspace", system=False),
    "mistral-v3": Style(MISTRAL_V3, ("[INST]", "[/INST]"), spaces="metaspace"),
    "mistral-v3-bytes": Style(MISTRAL_V3, ("[INST]", "[/INST]")),
    "vicuna": Style(VICUNA, spaces="metaspace"),
    "deepseek": Style(DEEPSEEK_CHAT),
    "chatml": Style(CHATML, IM),
    "qwen3": Style(QWEN3, IM, THINK),
    "qwen3-quiet": Style(QWEN3, IM, THINK, {"enable_thinking": False}),
    "qwen3-loud": Style(QWEN3, IM, THINK, {"enable_thinking": True}),
    "deepseek-r1": Style(DEEPSEEK_R1, ("<|User|>", "<|Assistant|>"), THINK),
    "glm4": Style(GLM4, ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>")),
    "glm4.5": Style(GLM45, ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"), THINK),
    "gemma": Style(GEMMA, ("<start_of_turn>", "<end_of_turn>"), spaces="metaspace", system=False),
    "gemma-channel": Style(GEMMA_CHANNEL, ("<|turn>", "<turn|>"), ("<|channel>", "<channel|>")),
    "harmony": Style(HARMONY, CHANNELS),
    "cohere": Style(
        COHERE,
        (
            *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|USER_TOKEN|>"),
            *("<|SYSTEM_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        ),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
    ),
    "phi3": Style(PHI3, ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), spaces="metaspace"),
    "phi4": Style(PHI4, (*IM, "<|im_sep|>")),
    "magistral": Style(
        MAGISTRAL, ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), ("[THINK]", "[/THINK]")
    ),
    "granite": Style(GRANITE, ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"), THINK),
    "granite-thinking": Style(
        GRANITE, ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"), THINK, {"thinking": True}
    ),
    "zephyr": Style(ZEPHYR, spaces="metaspace"),
    "falcon": Style(FALCON),
    "olmo": Style(OLMO),
    "seed": Style(SEED, (), ("<seed:think>", "</seed:think>")),
}


@cache
def tokenizer_of(style: str) -> Any:
    """A tokenizer that holds the markers of a style as tokens, its template set. Not to be changed."""
    return build_tokenizer(STYLES[style])


def build_tokenizer(style: Style) -> Any:
    """A tokenizer of some hundred tokens: byte-level, or of words that begin with a space as in SentencePiece."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer.from_str(_trained(style.spaces))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.add_tokens([AddedToken(m, special=True, normalized=False) for m in style.markers], special_tokens=True)
    tokenizer.add_tokens([AddedToken(m, special=False, normalized=False) for m in style.thoughts])
    tokenizer.add_tokens([AddedToken("<rf>", special=True, normalized=False)], special_tokens=True)
    tokenizer.chat_template = style.template
    return tokenizer


@cache
def _trained(spaces: str) -> str:
    """The words of such a tokenizer, as JSON."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if spaces == "bytes":
        words = Tokenizer(models.BPE())
        words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        words = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
        words.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = [chr(i) for i in range(33, 127)] + ["\n"]
    corpus = [*TEXT, "[INST] [/INST] USER: ASSISTANT: User: Assistant: Sure I cannot analysis final commentary thought"]
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    words.train_from_iterator(corpus * 3, trainer)
    return words.to_str()
