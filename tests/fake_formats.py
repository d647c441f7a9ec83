"""Tiny random models in published chat formats: their control tokens, chat templates and ends.

Templates are shortened to what a conversation of one question needs.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHATML = (
    "{%- for message in messages %}{%- if loop.first and message.role != 'system' %}"
    "{{- '<|im_start|>system\\nSYSTEM<|im_end|>\\n' }}{%- endif %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
QWEN3 = (
    "{%- for message in messages %}{%- if message.role == 'assistant' and loop.last %}"
    "{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + message.content.lstrip('\\n') }}"
    "{{- '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)
LLAMA3 = (
    "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n'
    '        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n{%- endif %}\n'
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    '{%- set messages = messages[1:] %}{%- else %}{%- set system_message = "" %}{%- endif %}\n'
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n' }}"
    "{{- 'Today Date: ' + date_string + '\\n\\n' + system_message + '<|eot_id|>' }}"
    "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
ALTERNATE = (
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{%- endif -%}"
)
GEMMA3 = (
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}"
    "{%- set head = messages[0]['content'] + '\\n\\n' -%}"
    "{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set head = '' -%}"
    "{%- set loop_messages = messages -%}"
    "{%- endif -%}{%- for message in loop_messages -%}"
    + ALTERNATE
    + "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<start_of_turn>' + role + '\\n' + (head if loop.first else '') }}"
    "{{ message['content'] | trim }}{{ '<end_of_turn>\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"
)
GEMMA2 = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + GEMMA3
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
LLAMA2 = MISTRAL.replace("'[INST] ' +", "'[INST] <<SYS>>\\n\\n<</SYS>>\\n\\n' +")
DEEPSEEK = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
    "{{ '<｜User｜>' + message.content }}"
    "{% else %}{{ '<｜Assistant｜>' + message.content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' }}"
    "{{ message['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
)


@dataclass(frozen=True)
class Format:
    """A family's files; ids are positions in `tokens`, the tokens of `plain` are added and not special."""

    kind: str  # model_type
    template: str | None
    tokens: tuple[str, ...]
    named: dict[str, str]  # bos_token and the like
    end: str  # that the template puts after an answer
    ends: frozenset[str]
    generation: tuple[str, ...] = ()  # eos_token_id of generation_config.json
    config: tuple[tuple[str, Any], ...] = ()
    pieces: bool = False  # SentencePiece's way with spaces, which it also puts before a text
    plain: tuple[str, ...] = ()


FORMATS = {
    "Qwen2.5": Format(
        "qwen2",
        CHATML,
        QWEN_TOKENS,
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "<|im_end|>",
        frozenset({"<|im_end|>", "<|endoftext|>"}),
        ("<|im_end|>", "<|endoftext|>"),
    ),
    "Qwen3": Format(
        "qwen3",
        QWEN3,
        QWEN_TOKENS,
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "<|im_end|>",
        frozenset({"<|im_end|>", "<|endoftext|>"}),
        ("<|im_end|>", "<|endoftext|>"),
        plain=("<think>", "</think>", "<tool_call>", "assistant"),
    ),
    "SmolLM2": Format(
        "llama",
        CHATML,
        (*QWEN_TOKENS, "<repo_name>"),
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
        "<|im_end|>",
        frozenset({"<|im_end|>"}),
    ),
    "Llama 3": Format(
        "llama",
        LLAMA3,
        LLAMA3_TOKENS,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
        "<|eot_id|>",
        frozenset({"<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"}),
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        config=(
            (
                "rope_scaling",
                {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                },
            ),
        ),
    ),
    "Gemma 3": Format(
        "gemma3_text",
        GEMMA3,
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
        "<end_of_turn>",
        frozenset({"<end_of_turn>", "<eos>", "<pad>"}),
        ("<eos>", "<end_of_turn>"),
        config=(("sliding_window", 16), ("sliding_window_pattern", 2), ("query_pre_attn_scalar", 16)),
    ),
    "Gemma 2": Format(
        "gemma2",
        GEMMA2,
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
        "<end_of_turn>",
        frozenset({"<end_of_turn>", "<eos>", "<pad>"}),
        config=(("sliding_window", 16), ("query_pre_attn_scalar", 16), ("final_logit_softcapping", 0.1)),
    ),
    "Mistral": Format(
        "mistral",
        MISTRAL,
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "</s>",
        frozenset({"</s>"}),
        config=(("sliding_window", 16),),
        pieces=True,
    ),
    "Llama 2": Format(
        "llama",
        LLAMA2,
        ("<unk>", "<s>", "</s>"),
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "</s>",
        frozenset({"</s>"}),
        pieces=True,
    ),
    "DeepSeek": Format(
        "llama",
        DEEPSEEK,
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"},
        "<｜end▁of▁sentence｜>",
        frozenset({"<｜end▁of▁sentence｜>"}),
        plain=("<｜User｜>", "<｜Assistant｜>"),
    ),
    "Phi 3": Format(
        "llama",
        PHI3,
        ("<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"),
        {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        "<|end|>",
        frozenset({"<|end|>", "<|endoftext|>"}),
    ),
}
CONTEXT = 512


def write(format: Format, folder: Path, **changes: Any) -> Path:
    """Write a model of this format; `changes` are further entries of tokenizer_config.json."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    tok = PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(format), clean_up_tokenization_spaces=False, **format.named
    )
    tok.chat_template = format.template
    tok.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "head_dim": 16, "vocab_size": -(-len(tok) // 64) * 64}
    sizes |= {
        "max_position_embeddings": CONTEXT,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    config = AutoConfig.for_model(format.kind, **sizes | dict(format.config))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    ids = tok.convert_tokens_to_ids(list(format.generation or [format.named["eos_token"]]))
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": ids if len(ids) > 1 else ids[0]})
    )
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def _tokenizer(format: Format) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    special = [AddedToken(token, special=True, normalized=False) for token in format.tokens]
    bytes_ = (
        [f"<0x{byte:02X}>" for byte in range(256)]
        if format.pieces
        else sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    letters = [*map(chr, range(33, 127)), "▁"] if format.pieces else []
    vocabulary = {token: index for index, token in enumerate([*format.tokens, *bytes_, *letters])}
    if format.pieces:
        built = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        built.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        built.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        built = Tokenizer(models.BPE(vocabulary, []))
        built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        built.decoder = decoders.ByteLevel()
    built.add_special_tokens(special)
    built.add_tokens([AddedToken(token, special=False, normalized=False) for token in format.plain])
    return built
