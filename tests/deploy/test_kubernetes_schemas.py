import copy
from typing import Any

import kubernetes_validate
import pytest
from jsonschema import ValidationError
from manifests import KUBERNETES, KUBERNETES_VERSION, documents, kind, manifests, ray_validator

OBJECTS = [pytest.param(one, id=f"{name}-{one['kind']}-{one['metadata']['name']}") for name, one in manifests()]


def check(one: dict[str, Any]) -> None:
    if one["apiVersion"].startswith("ray.io/"):
        ray_validator(one["kind"]).validate(one)
    else:
        kubernetes_validate.validate(one, KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("one", OBJECTS)
def test_every_object_is_one_that_the_api_server_takes(one: dict[str, Any]) -> None:
    check(one)


def broken(one: dict[str, Any], *path: Any, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(one)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return changed


CLUSTER = ("spec", "rayClusterSpec")
POD = (*CLUSTER, "workerGroupSpecs", 0, "template", "spec")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "entryPoint"), "python"),
        (("spec", "backoffLimit"), "two"),
        (("spec", "submissionMode"), "Job"),
        ((*CLUSTER, "authOptions", "mode"), "password"),
        ((*CLUSTER, "workerGroupSpecs", 1, "minReplica"), 0),
        ((*CLUSTER, "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        ((*POD, "serviceAcountName"), "x"),
        ((*POD, "containers", 0, "securityContext", "runAsNonRoot"), "yes"),
        ((*POD, "containers", 0, "resources", "limit"), {}),
    ],
)
def test_a_slip_anywhere_in_a_ray_job_is_refused(path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(ValidationError):
        check(broken(kind("RayJob"), *path, value=value))


def test_a_worker_group_without_bounds_is_refused() -> None:
    changed = copy.deepcopy(kind("RayCluster"))
    del changed["spec"]["workerGroupSpecs"][0]["maxReplicas"]
    with pytest.raises(ValidationError, match="maxReplicas"):
        check(changed)


def test_a_slip_in_the_cron_job_is_refused() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        check(broken(kind("CronJob"), "spec", "concurrency", value="Forbid"))


def test_kustomize_is_given_files_that_exist_and_every_object_of_the_night() -> None:
    [kustomization] = documents(KUBERNETES / "kustomization.yaml")
    assert kustomization.keys() == {
        *("apiVersion", "kind", "namespace", "resources", "configMapGenerator", "generatorOptions")
    }
    [generated] = kustomization["configMapGenerator"]
    assert all((KUBERNETES / name).is_file() for name in (*kustomization["resources"], *generated["files"]))
    others = {"kustomization.yaml", "raycluster.yaml", "raycronjob.yaml"}  # each applied by itself
    assert {*kustomization["resources"], *generated["files"]} | others == {
        file.name for file in KUBERNETES.iterdir() if file.is_file()
    }
    assert {one["metadata"].get("namespace", "phonolake") for _, one in manifests()} == {kustomization["namespace"]}
