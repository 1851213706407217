"""The load: requests over the OpenAI API, and what is measured of them.

Standard library only. All times are seconds of the monotonic clock, taken where
a line of the stream has been read.
"""

import http.client
import json
import random
import threading
import time
from dataclasses import dataclass

# Common words that the demo models' tokenizer makes one token of when a space
# stands before them, so that a prompt's length is known in tokens.
WORDS = (
    "time year people way day man thing woman life child world school state family "
    "student group country problem hand part place case week company system program "
    "question work government number night point home water room mother area money "
    "story fact month lot right study book eye job word business issue side kind head "
    "house service friend father power hour game line end member law car city"
).split()
TIMEOUT = 1800


class Refused(Exception):
    """An engine answered with something else than what was asked for."""


@dataclass(frozen=True)
class Cost:
    """What something took: seconds of the clock, and of the processor."""

    wall: float
    processor: float

    def rate(self, count):
        """`count` things a second, by either clock."""
        return Cost(count / self.wall, count / max(self.processor, 0.001))


@dataclass(frozen=True)
class Answer:
    """One streamed answer: what it took until its first text, from there to its
    last text, the counts that the engine reports, and how long our pool says that
    the request waited for its lease."""

    first: Cost
    rest: Cost
    prompt_tokens: int
    cached_tokens: int
    tokens: int
    wait_ms: float


class Client:
    """Sends requests to one engine. `processor_seconds` tells what that engine has
    used so far."""

    def __init__(self, port, model, processor_seconds):
        self.port, self.model = port, model
        self.processor_seconds = processor_seconds

    def now(self):
        return time.monotonic(), self.processor_seconds()

    def ask(self, path, body):
        """Sends a request for a stream and reads the answer to its end."""
        options = {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0}
        content = json.dumps({**body, "model": self.model, **options})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        sent = self.now()
        connection.request("POST", path, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise Refused(f"{path}: {response.status} {response.read(500)!r}")
        first = last = usage = None
        is_done = False
        for line in response:
            if line.startswith(b"data: [DONE]"):
                is_done = True
                break
            if line.startswith(b"data: "):
                chunk = json.loads(line[6:])
                usage = chunk.get("usage") or usage
                if any(text_of(choice) for choice in chunk.get("choices") or []):
                    last = time.monotonic()
                    first = first or self.now()
        ended = self.processor_seconds()
        connection.close()
        if not (is_done and usage and first):
            raise Refused(f"{path}: the stream ended early, or held no text or no usage")
        return Answer(
            Cost(first[0] - sent[0], first[1] - sent[1]),
            Cost(last - first[0], ended - first[1]),
            usage["prompt_tokens"],
            (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
            usage["completion_tokens"],
            float(response.headers.get("x-roundhouse-wait-ms", 0)),
        )

    def complete(self, prompt, tokens):
        """A legacy completion: the prompt as it is, without a chat template."""
        return self.ask("/v1/completions", {"prompt": prompt, "max_tokens": tokens})

    def prompt(self, words, seed):
        """The first tokens after so many words, see `text_of_words`."""
        return self.complete(text_of_words(words, seed), 2)

    def chat(self, words, seed, turns=()):
        """A chat whose first message is `text_of_words`. `turns` are what was said
        after it."""
        messages = [
            {"role": "system", "content": text_of_words(words, seed)},
            {"role": "user", "content": "Go on."},
            *turns,
        ]
        return self.ask("/v1/chat/completions", {"messages": messages, "max_tokens": 2})

    def second_turn(self, words, seed):
        """The turn that follows such a chat."""
        said = {"role": "assistant", "content": "One moment."}
        return self.chat(words, seed, [said, {"role": "user", "content": "Well?"}])

    def decode(self, tokens):
        """Tokens a second of one stream, from its first to its last token."""
        answer = self.complete("Count on: 1, 2, 3, 4, 5, 6, 7, 8, 9,", tokens)
        if answer.tokens < tokens:
            raise Refused(f"{answer.tokens} tokens instead of {tokens}")
        return answer.rest.rate(answer.tokens - 1)

    def concurrent(self, streams, tokens):
        """Tokens a second of several simultaneous streams in all, from the first
        request sent to the last token received, prefill included."""
        results = [None] * streams
        gate = threading.Barrier(streams + 1)

        def one(index):
            # The first word differs, so that no stream continues another's prompt, nor
            # one of half or twice as many streams.
            prompt = f"{WORDS[streams + index].title()} number one, two, three, four, five,"
            gate.wait()
            try:
                results[index] = self.complete(prompt, tokens)
            except (Refused, OSError, ValueError) as problem:
                results[index] = problem

        threads = [threading.Thread(target=one, args=(index,)) for index in range(streams)]
        for thread in threads:
            thread.start()
        began = self.now()
        gate.wait()
        for thread in threads:
            thread.join()
        ended = self.now()
        for result in results:
            if not isinstance(result, Answer):
                raise Refused(f"one of {streams} streams failed: {result}")
        total = sum(result.tokens for result in results)
        return Cost(ended[0] - began[0], ended[1] - began[1]).rate(total)


def text_of_words(words, seed):
    """So many words of a token each, others for each seed from the beginning, so that
    nothing kept from another prompt helps."""
    return " " + " ".join(random.Random(seed).choices(WORDS, k=words))


def text_of(choice):
    """The text that a chunk adds, of a chat or of a legacy completion."""
    return choice.get("text") or (choice.get("delta") or {}).get("content")
