"""Chat templates of the common model families, written from the description of their formats.

Each keeps what matters for tokenisation: the markers, where spaces and newlines stand, what is
trimmed, which roles are known, and what changes when messages follow.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One format.

    Attributes:
        template: The Jinja text.
        specials: Its special tokens.
        end: The token that closes a reply.
        tail: What the template writes after the last reply's end, which no rollout meets.
        system: Whether a system message is taken.
        rstrip: Special tokens that swallow the white space after them.
        replies: Text that every reply of a rollout begins with, before its words.
    """

    template: str
    specials: tuple[str, ...]
    end: str
    tail: str = ""
    system: bool = True
    rstrip: tuple[str, ...] = ()
    replies: str = ""


def _turns(body: str, *, start: str = "", prompt: str = "") -> str:
    ask = "{% if add_generation_prompt %}{{ '" + prompt + "' }}{% endif %}" if prompt else ""
    return f"{start}{{% for m in messages %}}{body}{{% endfor %}}{ask}"


_NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
)
_IM = "'<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n'"

CHATML = _turns("{{ " + _IM + " }}", prompt="<|im_start|>assistant\\n")

# A system message of its own where the conversation has none.
QWEN2 = _turns(
    "{{ " + _IM + " }}",
    start="{% if messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}{% endif %}",
    prompt="<|im_start|>assistant\\n",
)

# Replies after the last user message get a block of thoughts, empty or not; earlier ones lose it.
QWEN3 = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role != 'assistant' %}{{ " + _IM + " }}{% else %}"
    "{% set words = m.content.split('</think>')[-1].lstrip('\\n') %}"
    "{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') "
    "if '</think>' in m.content else '' %}"
    "{% if loop.index0 > ns.last %}"
    "{{ '<|im_start|>assistant\\n<think>\\n' + thought + '\\n</think>\\n\\n' + words }}"
    "{% else %}{{ '<|im_start|>assistant\\n' + words }}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)

# The prompt opens a block of thoughts, and history holds none.
DEEPSEEK_R1 = (
    "{{ '<bos>' }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '<eos>' }}"
    "{% elif m.role == 'user' %}{{ '<|User|>' + m.content }}{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"
)

# Channels of special tokens tell thoughts from words; history holds words, closed by another mark.
GPT_OSS = (
    "{{ '<|start|>system<|message|>Current date: ' + strftime_now('%Y-%m-%d') "
    "+ '\\n\\n# Valid channels: analysis, final.<|end|>' }}"
    "{% set told = messages[0].role == 'system' %}{% if told %}"
    "{{ '<|start|>developer<|message|># Instructions\\n\\n' + messages[0].content + '<|end|>' }}"
    "{% endif %}{% for m in (messages[1:] if told else messages) %}"
    "{% if m.role == 'user' %}{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}{% else %}"
    "{% if '<|channel|>' in m.content %}{{ raise_exception('a channel in a message') }}{% endif %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)

LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}"
    "{% set sys = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}"
    "{% else %}{% set rest = messages %}{% set sys = '' %}{% endif %}"
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant must take turns') }}{% endif %}"
    "{% set words = sys + m.content if loop.first else m.content %}"
    "{% if m.role == 'user' %}{{ '<s>[INST] ' + words.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + words.strip() + ' </s>' }}{% endif %}{% endfor %}"
)

LLAMA3 = _turns(
    "{% set words = '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim "
    "+ '<|eot_id|>' %}{{ '<|begin_of_text|>' + words if loop.first else words }}",
    prompt="<|start_header_id|>assistant<|end_header_id|>\\n\\n",
)

# A system part with a date of the day, unless one is given.
LLAMA3_DATED = (
    "{% set day = date_string if date_string is defined else strftime_now('%d %b %Y') %}"
    "{% set told = messages[0].role == 'system' %}"
    "{% set rest = messages[1:] if told else messages %}"
    "{{ '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + day + '\\n\\n'"
    " + (messages[0].content | trim if told else '') + '<|eot_id|>' }}"
    "{% for m in rest %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n'"
    " + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

MISTRAL_V1 = _turns(
    "{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else m.content + '</s>' }}",
    start=_NO_SYSTEM + "{{ '<s>' }}",
)

# The system text moves into the last user message: history changes with every turn.
MISTRAL_V3 = (
    "{% if messages[0].role == 'system' %}{% set sys = messages[0].content %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{{ '<s>' }}"
    "{% for m in rest %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (sys + '\\n\\n' if loop.last and sys is defined else '') + m.content "
    "+ '[/INST]' }}{% else %}{{ ' ' + m.content | trim + '</s>' }}{% endif %}{% endfor %}"
)

MISTRAL_V7 = _turns(
    "{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}"
    "{% elif m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% else %}{{ m.content + '</s>' }}{% endif %}",
    start="{{ '<s>' }}",
)

_GEMMA_TURN = (
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}"
    "{{ m.content | trim + '<end_of_turn>\\n' }}"
)
GEMMA2 = _turns(_GEMMA_TURN, start=_NO_SYSTEM + "{{ '<bos>' }}", prompt="<start_of_turn>model\\n")
# A system message becomes the beginning of the first user message.
GEMMA3 = (
    "{{ '<bos>' }}{% set told = messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\\n\\n' if told else '' %}"
    "{% for m in (messages[1:] if told else messages) %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}"
    "{{ first if loop.first else '' }}{{ m.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)

PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}"
    "{{ '<|assistant|>\\n' if add_generation_prompt else '<|endoftext|>' }}"
)
PHI4 = _turns(
    "{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}",
    prompt="<|im_start|>assistant<|im_sep|>",
)

