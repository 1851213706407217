"""Answers within schemas, from a model behind a running server.

usage: constrained.py BASE_URL MODEL COUNT [--schemas FOLDER] [--overhead ROUNDS SERVER_PID]

Asks the model for a document of each of COUNT JSON Schemas, drawn at temperature 1, four at a time
and half of them streamed, and holds every answer to its schema with `jsonschema_rs`, which is no
part of what is tested. The schemas are made from a fixed seed; all their documents are short, so
that most of them end before their tokens run out. With --schemas they are drawn, from a fixed seed,
from the *.json files below a folder, such as `data` of JSONSchemaBench
(https://github.com/guidance-ai/jsonschemabench), which are people's own: what is refused, and what
had not ended when its tokens had, is counted apart. With --overhead (Linux) it asks for long
texts with and without a grammar, in turn, and says what a token cost the thread that
evaluates and the one beside it, in time of a processor, which a busy machine disturbs little. Ends
with exit code 0 only if every answer that came to its end was valid.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import random
import statistics
import sys
import urllib.error
import urllib.request

import jsonschema_rs

arguments = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n")[0])
arguments.add_argument("base")
arguments.add_argument("model")
arguments.add_argument("count", type=int)
arguments.add_argument("--schemas", type=pathlib.Path)
arguments.add_argument("--overhead", nargs=2, type=int, default=(0, None))
arguments = arguments.parse_args()
base, model, count = arguments.base, arguments.model, arguments.count
rounds, server = arguments.overhead
WORDS = "name size colour price city tags date owner rank note state count".split()


def ask(body):
    """(text, finish reason, tokens made)"""
    body = {"model": model, **body}
    request = urllib.request.Request(
        f"{base}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        said = response.read().decode()
    if not body.get("stream"):
        answer = json.loads(said)
        choice = answer["choices"][0]
        text, finish = choice["message"]["content"], choice["finish_reason"]
        return text, finish, answer["usage"]["completion_tokens"]
    text, finish = "", None
    for event in said.split("\n\n"):
        # Comments say what goes on while there is nothing to say.
        lines = event.split("\n")
        data = "".join(line[6:] for line in lines if line.startswith("data: "))
        if not data or data == "[DONE]":
            continue
        choice = json.loads(data)["choices"][0]
        text += choice["delta"].get("content") or ""
        finish = choice["finish_reason"] or finish
    return text, finish, None


def scalar(dice):
    low = dice.randint(-20, 20)
    return dice.choice(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": "integer", "minimum": low, "maximum": low + dice.randint(0, 300)},
            {"type": "number", "multipleOf": 0.25, "exclusiveMinimum": low, "maximum": low + 5},
            {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
            {"type": "string", "minLength": dice.randint(0, 3), "maxLength": 12},
            {"type": "string", "pattern": dice.choice(["^[A-Z]{2}-[0-9]{3}$", "^(red|green)ish?$"])},
            {"type": "string", "format": dice.choice(["date", "uuid", "ipv4"])},
            {"enum": dice.sample(WORDS, 3)},
            {"const": dice.choice([7, "é", None, ["a", 1]])},
            {"type": ["string", "null"], "maxLength": 8},
        ]
    )


def schema(dice, depth):
    """A schema whose documents are short."""
    kind = dice.choice(["object", "object", "array", "any", "ref"]) if depth else "scalar"
    if kind == "object":
        names = dice.sample(WORDS, dice.randint(1, 3))
        made = {
            "type": "object",
            "properties": {name: schema(dice, depth - 1) for name in names},
            "required": dice.sample(names, dice.randint(0, len(names))),
            "additionalProperties": False,
        }
        return made
    if kind == "array":
        least = dice.randint(0, 2)
        made = {"type": "array", "items": schema(dice, depth - 1), "minItems": least}
        made["maxItems"] = least + dice.randint(0, 2)
        if dice.random() < 0.3:
            made["prefixItems"] = [scalar(dice)]
        return made
    if kind == "any":
        return {"anyOf": [schema(dice, depth - 1), scalar(dice)]}
    if kind == "ref":
        return {"allOf": [{"$ref": "#/$defs/shared"}]}
    return scalar(dice)


def made(number):
    """A schema of our own, and what to ask for."""
    dice = random.Random(number)
    whole = schema(dice, dice.randint(1, 3))
    return {**whole, "$defs": {"shared": scalar(dice)}}, "Describe something as JSON."


def found():
    """People's schemas, and what to ask for."""
    paths = sorted(arguments.schemas.rglob("*.json"))
    for path in random.Random(0).sample(paths, count):
        told = path.read_text(encoding="utf-8")
        asked = f"Write a short JSON document of this schema: {told}"
        yield json.loads(told), asked if len(asked) < 4000 else "Write a short JSON document."


