"""Holds YAML files against a JSON Schema: one line for each, `passes` or why not.

Scalars are read as YAML 1.2's core schema does, as the language servers of
editors read them: `yes` and `on` are text.
"""

import json
import re
import sys

import jsonschema_rs
import yaml


class Core(yaml.SafeLoader):
    pass


Core.yaml_implicit_resolvers = {}
for tag, pattern, first in [
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
]:
    Core.add_implicit_resolver(
        f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first)
    )


def integer(loader, node):
    return int(loader.construct_scalar(node))


Core.add_constructor("tag:yaml.org,2002:int", integer)

with open(sys.argv[1], encoding="utf-8") as file:
    validator = jsonschema_rs.Draft7Validator(json.load(file))

for name in sys.argv[2:]:
    with open(name, encoding="utf-8") as file:
        try:
            value = yaml.load(file, Core)
        except yaml.YAMLError as error:
            print("no YAML:", str(error).replace("\n", " "))
            continue
    errors = [error.message for error in validator.iter_errors(value)]
    print(" | ".join(errors).replace("\n", " ") if errors else "passes")
