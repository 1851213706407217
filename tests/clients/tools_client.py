"""Calls of tools and reasoning, seen by the official OpenAI client.

usage: tools_client.py BASE_URL MODEL THINKER

MODEL is any chat model; calls of it are forced. THINKER's chat template shows how it
reasons and calls; what it says is forced, so that the parts of an answer are known. Ends
with exit code 0 only if all is as the client's own types say, whole and streamed.
"""

import json
import sys

import openai

base, model, thinker = sys.argv[1:4]
client = openai.OpenAI(base_url=f"{base}/v1", api_key="not-needed", max_retries=0, timeout=120)
QUESTION = [{"role": "user", "content": "What is the weather in Rome?"}]


def expect(condition, what):
    if not condition:
        raise SystemExit(f"failed: {what}")


def tool(name, **properties):
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("get_weather", place={"enum": ["Rome", "Oslo"]}, days={"enum": [1, 2]}), tool("get_time")]


def ask(name, messages=QUESTION, **more):
    """The reasoning, the content, the calls and the end of an answer, which is the same whole
    and streamed."""
    wanted = {"model": name, "messages": messages, "tools": TOOLS, "max_tokens": 120, "temperature": 0}
    whole = client.chat.completions.create(**wanted, **more).choices[0]
    calls = whole.message.tool_calls or []
    expect(all(call.type == "function" and call.id for call in calls), "calls have a type and an id")
    expect(len({call.id for call in calls}) == len(calls), "each has its own id")
    told = (
        getattr(whole.message, "reasoning_content", None) or "",
        whole.message.content or "",
        [(call.function.name, call.function.arguments) for call in calls],
        whole.finish_reason,
    )
    reasoning, content, calls, end = "", "", [], None
    for chunk in client.chat.completions.create(**wanted, **more, stream=True):
        choice = chunk.choices[0]
        expect(end is None, "nothing follows the end")
        end = choice.finish_reason
        reasoning += getattr(choice.delta, "reasoning_content", None) or ""
        content += choice.delta.content or ""
        for piece in choice.delta.tool_calls or []:
            if piece.index == len(calls):
                expect(piece.id and piece.type == "function", "the first piece of a call has its head")
                calls.append([piece.function.name, []])
            else:
                expect(piece.index == len(calls) - 1, "calls come one after another")
                expect(piece.id is None and piece.function.name is None, "the head comes once")
            calls[-1][1].append(piece.function.arguments)
    expect(all(len(pieces) > 2 or pieces == ["", "{}"] for _, pieces in calls), f"arguments come in pieces: {calls}")
    streamed = (reasoning, content, [(name, "".join(pieces)) for name, pieces in calls], end)
    expect(streamed == told, f"streamed {streamed}, whole {told}")
    return told


# Forced, of a model that knows no tools.
def check_forced(told, count, names=("get_weather", "get_time")):
    reasoning, content, calls, end = told
    expect((reasoning, content, end) == ("", "", "tool_calls"), f"a call alone: {told}")
    expect(len(calls) >= 1 and len(calls) <= count, f"at most {count} calls: {told}")
    for name, arguments in calls:
        expect(name in names, f"one of the tools: {told}")
        arguments = json.loads(arguments)
        if name == "get_weather":
            expect(arguments["place"] in ("Rome", "Oslo") and arguments["days"] in (1, 2), f"as its schema says: {told}")
            expect(len(arguments) == 2, f"nothing else: {told}")
        else:
            expect(arguments == {}, f"without arguments: {told}")
    return calls


check_forced(ask(model, tool_choice="required", parallel_tool_calls=False), 1)
for name in ("get_weather", "get_time"):
    named = {"type": "function", "function": {"name": name}}
    calls = check_forced(ask(model, tool_choice=named), 1, (name,))

# What was called and what came of it goes back to the model.
answer = client.chat.completions.create(
    model=model, messages=QUESTION, tools=TOOLS, tool_choice=named, max_tokens=120
)
message = answer.choices[0].message
expect(message.content is None, "a call without text has no content")
result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "It is noon."}
reasoning, content, calls, end = ask(model, [*QUESTION, message, result], tool_choice="none")
expect(content and not calls, "an answer to what the tool said")

# Said by a model whose template shows the form.
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"place": "Oslo", "days": 2}}\n</tool_call>'
CALLED = [("get_weather", '{"place": "Oslo", "days": 2}')]


def said(text, **more):
    return ask(thinker, extra_body={"guided_choice": [text], **more.pop("extra", {})}, **more)


text = f"<think>\nNorth or south?\n</think>\n\nNorth.\n{CALL}\n{CALL}"
expect(said(text) == ("North or south?", "North.", CALLED * 2, "tool_calls"), "all parts of an answer")
one = said(text, parallel_tool_calls=False)
expect(one == ("North or south?", "North.", CALLED, "tool_calls"), "one call alone")
expect(said("Neither.") == ("", "Neither.", [], "stop"), "content alone")
kept = ask(thinker, tool_choice="none", extra_body={"guided_choice": [CALL]})
expect(kept == ("", CALL, [], "stop"), "without tools a call is text")

# Thinking is switched by the request, in two words for one thing.
def prompt(**extra):
    answer = client.chat.completions.create(
        model=thinker, messages=QUESTION, max_tokens=1, extra_body=extra
    )
    return answer.usage.prompt_tokens


expect(prompt(enable_thinking=False) > prompt(), "the prompt says that there is no thinking")
kwargs = {"chat_template_kwargs": {"enable_thinking": False}}
expect(prompt(**kwargs) == prompt(enable_thinking=False), "both words mean the same")
expect(prompt(enable_thinking=True) == prompt(), "thinking is on where nothing is said")

# What cannot be done is refused.
for more in ({"tool_choice": {"type": "function", "function": {"name": "get_news"}}}, {"tool_choice": "any"}):
    try:
        ask(model, **more)
    except openai.BadRequestError as error:
        expect(error.param == "tool_choice", f"the field is named: {error}")
    else:
        raise SystemExit(f"failed: {more} was accepted")
print("ok")
