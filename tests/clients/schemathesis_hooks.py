"""Most random names mean no model: here every other valid one becomes the model
that is there, so that answers are seen too, some of them as streams."""

import schemathesis


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict) and isinstance(body.get("model"), str) and len(body["model"]) % 2:
        asks = "messages" in body or "prompt" in body
        stream = {"stream": True} if asks and len(body["model"]) % 4 == 1 else {}
        return {**body, **stream, "model": "t/a"}
    return body
