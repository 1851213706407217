"""Makes tests/fixtures/text/*.json: what the reference implementations answer.

    python3 -m venv /tmp/reference
    /tmp/reference/bin/pip install transformers jinja2 mlx-lm 'mlx[cpu]'
    /tmp/reference/bin/python tests/reference/make_text.py

Made with transformers 5.23.0, jinja2 3.1.6, mlx-lm 0.32.2. Templates are rendered by
transformers, on messages put in shape as mlx-lm's server does; the probabilities after
bias, penalties and filters are those of mlx_lm.sample_utils.
"""

import json
import math
import random

import mlx.core as mx
from chats import CHATS, CLOCK, DOCUMENTS, HERE, OUT, SPECIAL, WEATHER, FixedDate, in_shape
from mlx_lm import sample_utils
from transformers.utils import chat_template_utils

chat_template_utils.datetime = FixedDate


def render(name, chat, tools=None, kwargs=None, add_generation_prompt=True, continue_final_message=False):
    source = (HERE / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
    case = {
        "template": name,
        "messages": CHATS[chat],
        "tools": tools,
        "kwargs": kwargs or {},
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": continue_final_message,
    }
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            conversations=[in_shape(CHATS[chat], "developer" in source)],
            tools=tools,
            chat_template=source,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **SPECIAL,
            **(kwargs or {}),
        )
        case["prompt"] = rendered[0]
    except Exception as error:  # whatever the template does
        case["error"] = str(error)
    return case


def templates():
    cases = []
    for name in ["chatml", "llama3", "mistral", "gemma", "phi", "qwen", "deepseek", "command-r", "training"]:
        for chat in ["one", "system", "developer", "parts", "wrong order"]:
            cases.append(render(name, chat))
        cases.append(render(name, "one", add_generation_prompt=False))
        cases.append(render(name, "prefix", add_generation_prompt=False, continue_final_message=True))
    for name in ["llama3", "mistral", "qwen", "deepseek", "command-r"]:
        for chat in ["tools", "two calls"]:
            cases.append(render(name, chat))
            cases.append(render(name, chat, tools=[WEATHER, CLOCK]))
    cases.append(render("llama3", "system", tools=[WEATHER], kwargs={"tools_in_user_message": False, "date_string": "1 Jan 2030"}))
    cases.append(render("mistral", "odd role"))
    cases.append(render("command-r", "stops", kwargs={"documents": DOCUMENTS}))
    for thinking in [True, False]:
        cases.append(render("qwen", "one", kwargs={"enable_thinking": thinking}))
    cases.append(render("qwen", "thinking"))
    cases.append(render("qwen", "thinking", add_generation_prompt=False))
    cases.append(render("qwen", "reasoning", add_generation_prompt=False))
    cases.append(render("deepseek", "thinking"))
    cases.append(render("odds", "one"))
    return {"now": 1720256703, "special_tokens": SPECIAL, "cases": cases}


def probabilities(case):
    """The probabilities after everything, by mlx-lm's functions."""
    logits = mx.array([case["logits"]], dtype=mx.float32)
    processors = sample_utils.make_logits_processors(
        {int(k): v for k, v in case["logit_bias"]} or None,
        case["repetition_penalty"],
        case["repetition_context"],
    )
    seen = mx.array(case["prompt"] + case["generated"]) if case["prompt"] + case["generated"] else mx.array([], dtype=mx.int32)
    for process in processors:
        logits = process(seen, logits)
    # OpenAI's rule: these count what was generated, all of it.
    penalties = sample_utils.make_logits_processors(
        presence_penalty=case["presence_penalty"],
        presence_context_size=1000,
        frequency_penalty=case["frequency_penalty"],
        frequency_context_size=1000,
    )
    for process in penalties:
        logits = process(mx.array(case["generated"]), logits) if case["generated"] else logits
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    if 0 < case["top_p"] < 1:
        logprobs = sample_utils.apply_top_p(logprobs, case["top_p"])
    if case["min_p"] != 0:
        logprobs = sample_utils.apply_min_p(logprobs, case["min_p"])
    if case["top_k"] > 0:
        logprobs = sample_utils.apply_top_k(logprobs, case["top_k"])
    return mx.softmax(logprobs * (1 / case["temperature"]), axis=-1)[0].tolist()


def samplings():
    dice = random.Random(7)
    cases = []
    for number in range(60):
        size = dice.choice([8, 33, 300])
        spread = dice.choice([0.5, 2.0, 6.0])
        case = {
            "logits": [round(dice.gauss(0, spread), 4) for _ in range(size)],
            "temperature": dice.choice([0.3, 0.7, 1.0, 1.7]),
            "top_p": dice.choice([0.0, 1.0, 0.1, 0.5, 0.9, 0.95]),
            "top_k": dice.choice([0, 0, 1, 3, 7]),
            "min_p": dice.choice([0.0, 0.0, 0.05, 0.3]),
            "repetition_penalty": dice.choice([1.0, 1.0, 1.3, 0.8]),
            "repetition_context": dice.choice([20, 3]),
            "presence_penalty": dice.choice([0.0, 0.0, 0.5, -1.0]),
            "frequency_penalty": dice.choice([0.0, 0.0, 0.4, -0.2]),
            "logit_bias": [[dice.randrange(size), dice.choice([-100.0, -1.0, 2.5])]] if dice.random() < 0.3 else [],
            "prompt": [dice.randrange(size) for _ in range(dice.choice([0, 5, 12]))],
            "generated": [dice.randrange(size) for _ in range(dice.choice([0, 4, 12]))],
        }
        expected = probabilities(case)
        assert math.isclose(sum(expected), 1, abs_tol=1e-4), number
        case["kept"] = [[at, float(f"{value:.6g}")] for at, value in enumerate(expected) if value > 0]
        cases.append(case)
    return {"cases": cases}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, content in [("templates", templates()), ("sampling", samplings())]:
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (OUT / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
