"""Asks for models that stay, streamed and not, until a file appears; every answer has
to be whole and the model's own."""

import itertools
import json
import pathlib
import sys

import openai

base, stop, *models = sys.argv[1:]
client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
messages = [{"role": "user", "content": "hello"}]
asked = 0
for model in itertools.cycle(models):
    if pathlib.Path(stop).exists():
        break
    asked += 1
    nonce = f"openai-{asked}"
    answer = client.chat.completions.create(
        model=model, messages=messages, stream=asked % 2 == 0, extra_body={"nonce": nonce}
    )
    if asked % 2 == 0:
        chunks = [chunk.choices[0] for chunk in answer if chunk.choices]
        text = "".join(chunk.delta.content or "" for chunk in chunks)
        finish = chunks[-1].finish_reason
    else:
        text, finish = answer.choices[0].message.content, answer.choices[0].finish_reason
    told, _ = json.JSONDecoder().raw_decode(text)
    assert (told["model"], told["nonce"]) == (model, nonce), text
    assert finish is not None, text
assert asked > 10, asked
print("ok")