def check(number, whole, asked):
    """What became of a schema, in a word, and more of it."""
    described = {"name": "document", "schema": whole, "strict": True}
    try:
        validator = jsonschema_rs.validator_for(whole, validate_formats=True)
    except ValueError as error:
        return "no schema", str(error)
    try:
        text, finish, _ = ask(
            {
                "messages": [{"role": "user", "content": asked}],
                "response_format": {"type": "json_schema", "json_schema": described},
                "temperature": 1,
                "seed": number,
                "max_tokens": 1000,
                "stream": number % 2 == 0,
            }
        )
    except urllib.error.HTTPError as error:
        return "refused", json.loads(error.read())["error"]["message"]
    try:
        document = json.loads(text)
    except ValueError as error:
        # Its required parts take more tokens than there were, or no way to their end was found.
        word = "unfinished" if finish == "length" else "wrong"
        return word, f"{finish}: {text[-200:]!r} of {json.dumps(whole)[:300]}: {error}"
    try:
        validator.validate(document)
    except ValueError as error:
        return "wrong", f"{finish}: {text!r} of {json.dumps(whole)}: {error}"
    # Brought to its end before its tokens were.
    shortened = " (shortened)" if finish == "length" else ""
    return f"valid{shortened}", ""


schemas = found() if arguments.schemas else map(made, range(count))
with concurrent.futures.ThreadPoolExecutor(4) as threads:
    became = [threads.submit(check, number, *one) for number, one in enumerate(schemas)]
    became = [one.result() for one in became]
counts = collections.Counter(word for word, _ in became)
told = [(number, word, more) for number, (word, more) in enumerate(became) if more]
for number, word, more in told[: None if arguments.schemas else 5]:
    print(f"{number}: {word}: {more[:2000]}", file=sys.stderr)
print(f"{counts.pop('valid', 0)} of {count} answers valid")
if counts:
    print(", ".join(f"{number} {word}" for word, number in counts.items()))
# What the schemas are is ours to say only where we made them.
is_well = not counts if not arguments.schemas else not counts["wrong"]


def thread_seconds(server):
    """Seconds of CPU that the engine's threads of a server's workers have had, by name."""
    workers = []
    for task in os.listdir(f"/proc/{server}/task"):
        with open(f"/proc/{server}/task/{task}/children", encoding="ascii") as children:
            workers += children.read().split()
    found = dict.fromkeys(("engine", "masks"), 0.0)
    for worker in workers:
        for task in os.listdir(f"/proc/{worker}/task"):
            with open(f"/proc/{worker}/task/{task}/stat", encoding="utf-8") as stat:
                name, _, rest = stat.read().partition("(")[2].rpartition(")")
            if name in found:
                user, system = rest.split()[11:13]
                found[name] += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return found


def cost(constraint):
    """Milliseconds of CPU for a token, by thread."""
    asked = {
        "messages": [{"role": "user", "content": "Tell a long story."}],
        "temperature": 0,
        "max_tokens": 256,
        **constraint,
    }
    before = thread_seconds(server)
    made = ask(asked)[2]
    after = thread_seconds(server)
    if made < 64:
        raise SystemExit(f"failed: {made} tokens for {constraint}")
    return {name: 1000 * (after[name] - before[name]) / made for name in after}


if rounds:
    # As long as one likes, so that they make many tokens.
    story = {"type": "object", "required": ["story"], "additionalProperties": False}
    story["properties"] = {"story": {"type": "string", "minLength": 100000}}
    ends = {"shared": {"type": "null"}}
    page = {"type": "array", "minItems": 200, "items": schema(random.Random(1), 3)}
    ways = {
        "no grammar": {"ignore_eos": True},
        "a schema with a long text": {"guided_json": story},
        "a schema with many members": {"guided_json": {**page, "$defs": ends}},
        "one that is brought to its end": {"guided_json": {**page, "minItems": 4, "$defs": ends}},
        "a regular expression": {"guided_regex": "[A-Z][a-z ,.']{2000,}"},
    }
    costs = {name: [] for name in ways}
    for _ in range(rounds):
        for name, constraint in ways.items():
            costs[name].append(cost(constraint))
    median = {
        name: {
            thread: statistics.median(one[thread] for one in found) for thread in found[0]
        }
        for name, found in costs.items()
    }
    free = median["no grammar"]["engine"]
    for name, found in median.items():
        share = 100 * (found["engine"] - free) / free
        print(
            f"{name}: engine {found['engine']:.2f} ms a token ({share:+.1f} %), "
            f"beside it {found['masks']:.2f} ms ({100 * found['masks'] / free:.1f} %)"
        )
sys.exit(0 if is_well else 1)
