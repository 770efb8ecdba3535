"""Chat templates with tools in the style of several families, small enough to know by heart."""

HERMES = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}"
    "{% if messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user\n{% endif %}"
    "<tool_response>{{ m.content }}</tool_response>"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Tools in a system turn, calls in the text of the assistant, results of one step in one turn of the user."""

FORGETS = HERMES.replace(
    "{% for m in messages %}",
    "{% set last = namespace(user=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}",
).replace(
    "<|im_start|>{{ m.role }}\n",
    "<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > last.user and (loop.last or m.reasoning_content) %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}",
)
"""The same, with reasoning: that of turns before the user's last one is dropped, and the last turn always has some."""

IPYTHON = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.tool_calls %}{% if m.tool_calls | length > 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    '[assistant]{"name": "{{ m.tool_calls[0].function.name }}", '
    '"parameters": {{ m.tool_calls[0].function.arguments | tojson }}}<|eot|>'
    "{% elif m.role == 'tool' %}[ipython]{{ m.content | tojson }}<|eot|>"
    "{% else %}[{{ m.role }}]{% if loop.first and tools %}{{ tools | tojson }} {% endif %}{{ m.content | trim }}<|eot|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""Tools in the first turn, one call a turn, results as JSON from a role of their own."""

BRACKETS = (
    "{{ bos_token }}{% set last = namespace(user=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}{% if tools and loop.index0 == last.user %}[TOOLS]{{ tools | tojson }}[/TOOLS]{% endif %}"
    "[INST] {{ m.content }}[/INST]"
    "{% elif m.tool_calls %}[TOOL_CALLS] [{% for call in m.tool_calls %}{% if call.id | length != 9 %}"
    "{{ raise_exception('ids have nine characters') }}{% endif %}"
    "{{ call.function | tojson }}{% if not loop.last %}, {% endif %}{% endfor %}]{{ eos_token }}"
    "{% elif m.role == 'tool' %}[RESULT] {{ m.tool_call_id }} {{ m.content }}[/RESULT]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""No header; tools stand before the user's last turn, wherever that is."""

TWO_ROLES = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role not in ('user', 'assistant') %}{{ raise_exception('no such role: ' + m.role) }}{% endif %}"
    "[{{ 'model' if m.role == 'assistant' else m.role }}]{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}[model]{% endif %}"
)
"""Neither tools nor calls, and no role for results."""

LAST_ENDED = (
    "{% if tools %}({{ tools | tojson }}){% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for call in m.tool_calls or [] %}!{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}"
    "{% if loop.last and m.role == 'assistant' %}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""Only the last turn is ended."""

NEXT_ENDS = (
    "{% if tools %}({{ tools | tojson }}){% endif %}"
    "{% for m in messages %}{% if not loop.first and messages[loop.index0 - 1].role == 'assistant' %}<eos>{% endif %}"
    "[{{ m.role }}]{{ m.content }}"
    "{% for call in m.tool_calls or [] %}!{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""A turn is ended when the next begins."""

GOES_ON = (
    "{% if tools %}({{ tools | tojson }}){% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}<out>{{ m.content }}</out>"
    "{% else %}{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}[{{ m.role }}]{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}!{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}"
    "{% if m.role == 'assistant' %}<eos>{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role != 'tool' %}[assistant]{% endif %}"
)
"""The assistant goes on behind a result without a header."""

CHANNELS = (
    "{% if tools %}<|im_start|>system{{ tools | tojson }}<|im_end|>{% endif %}"
    "{% for m in messages %}"
    "{% set answered = namespace(later=false) %}"
    "{% for n in messages[loop.index:] %}"
    "{% if n.role == 'assistant' and not n.tool_calls %}{% set answered.later = true %}{% endif %}{% endfor %}"
    "{% if m.role == 'assistant' %}"
    "{% if m.thinking and not answered.later %}<|im_start|>assistant.think {{ m.thinking }}<|im_end|>{% endif %}"
    "{% if m.tool_calls %}<|im_start|>assistant.call {{ m.tool_calls[0].function | tojson }}<|eot|>"
    "{% else %}<|im_start|>assistant.say {{ m.content }}{{ '<eos>' if loop.last else '<|im_end|>' }}{% endif %}"
    "{% else %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
"""Thoughts, calls and answers in channels; what was thought is dropped as soon as an answer stands behind it."""
