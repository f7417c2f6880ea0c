import re
import shlex
import tomllib
from typing import Any

import pytest
import yaml
from commands import check_line, check_phonolake, check_ray, lines_of
from manifests import DEPLOY, KUBERNETES, ROOT, kind, manifests, pods, ray_clusters

from pipelines.recipe import load_recipe

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line and "#" not in line
)
PODS = [pytest.param(pod, id=f"{name}-{number}") for name, one in manifests() for number, pod in enumerate(pods(one))]
CLUSTERS = [pytest.param(cluster, id=name) for name, cluster in ray_clusters().items()]


@pytest.mark.parametrize("pod", PODS)
def test_pods_are_restricted(pod: dict[str, Any]) -> None:
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["runAsGroup"] == 1000  # the image's user
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("pod", PODS)
def test_only_pods_that_talk_to_the_api_hold_a_token_for_it(pod: dict[str, Any]) -> None:
    talks = pod.get("serviceAccountName") in ("phonolake-head", "phonolake-nightly")
    assert pod.get("automountServiceAccountToken", True) is talks


def test_every_account_is_one_that_is_made() -> None:
    made = {one["metadata"]["name"] for _, one in manifests() if one["kind"] == "ServiceAccount"}
    used = {pod["serviceAccountName"] for _, one in manifests() for pod in pods(one) if "serviceAccountName" in pod}
    assert used == made


