"""JSON Schema of suite files, for editors and for people who generate suites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from rfbench.attack import attack_names, find_attack
from rfbench.measures import MEASURES, find_measure
from rfbench.run.suite.load import SuiteFile


def json_schema() -> dict[str, Any]:
    """JSON Schema of suite files, with the fields of every attack in the attacks folder and of every measure."""
    schema = SuiteFile.model_json_schema()
    elsewhere = {"type": "string", "pattern": ":", "description": "an attack from elsewhere: package.module:Class"}
    label = {"type": "string", "minLength": 1, "description": "the suite's own name for this configuration"}
    datasets = {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "description": "labels of the datasets of this suite that the attack runs on; default: all of them",
    }
    limit = {
        "type": "integer",
        "minimum": 1,
        "description": "behaviors of each dataset that the attack runs on, for attacks that take long; default: all",
    }
    beside = {"label": label, "datasets": datasets, "limit": limit}
    variants: list[dict[str, Any]] = [
        {"enum": list(attack_names())},
        elsewhere,
        {"type": "object", "properties": {"name": elsewhere, **beside}, "required": ["name"]},
    ]
    variants += [_variant(name, find_attack(name), schema["$defs"], beside) for name in attack_names()]
    schema["properties"]["attacks"]["items"] = {"anyOf": variants}
    measures = [_variant(name, find_measure(name), schema["$defs"]) for name in MEASURES]
    schema["properties"]["measures"]["items"] = {"anyOf": [{"enum": list(MEASURES)}, *measures]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _variant(
    name: str, cls: type[BaseModel], definitions: dict[str, Any], beside: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Schema of the mapping that configures ``cls`` in a list: its name, the keys ``beside`` its fields, its fields."""
    schema = cls.model_json_schema()
    definitions.update(schema.pop("$defs", {}))
    schema["properties"] = {"name": {"const": name}, **(beside or {}), **schema.get("properties", {})}
    schema["required"] = ["name", *schema.get("required", [])]
    return schema
