"""The official OpenAI client against a running server.

usage: openai_client.py BASE_URL MODEL EMBEDDER

Lists, retrieves, chats, streams with usage, gets its 404 and 400 as typed
errors, completes in the legacy form, asks for vectors in both forms, and leaves a stream in
the middle. Ends
with exit code 0 only if everything was as the client's own types say.
"""

import sys

import openai

base, model, embedder = sys.argv[1:4]
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

# Vectors: the client asks for base64 unless told otherwise, and decodes it.
texts = ["A man is eating food.", "Someone eats a meal.", "Rust compiles slowly."]
decoded = client.embeddings.create(model=embedder, input=texts)
plain = client.embeddings.create(model=embedder, input=texts, encoding_format="float")
expect(decoded.object == "list" and decoded.model == embedder, "the head of vectors")
expect([entry.index for entry in decoded.data] == [0, 1, 2], "vectors in order")
for one, other in zip(decoded.data, plain.data):
    expect(one.object == "embedding" and len(one.embedding) == len(other.embedding), "a vector")
    away = max(abs(a - b) for a, b in zip(one.embedding, other.embedding))
    expect(away < 1e-6, f"both forms are the same, not {away} apart")
expect(decoded.usage.prompt_tokens == decoded.usage.total_tokens > 0, "usage of vectors")
single = client.embeddings.create(model=embedder, input=texts[1], dimensions=8)
expect(len(single.data) == 1 and len(single.data[0].embedding) == 8, "a shorter vector")


def not_embedded(param, words, **request):
    try:
        client.embeddings.create(**{"model": embedder, "input": "a", **request})
    except openai.BadRequestError as error:
        expect(error.param == param and words in str(error), f"{error.body}")
        return
    raise SystemExit(f"failed: {request} was not refused")


not_embedded("model", "of the kind chat", model=model)
not_embedded("input", "check_embedding_ctx_length", input=[[9906, 1917]])
not_embedded("dimensions", "at most", dimensions=100000)
refused(openai.BadRequestError, "invalid_value", "model", model=embedder)

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