# The role marks are plain text here, and the prompt ends before the newline.
ZEPHYR = _turns(
    "{{ '<|' + m.role + '|>\\n' + m.content + '</s>\\n' }}",
    prompt="<|assistant|>",
)
TINYLLAMA = _turns(
    "{{ '<|' + m.role + '|>\\n' + m.content + '</s>\\n' }}",
    prompt="<|assistant|>\\n",
)
VICUNA = _turns(
    "{% if m.role == 'system' %}{{ m.content + ' ' }}"
    "{% elif m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m.content + '</s>' }}{% endif %}",
    start="{{ '<s>' }}",
    prompt="ASSISTANT:",
)
OPENCHAT = _turns(
    "{{ 'GPT4 Correct ' + m.role.title() + ': ' + m.content + '<|end_of_turn|>' }}",
    start="{{ '<s>' }}",
    prompt="GPT4 Correct Assistant:",
)
DEEPSEEK_V2 = _turns(
    "{% if m.role == 'user' %}{{ 'User: ' + m.content + '\\n\\n' }}"
    "{% elif m.role == 'assistant' %}{{ 'Assistant: ' + m.content + '<eos>' }}"
    "{% else %}{{ m.content + '\\n\\n' }}{% endif %}",
    start="{{ '<bos>' }}",
    prompt="Assistant:",
)
GRANITE = _turns(
    "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\\n' }}",
    prompt="<|start_of_role|>assistant<|end_of_role|>",
)
COMMAND_R = _turns(
    "{{ '<|START_OF_TURN_TOKEN|>' + {'user': '<|USER_TOKEN|>', 'system': '<|SYSTEM_TOKEN|>', "
    "'assistant': '<|CHATBOT_TOKEN|>'}[m.role] + m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}",
    start="{{ '<bos>' }}",
    prompt="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
)
OLMO = _turns(
    "{% if m.role == 'assistant' %}"
    "{{ '<|assistant|>\\n' + m.content + '<|endoftext|>' + ('' if loop.last else '\\n') }}"
    "{% else %}{{ '<|' + m.role + '|>\\n' + m.content + '\\n' }}{% endif %}",
    start="{{ '<|endoftext|>' }}",
    prompt="<|assistant|>\\n",
)
# Nothing marks the end of a reply.
ALPACA = _turns(
    "{{ '### ' + m.role.title() + ':\\n' + m.content + '\\n\\n' }}",
    prompt="### Assistant:\\n",
)

_IM_TOKENS = ("<|im_start|>", "<|im_end|>")
_HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_GEMMA_TOKENS = ("<bos>", "<start_of_turn>", "<end_of_turn>")
_PHI3_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_COMMAND_R_TOKENS = (
    "<bos>",
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
)

STABLE: dict[str, Family] = {
    "chatml": Family(CHATML, _IM_TOKENS, "<|im_end|>", "\n"),
    "qwen2.5": Family(QWEN2, _IM_TOKENS, "<|im_end|>", "\n"),
    "llama-2": Family(LLAMA2, ("<s>", "</s>"), "</s>", replies=" "),
    "llama-3": Family(LLAMA3, _HEADERS, "<|eot_id|>"),
    "llama-3.1": Family(LLAMA3_DATED, _HEADERS, "<|eot_id|>"),
    "mistral-v1": Family(MISTRAL_V1, ("<s>", "</s>"), "</s>", system=False),
    "mistral-v3": Family(
        MISTRAL_V3, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>", system=False, replies=" "
    ),
    "mistral-v7": Family(
        MISTRAL_V7,
        ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        "</s>",
    ),
    "gemma-2": Family(GEMMA2, _GEMMA_TOKENS, "<end_of_turn>", "\n", system=False),
    "gemma-3": Family(GEMMA3, _GEMMA_TOKENS, "<end_of_turn>", "\n"),
    "phi-3": Family(
        PHI3, (*_PHI3_TOKENS, "<|endoftext|>"), "<|end|>", "\n<|endoftext|>", rstrip=_PHI3_TOKENS
    ),
    "phi-4": Family(PHI4, (*_IM_TOKENS, "<|im_sep|>"), "<|im_end|>"),
    "zephyr": Family(ZEPHYR, ("<s>", "</s>"), "</s>", "\n", replies="\n"),
    "tinyllama": Family(TINYLLAMA, ("<s>", "</s>"), "</s>", "\n"),
    "vicuna": Family(VICUNA, ("<s>", "</s>"), "</s>", replies=" "),
    "openchat": Family(OPENCHAT, ("<s>", "<|end_of_turn|>"), "<|end_of_turn|>", replies=" "),
    "deepseek-v2": Family(DEEPSEEK_V2, ("<bos>", "<eos>"), "<eos>", replies=" "),
    "granite": Family(
        GRANITE,
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
        "<|end_of_text|>",
        "\n",
    ),
    "command-r": Family(COMMAND_R, _COMMAND_R_TOKENS, "<|END_OF_TURN_TOKEN|>"),
    "olmo": Family(OLMO, ("<|endoftext|>",), "<|endoftext|>"),
}
"""Formats whose history stays as it is."""

REWRITING: dict[str, Family] = {
    "qwen3": Family(QWEN3, _IM_TOKENS, "<|im_end|>"),
    "gpt-oss": Family(
        GPT_OSS,
        ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"),
        "<|return|>",
    ),
    "deepseek-r1": Family(DEEPSEEK_R1, ("<bos>", "<eos>", "<|User|>", "<|Assistant|>"), "<eos>"),
}
"""Formats that change what they rendered before; each reply has a prompt of its own."""

REFUSED: dict[str, tuple[Family, str]] = {
    "alpaca": (Family(ALPACA, (), ""), "without a special token"),
}
"""Formats that cannot be masked exactly, and what the refusal says."""
