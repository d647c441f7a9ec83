"""The files of examples/serving: they parse, and name only options of the versions that they state."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "serving"
# Options that exist, as read in the source of the release.
VERSIONS = {"vllm": "0.33.0", "vllm-router": "0.1.17", "ray": "2.60.0", "skypilot": "0.14.1"}
OPTIONS = {
    "vllm serve": {
        *("revision", "host", "port", "data-parallel-size", "api-server-count", "generation-config"),
        *("enable-lora", "max-lora-rank", "lora-modules", "gpu-memory-utilization"),
    },
    "vllm-router": {"worker-urls", "policy", "host", "port", "request-timeout-secs"},
}
POLICIES = ("random", "round_robin", "cache_aware", "power_of_two", "consistent_hash")
# The keys of each mapping, by the path to it.
RAY = {
    "": {"http_options", "applications", "proxy_location", "grpc_options", "logging_config"},
    "http_options": {"host", "port", "root_path", "request_timeout_s", "keep_alive_timeout_s"},
    "applications": {"name", "route_prefix", "import_path", "runtime_env", "args", "deployments"},
    "applications.args": {"llm_configs", "ingress_cls_config", "ingress_deployment_config"},
    "applications.args.llm_configs": {
        *("model_loading_config", "engine_kwargs", "deployment_config", "accelerator_type", "lora_config"),
        *("runtime_env", "llm_engine", "placement_group_config", "log_engine_metrics"),
    },
    "applications.args.llm_configs.model_loading_config": {"model_id", "model_source", "tokenizer_source"},
    "applications.args.llm_configs.engine_kwargs": {"revision", "generation_config"},
    "applications.args.llm_configs.deployment_config": {"num_replicas", "autoscaling_config"},
}
SKY = {
    "": {"name", "num_nodes", "resources", "envs", "secrets", "file_mounts", "workdir", "setup", "run"},
    "resources": {"accelerators", "disk_size", "autostop", "ports", "infra", "use_spot", "image_id"},
    "resources.autostop": {"idle_minutes", "down", "wait_for"},
}
FREE = ("envs", "file_mounts")  # their keys are the user's


def mappings(value: Any, path: str = "") -> dict[str, set[str]]:
    """The keys of every mapping, by the path to it without the numbers in lists."""
    if isinstance(value, list):
        return {key: names for item in value for key, names in mappings(item, path).items()}
    if not isinstance(value, dict):
        return {}
    result = {path: {*value}}
    for key, item in value.items():
        result |= mappings(item, f"{path}.{key}".strip("."))
    return result


@pytest.mark.parametrize(("name", "known"), [("ray-serve.yaml", RAY), ("skypilot.yaml", SKY)])
def test_a_file_has_only_keys_of_the_version_that_it_names(name: str, known: dict[str, set[str]]) -> None:
    for path, keys in mappings(yaml.safe_load((FOLDER / name).read_text())).items():
        assert path in FREE or keys <= known[path], path


def test_commands_have_only_options_of_the_versions_that_they_name() -> None:
    script = re.sub(r"^\s*#.*$|\\\n", " ", (FOLDER / "vllm.sh").read_text(), flags=re.M)
    for command, known in OPTIONS.items():
        (line,) = re.findall(rf"exec {command} (.*)", script)
        options = {*re.findall(r"--([a-z-]+)", line)}
        assert options and options <= known
    (policy,) = re.findall(r"--policy (\w+)", script)
    assert policy in POLICIES


def test_the_script_starts_what_it_says(tmp_path: Path) -> None:
    for name in ("vllm", "vllm-router"):
        (tmp_path / name).write_text('#!/bin/sh\necho "$0 $*"\n')
        (tmp_path / name).chmod(0o755)

    def run(*arguments: str, **variables: str) -> str:
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **variables}
        command = ["bash", str(FOLDER / "vllm.sh"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert "--data-parallel-size 1 " in run("server") and "--lora-modules" not in run("server")
    loaded = run("server", ADAPTERS="sft-1a=models/sft dpo-2b=models/dpo", GPUS="8")
    assert "--data-parallel-size 8 " in loaded
    assert loaded.endswith("--lora-modules sft-1a=models/sft dpo-2b=models/dpo\n")
    assert "--worker-urls http://a:8001 http://b:8001 --policy" in run(
        "router", "http://a:8001", "http://b:8001"
    )


def test_the_run_of_skypilot_names_every_machine_to_the_router(tmp_path: Path) -> None:
    task = yaml.safe_load((FOLDER / "skypilot.yaml").read_text())
    assert {Path(path).name for path in task["file_mounts"]} == {"vllm.sh", "sft"}
    (tmp_path / "vllm.sh").write_text('echo "$GPUS $*"\n')
    variables = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "SKYPILOT_NUM_GPUS_PER_NODE": "4"}
    for rank, started in (
        ("0", {"4 router http://10.0.0.1:8001 http://10.0.0.2:8001", "4 server"}),
        ("1", {"4 server"}),
    ):
        variables |= {"SKYPILOT_NODE_RANK": rank, "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
        done = subprocess.run(
            ["bash", "-c", task["run"] + "wait\n"], env=variables, capture_output=True, text=True, check=True
        )
        assert {*done.stdout.splitlines()} == started


def test_models_and_versions_are_the_same_everywhere() -> None:
    preset = (ROOT / "presets" / "qwen2.5-1.5b.yaml").read_text()
    docs = (ROOT / "docs" / "serving.md").read_text()
    files = "".join(path.read_text() for path in sorted(FOLDER.iterdir()))
    for model in ("Qwen/Qwen2.5-1.5B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-3B-Instruct"):
        assert model in files and model in preset
    for commit in re.findall(r"\b[0-9a-f]{40}\b", files):
        assert commit in preset
    for library, version in VERSIONS.items():
        assert version in files and re.search(rf"{library} {re.escape(version)}", docs, re.IGNORECASE)
    constraints = (ROOT / "constraints.txt").read_text()
    assert "ray==" not in constraints or f"ray=={VERSIONS['ray']}" in constraints
