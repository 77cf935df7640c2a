"""Fields that files may write in groups: ``draft: {target_tokens: 4}`` for the field ``draft_target``.

Fields themselves stay flat. What identifies a configuration is made of them, and must not depend on how a file spells
it: both spellings are read, and give the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

Loc = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A mapping in a file that sets some fields.

    Args:
        description: for people who write files.
        keys: keys of the mapping, and the field that each is.
        turns_on: a field that is true wherever the mapping is given.
    """

    description: str
    keys: Mapping[str, str]
    turns_on: str | None = None


class GroupedFields(BaseModel):
    """A model whose files may write fields in ``groups``.

    A group may have the name of a field: a mapping is the group, anything else the field.
    """

    groups: ClassVar[Mapping[str, Group]] = {}

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, value: Any) -> Any:
        return _tuples(cls.flat(value)) if isinstance(value, Mapping) else value

    @classmethod
    def flat(cls, value: Mapping[str, Any]) -> dict[str, Any]:
        """``value`` with every group replaced by its fields.

        A key that its group does not know becomes ``group.key``, which is no field.

        Raises:
            ValueError: a field is given twice, or a group is no mapping.
        """
        fields = dict(value)
        for name, group in cls.groups.items():
            if name not in value or (name in cls.model_fields and not isinstance(value[name], Mapping)):
                continue
            if not isinstance(value[name], Mapping):
                raise ValueError(f"{name} must be a mapping with some of {', '.join(group.keys)}")
            del fields[name]
            inside = {group.keys.get(key, f"{name}.{key}"): each for key, each in value[name].items()}
            if group.turns_on is not None:
                inside = {group.turns_on: True, **inside}
            for field in inside.keys() & fields.keys():
                raise ValueError(f"{field} is given twice, in the group {name} and outside of it; keep one")
            fields |= inside
        return fields

    @classmethod
    def as_written(cls, loc: Loc, value: Any) -> Loc:
        """The key path in ``value`` of the field at ``loc``, which ``value`` may write in a group."""
        if not loc or not isinstance(value, Mapping):
            return loc
        for name, group in cls.groups.items():
            inside = value.get(name)
            for key in inside if isinstance(inside, Mapping) else ():
                if loc[0] == group.keys.get(key, f"{name}.{key}"):
                    return (name, key, *loc[1:])
        return loc

    @classmethod
    def keys_at(cls, loc: Sequence[int | str]) -> tuple[str, ...] | None:
        """The keys that are known at ``loc``, the top or a group; ``None`` elsewhere."""
        if not loc:
            return tuple(dict.fromkeys((*cls.model_fields, *cls.groups)))
        return tuple(cls.groups[str(loc[0])].keys) if len(loc) == 1 and loc[0] in cls.groups else None

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The schema with its groups; fields that have a place in one are deprecated outside of it."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        properties: dict[str, Any] = schema.get("properties", {})
        fields = {name: dict(field) for name, field in properties.items()}
        for group in cls.groups.values():
            for field in group.keys.values():
                if field not in cls.groups:
                    properties[field] = {**fields[field], "deprecated": True}
        for name, group in cls.groups.items():
            mapping = {
                "type": "object",
                "description": group.description,
                "properties": {key: fields[field] for key, field in group.keys.items()},
                "additionalProperties": False,
            }
            properties[name] = {"anyOf": [mapping, fields[name]]} if name in fields else mapping
        return schema


def _tuples(value: Any) -> Any:
    """Lists as tuples: after a validator has run, strict validation takes only a tuple for a tuple."""
    if isinstance(value, Mapping):
        return {key: _tuples(each) for key, each in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
