"""Makes tests/fixtures/text/families.json: what transformers renders with the chat templates
that models of widely used families are published with.

    make templates
    python3 -m venv /tmp/reference
    /tmp/reference/bin/pip install transformers jinja2
    /tmp/reference/bin/python tests/reference/make_families.py

Made with transformers 5.23.0, jinja2 3.1.6. The templates are their makers' and lie in
data/templates, not here. Messages are put in shape as in make_text.py. The package that
they come from has none of Gemma 3, OLMo 2 and Phi 4 mini, and SmolLM3's as it first was,
without calls.
"""

import json

import chats
from transformers.utils import chat_template_utils

chat_template_utils.datetime = chats.FixedDate

TEMPLATES = chats.HERE.parents[1] / "data" / "templates"

# The file of each family.
FAMILIES = {
    "llama 3.1": "meta-llama-Llama-3.1-8B-Instruct",
    "llama 3.3": "meta-llama-Llama-3.3-70B-Instruct",
    "qwen 2.5": "Qwen-Qwen2.5-7B-Instruct",
    "qwen 3": "Qwen-Qwen3-0.6B",
    "qwen 3 coder": "Qwen3-Coder",
    "qwq": "Qwen-QwQ-32B",
    "mistral nemo": "mistralai-Mistral-Nemo-Instruct-2407",
    "mistral small": "Mistral-Small-3.2-24B-Instruct-2506",
    "gemma 2": "google-gemma-2-2b-it",
    "phi 3.5": "microsoft-Phi-3.5-mini-instruct",
    "deepseek r1": "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek v3.1": "deepseek-ai-DeepSeek-V3.1",
    "gpt-oss": "openai-gpt-oss-120b",
    "glm 4.6": "GLM-4.6",
    "granite 3.3": "ibm-granite-granite-3.3-2B-Instruct",
    "granite 4": "ibm-granite-granite-4.0",
    "hermes 3": "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "smollm 3": "HuggingFaceTB-SmolLM3-3B",
    "lfm 2": "LFM2-8B-A1B",
    "lfm 2.5": "LFM2.5-8B-A1B",
    "command r7b": "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
}

# What each is asked: the chat, whether it has the tools, and what is passed besides. A
# template for the use of tools is rendered with tools alone.
CASES = [
    ("one", False, {}),
    ("system", False, {}),
    ("thinking", False, {}),
    ("one", False, {"enable_thinking": False}),
    ("one", True, {}),
    ("tools", True, {}),
    ("two calls", True, {}),
    ("called", True, {}),
]


def render(source, chat, has_tools, kwargs, add_generation_prompt):
    case = {"chat": chat, "tools": has_tools, "kwargs": kwargs, "add_generation_prompt": add_generation_prompt}
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            conversations=[chats.in_shape(CHATS[chat], "'developer'" in source or '"developer"' in source)],
            tools=chats.TOOLS if has_tools else None,
            chat_template=source,
            add_generation_prompt=add_generation_prompt,
            **chats.SPECIAL,
            **kwargs,
        )
        case["prompt"] = rendered[0]
    except Exception as error:  # whatever the template does
        case["error"] = str(error)
    return case


# An answer that calls, at the end: as a model writes it.
CHATS = {name: chats.CHATS[name] for name, _, _ in CASES if name != "called"}
CHATS["called"] = chats.CHATS["tools"][:2]


def main():
    families = []
    for family, file in FAMILIES.items():
        source = (TEMPLATES / f"{file}.jinja").read_text(encoding="utf-8")
        cases = [case for case in CASES if case[1] or not file.endswith("tool_use")]
        cases = [render(source, *case, case[0] != "called") for case in cases]
        families.append({"family": family, "template": file, "cases": cases})
    content = {
        "now": 1720256703,
        "special_tokens": chats.SPECIAL,
        "tools": chats.TOOLS,
        "chats": CHATS,
        "families": families,
    }
    text = json.dumps(content, ensure_ascii=False, indent=1)
    (chats.OUT / "families.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
