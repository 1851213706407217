"""The official OpenAI client against a running server.

usage: openai_client.py BASE_URL MODEL

Lists, retrieves, chats, streams with usage, gets its 404 and 400 as typed
errors, completes in the legacy form, and leaves a stream in the middle. Ends
with exit code 0 only if everything was as the client's own types say.
"""

import sys

import openai

base, model = sys.argv[1], sys.argv[2]
client = openai.OpenAI(base_url=f"{base}/v1", api_key="not-needed", max_retries=0, timeout=60)


def expect(condition, what):
    if not condition:
        raise SystemExit(f"failed: {what}")


# Lists and retrieves, with the slash of the id escaped by the client itself.
listed = client.models.list()
expect(model in [entry.id for entry in listed.data], f"{model} is listed")
one = client.models.retrieve(model)
expect((one.id, one.object) == (model, "model"), "a model is retrieved")
expect(one.created > 0 and one.owned_by, "a model has a maker and a time")

# Chats.
messages = [{"role": "user", "content": "Say something."}]
answer = client.chat.completions.create(model=model, messages=messages, max_tokens=8, temperature=0)
expect(answer.object == "chat.completion" and answer.id and answer.created, "an answer's head")
expect(answer.model == model, "the served name is echoed")
choice = answer.choices[0]
expect(choice.index == 0 and choice.message.role == "assistant", "a choice")
expect(choice.message.content and choice.finish_reason in ("stop", "length"), "content and an end")
expect(choice.message.refusal is None and choice.logprobs is None, "no refusal, no logprobs")
usage = answer.usage
expect(usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 8, "usage")
expect(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, "usage adds up")

# Streams, with usage only when asked.
for include in (True, False):
    options = {"stream_options": {"include_usage": True}} if include else {}
    chunks = list(
        client.chat.completions.create(
            model=model, messages=messages, max_tokens=8, temperature=0, stream=True, **options
        )
    )
    expect(len({chunk.id for chunk in chunks}) == 1, "one id for all chunks")
    expect(all(chunk.object == "chat.completion.chunk" for chunk in chunks), "chunks")
    expect(all(chunk.created and chunk.model == model for chunk in chunks), "heads of chunks")
    expect(chunks[0].choices[0].delta.role == "assistant", "the role comes first")
    with_usage = [chunk for chunk in chunks if chunk.usage]
    expect(len(with_usage) == int(include), "usage when asked, and only then")
    if include:
        expect(chunks[-1].choices == [], "usage comes last, without choices")
        expect(chunks[-1].usage.completion_tokens == usage.completion_tokens, "the same usage")
    said = [chunk for chunk in chunks if chunk.choices]
    ends = [chunk.choices[0].finish_reason for chunk in said]
    expect(ends[-1] in ("stop", "length") and not any(ends[:-1]), "one end, at the end")
    expect("".join(chunk.choices[0].delta.content or "" for chunk in said), "text")

# The helper that checks every delta against its own accumulator.
with client.chat.completions.stream(model=model, messages=messages, max_tokens=8) as stream:
    kinds = {event.type for event in stream}
    said = stream.current_completion_snapshot.choices[0].message.content
    expect("content.delta" in kinds and said, "the streaming helper")

# The legacy form.
legacy = client.completions.create(model=model, prompt="Once upon", max_tokens=8)
expect(legacy.object == "text_completion" and legacy.choices[0].text, "a legacy completion")
expect(legacy.usage.total_tokens > 0, "usage of a legacy completion")
pieces = list(client.completions.create(model=model, prompt="Once upon", max_tokens=8, stream=True))
expect("".join(piece.choices[0].text for piece in pieces if piece.choices), "a legacy stream")


# Refusals are the client's own types, with their fields.
def refused(kind, code, param, **request):
    try:
        client.chat.completions.create(**{"model": model, "messages": messages, **request})
    except kind as error:
        expect(error.code == code and error.param == param and error.type, f"{error.body}")
        expect(error.request_id, "a request id")
        return
    raise SystemExit(f"failed: {request} was not refused with {kind.__name__}")


refused(openai.NotFoundError, "model_not_found", "model", model="no/such-model")
refused(openai.BadRequestError, "invalid_model_id", "model", model="../../etc/passwd")
refused(openai.BadRequestError, "invalid_value", "temperature", temperature=-1)
refused(openai.BadRequestError, "invalid_value", "messages", messages=[])

# Leaves in the middle.
extra = {"nonce": "left-by-openai", "scripted": {"tokens": 100000, "token_ms": 500}}
stream = client.chat.completions.create(
    model=model, messages=messages, max_tokens=100000, stream=True, extra_body=extra
)
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        break
stream.close()
print("ok")
