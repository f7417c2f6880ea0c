import json
import re
import shlex
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import ray.autoscaler
import yaml
from botocore.validate import ParamValidator
from commands import check_ray
from manifests import DEPLOY

CLUSTER = yaml.safe_load((DEPLOY / "aws-cluster.yaml").read_text())
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
NODES = CLUSTER["available_node_types"]


def test_the_cluster_is_one_by_rays_own_schema() -> None:
    jsonschema.validate(CLUSTER, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**CLUSTER, "idle_timeout": 30}, SCHEMA)


def requested(config: dict[str, Any]) -> str:
    """What AWS's own model of RunInstances has against a node's configuration."""
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    report = ParamValidator().validate({**config, "MinCount": 1, "MaxCount": 1}, shape)
    return str(report.generate_report())


@pytest.mark.parametrize("node", NODES)
def test_every_node_is_one_that_ec2_knows(node: str) -> None:
    assert requested(NODES[node]["node_config"]) == ""
    assert "Unknown parameter" in requested({**NODES[node]["node_config"], "IamProfile": {}})


@pytest.mark.parametrize("node", NODES)
def test_disks_are_encrypted_and_credentials_are_the_roles(node: str) -> None:
    config = NODES[node]["node_config"]
    assert config["IamInstanceProfile"]["Arn"].endswith(
        "instance-profile/phonolake-head" if node == CLUSTER["head_node_type"] else "instance-profile/phonolake-writer"
    )
    assert config["MetadataOptions"]["HttpTokens"] == "required"
    assert all(disk["Ebs"]["Encrypted"] for disk in config["BlockDeviceMappings"])


def test_only_ssh_is_open_and_not_to_the_world() -> None:
    [rule] = CLUSTER["provider"]["security_group"]["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"]) == (22, 22)
    assert [one["CidrIp"] for one in rule["IpRanges"]] == ["10.0.0.0/8"]


def test_the_token_comes_from_a_file_that_rays_own_command_makes() -> None:
    assert "--env RAY_AUTH_MODE=token" in CLUSTER["docker"]["run_options"]
    assert CLUSTER["file_mounts"] == {"/home/phonolake/.ray/auth_token": "~/.ray/auth_token"}


@pytest.mark.parametrize("command", [*CLUSTER["head_start_ray_commands"], *CLUSTER["worker_start_ray_commands"]])
def test_ray_is_started_with_flags_that_it_has(command: str) -> None:
    words = shlex.split(command)
    assert words[0] == "ray"
    check_ray(words[1:])


def test_workers_find_the_head_and_the_dashboard_stays_inside() -> None:
    head = next(command for command in CLUSTER["head_start_ray_commands"] if "--head" in command)
    port = re.search(r"--port=(\d+)", head)
    assert port
    assert f"--address=$RAY_HEAD_IP:{port[1]} " in CLUSTER["worker_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head
    assert NODES[CLUSTER["head_node_type"]]["resources"] == {"CPU": 0}


def test_workers_add_up_and_outlast_planning() -> None:
    assert CLUSTER["max_workers"] == sum(node["max_workers"] for node in NODES.values())
    workers = [node for name, node in NODES.items() if name != CLUSTER["head_node_type"]]
    assert all(0 < node["min_workers"] <= node["max_workers"] for node in workers)  # a run divides what stands
    assert CLUSTER["idle_timeout_minutes"] >= 30
