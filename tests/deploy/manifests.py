"""The manifests of deploy/, and the schemas that they are held against: Kubernetes' own, and KubeRay's as data."""

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
KUBERNETES_VERSION = "1.36"
K8S = "https://kubernetes.io/api/_definitions.json#/$defs/"
_PLAIN = ("string", "integer", "number", "boolean")
_SHAPES = {
    "strings": {"type": "array", "items": {"type": "string"}},
    "map": {"type": "object", "additionalProperties": {"type": "string"}},
}


def documents(file: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def manifests() -> list[tuple[str, dict[str, Any]]]:
    """Every object for Kubernetes in deploy/, with its file's name."""
    found = [(file.name, one) for file in sorted(KUBERNETES.glob("*.yaml")) for one in documents(file)]
    return [(name, one) for name, one in found if "kind" in one and one["kind"] != "Kustomization"]


def kind(wanted: str) -> dict[str, Any]:
    """The one object of a kind."""
    [found] = [one for _, one in manifests() if one["kind"] == wanted]
    return found


def ray_clusters() -> dict[str, dict[str, Any]]:
    """Every RayClusterSpec, by the kind that holds it."""
    return {
        "RayCluster": kind("RayCluster")["spec"],
        "RayJob": kind("RayJob")["spec"]["rayClusterSpec"],
        "RayCronJob": kind("RayCronJob")["spec"]["jobTemplate"]["rayClusterSpec"],
    }


def pods(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod's spec in an object."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for inner in value.values():
            yield from pods(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pods(inner)


@cache
def ray_validator(kind: str) -> Draft202012Validator:
    """What checks an object of KubeRay, pod templates included; it refuses fields that it does not know."""
    table = yaml.safe_load((ROOT / "tests/data/kuberay/ray.io_v1.yaml").read_text())
    definitions = {
        name: {
            "type": "object",
            "additionalProperties": False,
            "properties": {field: _schema(told) for field, told in fields.items()},
            "required": table["required"].get(name, []),
        }
        for name, fields in table["types"].items()
    }
    schema = {
        "$id": "https://ray.io/v1",
        "$defs": definitions,
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": "ray.io/v1"},
            "kind": {"const": kind},
            "metadata": {"$ref": f"{K8S}io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"},
            **{name: _schema(told) for name, told in table["kinds"][kind].items()},
        },
    }
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES_VERSION}.0-local-strict"
    known = Resource.from_contents(json.loads((folder / "_definitions.json").read_text()))
    return Draft202012Validator(schema, registry=known @ Registry())


def _schema(told: Any) -> dict[str, Any]:
    """What JSON Schema says for a field's kind in the table."""
    if isinstance(told, list):
        return {"type": "array", "items": _schema(told[0])}
    if isinstance(told, dict):
        return {"enum": told["enum"]} if "enum" in told else {"type": "integer", "minimum": told["least"]}
    if told in _PLAIN:
        return {"type": told}
    if told.startswith("k8s:"):
        return {"$ref": f"{K8S}io.k8s.api.{told.removeprefix('k8s:')}"}
    return _SHAPES.get(told) or {"$ref": f"#/$defs/{told}"}
