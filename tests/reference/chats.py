"""The chats that templates are tried on, for make_text.py and make_families.py, and what
those do with them before they render.
"""

import copy
import datetime
import json
import pathlib

HERE = pathlib.Path(__file__).parent
OUT = HERE.parent / "fixtures" / "text"


class FixedDate(datetime.datetime):
    """The moment of all renderings; the test uses the same."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 6, 9, 5, 3)


SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "weather now, in one place",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "town & country, e.g. \"Köln\""},
                "days": {"type": "integer"},
                "unit": {"type": "string", "enum": ["°C", "°F"]},
            },
            "required": ["place"],
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "description": "", "parameters": {"type": "object", "properties": {}, "required": []}},
}


def user(text, **more):
    return {"role": "user", "content": text, **more}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(name, arguments, id="abc123XYZ"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}}


CHATS = {
    "one": [user("  Hello, who are you? ")],
    "system": [{"role": "system", "content": "Be brief.\n"}, user("Hi"), assistant("Hello!"), user("Größe? 😀 <b>")],
    "developer": [{"role": "developer", "content": "Speak French."}, user("Hi")],
    "parts": [user([{"type": "text", "text": "first "}, {"type": "text", "text": "second"}])],
    "thinking": [user("1+1?"), assistant("<think>\nadd\n</think>\n\n2"), user("and 3?"), assistant("5", reasoning_content="more adding")],
    "reasoning": [user("1+1?"), assistant("2", reasoning="short")],
    "tools": [
        user("Weather in Köln?"),
        assistant(None, tool_calls=[call("get_weather", {"place": "Köln", "days": 2, "exact": 1.0})]),
        {"role": "tool", "tool_call_id": "abc123XYZ", "content": "{\"sky\": \"clear\"}"},
        assistant("Clear."),
        user("And now the time?"),
    ],
    "two calls": [
        user("Both, please."),
        assistant("", tool_calls=[call("get_weather", {"place": "Bonn"}), call("clock", {}, "def456UVW")]),
        {"role": "tool", "tool_call_id": "abc123XYZ", "content": "rain"},
        {"role": "tool", "tool_call_id": "def456UVW", "content": "12:00"},
    ],
    "wrong order": [user("a"), user("b")],
    "odd role": [user("a"), {"role": "critic", "content": "b"}],
    "prefix": [user("Write a poem"), assistant("The sea ")],
    "stops": [user("a"), {"role": "system", "content": "skipped"}, assistant("b"), {"role": "stop", "content": ""}, user("c")],
}
TOOLS = [WEATHER, CLOCK]
DOCUMENTS = [{"title": "tall penguins", "text": "Emperors."}, {"title": "where they live", "text": "Antarctica."}]


def in_shape(messages, knows_developer):
    """What mlx-lm's server does before it renders, and developer as system."""
    messages = copy.deepcopy(messages)
    for message in messages:
        if message["role"] == "developer" and not knows_developer:
            message["role"] = "system"
        if isinstance(message["content"], list):
            message["content"] = "".join(part["text"] for part in message["content"])
        elif message["content"] is None:
            message["content"] = ""
        for tool_call in message.get("tool_calls", []):
            tool_call["function"]["arguments"] = json.loads(tool_call["function"]["arguments"])
    return messages
