"""Most random names mean no model: here every other valid one becomes the model
that is there, so that answers are seen too."""

import schemathesis


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict) and isinstance(body.get("model"), str) and len(body["model"]) % 2:
        return {**body, "model": "t/a"}
    return body