def test_the_nightly_account_may_create_and_get_ray_jobs_and_nothing_else() -> None:
    assert kind("Role")["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}]
    binding = kind("RoleBinding")
    assert binding["roleRef"]["name"] == kind("Role")["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == ["phonolake-nightly"]


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_ray_asks_for_the_token_of_a_secret(cluster: dict[str, Any]) -> None:
    assert cluster["authOptions"] == {"mode": "token", "secretName": "ray-auth"}


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_the_cluster_runs_the_ray_that_is_pinned(cluster: dict[str, Any]) -> None:
    assert cluster["rayVersion"] == PINS["ray"]


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_gpus_come_and_go_and_stay_while_the_driver_plans(cluster: dict[str, Any]) -> None:
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert groups.keys() == {"cpu", "gpu"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert groups["gpu"]["minReplicas"] == 0 < groups["gpu"]["maxReplicas"]
    assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] >= 1800
    [container] = groups["gpu"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"].endswith("-gpu")


def test_the_three_clusters_are_one() -> None:
    job, cron, standing = (ray_clusters()[name] for name in ("RayJob", "RayCronJob", "RayCluster"))
    assert job == cron
    assert kind("RayJob")["spec"] == kind("RayCronJob")["spec"]["jobTemplate"]
    standing["workerGroupSpecs"][1]["replicas"] = job["workerGroupSpecs"][1]["replicas"]
    assert standing["workerGroupSpecs"][0]["minReplicas"] > 0  # it idles between runs, and a run needs a node
    standing["workerGroupSpecs"][0]["minReplicas"] = job["workerGroupSpecs"][0]["minReplicas"]
    assert job == standing


def test_images_are_those_that_the_dockerfile_says_how_to_build() -> None:
    built = set(re.findall(r"^#   docker build .* -t (\S+) \.$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE))
    launcher = yaml.safe_load((DEPLOY / "aws-cluster.yaml").read_text())
    used = {container["image"] for _, one in manifests() for pod in pods(one) for container in pod["containers"]}
    used |= {launcher["docker"]["image"], launcher["available_node_types"]["gpu"]["docker"]["worker_image"]}
    assert used == built
    assert {image.rpartition(":")[2] for image in used} == {f"{PROJECT['version']}-{kind}" for kind in ("cpu", "gpu")}


@pytest.mark.parametrize("pod", PODS)
def test_what_is_mounted_is_a_volume_and_what_is_written_is_mounted(pod: dict[str, Any]) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for container in pod["containers"]:
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) == volumes.keys()
        if container["name"].startswith("ray-"):
            assert "emptyDir" in volumes[mounts["/tmp"]]
            assert "emptyDir" in volumes[mounts["/home/phonolake"]]


def test_the_job_runs_our_command_on_the_recipe_that_is_mounted() -> None:
    job = kind("RayJob")["spec"]
    assert check_line(job["entrypoint"])
    [head] = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    [recipe] = [
        one for one in job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"] if "configMap" in one
    ]
    [folder] = [mount["mountPath"] for mount in head["volumeMounts"] if mount["name"] == recipe["name"]]
    [item] = recipe["configMap"]["items"]
    assert shlex.split(job["entrypoint"])[-1] == f"{folder}/{item['path']}"
    generated = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["configMapGenerator"][0]
    assert recipe["configMap"]["name"] == generated["name"]
    assert item["key"] in generated["files"]


def test_the_recipe_of_the_night_is_one() -> None:
    recipe = load_recipe(KUBERNETES / "recipe.yaml")
    assert recipe.lake.uri == "s3://my-lake/speech"
    assert recipe.source.uri == "s3://my-bucket/calls/"


def test_the_night_ends_before_the_next_one_and_one_creator_runs_at_a_time() -> None:
    cron = kind("CronJob")["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    assert re.fullmatch(r"\d+ \d+ \* \* \*", cron["schedule"])
    minute, hour = (int(part) for part in cron["schedule"].split()[:2])
    begins = hour * 3600 + minute * 60
    assert begins + cron["startingDeadlineSeconds"] < 24 * 3600  # a late one is still of the same day
    job = kind("RayJob")["spec"]
    assert job["activeDeadlineSeconds"] + job["ttlSecondsAfterFinished"] < 24 * 3600
    assert kind("RayCronJob")["spec"]["schedule"] == cron["schedule"]
    assert kind("RayCronJob")["spec"]["timeZone"] == cron["timeZone"] == "Etc/UTC"


def test_the_creator_is_given_files_that_are_mounted() -> None:
    [pod] = pods(kind("CronJob"))
    [container] = pod["containers"]
    generated = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["configMapGenerator"][0]
    assert container["command"] == [
        "python",
        *(f"/etc/phonolake/{name}" for name in ("create_rayjob.py", "rayjob.yaml")),
    ]
    assert {"create_rayjob.py", "rayjob.yaml"} <= set(generated["files"])
    assert container["volumeMounts"] == [{"name": "nightly", "mountPath": "/etc/phonolake", "readOnly": True}]


def test_the_network_is_shut_but_for_rays_own_the_operator_and_what_a_run_needs() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for _, one in manifests() if one["kind"] == "NetworkPolicy"}
    assert policies["nothing-by-default"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ray = policies["ray"]
    labels = ray["podSelector"]["matchLabels"]
    own = {"podSelector": {"matchLabels": labels}}
    [head] = kind("RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in head["ports"]}
    open_to_others = [rule for rule in ray["ingress"] if rule["from"] != [own]]
    assert {port["port"] for rule in open_to_others for port in rule["ports"]} == {ports["dashboard"], ports["metrics"]}
    assert all("namespaceSelector" in source for rule in open_to_others for source in rule["from"])
    [outside] = [rule for rule in ray["egress"] if "ipBlock" in rule["to"][0]]
    assert "169.254.0.0/16" in outside["to"][0]["ipBlock"]["except"]
    assert {port["port"] for port in outside["ports"]} == {443, 6443}


def test_every_pod_is_under_the_network_policy() -> None:
    [ray] = [one for _, one in manifests() if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "ray"]
    wanted = ray["spec"]["podSelector"]["matchLabels"].items()

    def templates(value: Any) -> list[dict[str, Any]]:
        if isinstance(value, list):
            return [found for inner in value for found in templates(inner)]
        if not isinstance(value, dict):
            return []
        here = [value] if "containers" in value.get("spec", {}) else []
        return here + [found for inner in value.values() for found in templates(inner)]

    found = templates([one for _, one in manifests()])
    assert len(found) == len(PODS)
    assert all(wanted <= template["metadata"]["labels"].items() for template in found)


TEXTS = [file for file in sorted(DEPLOY.rglob("*")) if file.suffix in (".md", ".yaml") or file.name == "Dockerfile"]


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.name)
def test_commands_in_the_texts_parse(file: Any) -> None:
    for line in lines_of(file):
        if re.match(r"([A-Z_]+=\S+ )*(phonolake|python -m pipelines|ray) ", line):
            check_line(re.sub(r"\$\([^)]*\)", "x", line))


def test_a_wrong_command_does_not_parse() -> None:
    with pytest.raises(Exception, match="No such command 'runn'"):
        check_phonolake(["runn", "recipe.yaml"])
    with pytest.raises(Exception, match=r"No such option.*--jsn"):
        check_phonolake(["run", "recipe.yaml", "--jsn"])
    with pytest.raises(Exception, match=r"No such option.*--heads"):
        check_ray(["start", "--heads"])


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.name)
def test_no_secret_lies_in_a_file(file: Any) -> None:
    text = file.read_text()
    assert not re.search(r"(AKIA|ASIA)[A-Z0-9]{16}", text)
    assert not re.search(r"(?i)(secret_access_key|auth_token|password)[\"']?\s*[:=]\s*[A-Za-z0-9+/]{8,}", text)
    assert all(one["kind"] != "Secret" for _, one in manifests())
