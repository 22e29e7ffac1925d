"""The manifest holds together: names, nodes, volumes, the launcher's words."""

from pathlib import Path

import yaml
from torch.distributed import run

from experiments.cli import main

FILE = Path(__file__).parents[2] / "scripts" / "kubernetes.yaml"


def parts():
    every = yaml.safe_load_all(FILE.read_text(encoding="utf-8"))
    return {part["kind"]: part for part in every}


def test_kinds_and_labels_go_together():
    every = parts()
    versions = {kind: part["apiVersion"] for kind, part in every.items()}
    assert versions == {
        "Service": "v1",
        "NetworkPolicy": "networking.k8s.io/v1",
        "Job": "batch/v1",
    }
    job = every["Job"]["spec"]
    pod, labels = job["template"]["spec"], job["template"]["metadata"]["labels"]
    assert every["Service"]["spec"]["selector"] == labels
    assert every["Service"]["metadata"]["name"] == pod["subdomain"]
    assert every["Service"]["spec"]["clusterIP"] == "None"
    policy = every["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    (source,) = policy["ingress"][0]["from"]
    assert source["podSelector"]["matchLabels"] == labels
    assert pod["restartPolicy"] == "Never"  # a failure policy wants it
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_every_number_of_nodes_and_gpus_is_one():
    job = parts()["Job"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    told = {row["name"]: row["value"] for row in container["env"]}
    assert {str(job["completions"]), str(job["parallelism"])} == {told["NODES"]}
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--nproc-per-node={gpus}" in container["args"]


def test_the_launcher_and_the_command_take_their_words(capsys):
    job = parts()["Job"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "experiments.launcher"]
    words = [
        word.replace("$(NODES)", "2").replace("$(JOB_COMPLETION_INDEX)", "1")
        for word in container["args"]
    ]
    options = run.parse_args(words)
    assert (options.nnodes, options.node_rank, options.module) == ("2", 1, True)
    name = parts()["Job"]["metadata"]["name"]
    first = f"{name}-0.{parts()['Service']['metadata']['name']}:29500"
    assert options.rdzv_endpoint == first
    assert options.training_script == "experiments.cli"
    kept = options.training_script_args
    assert kept == ["train", "/config/my.yaml", "run.dir=/work/runs"]
    assert main([*kept, "--check"]) == 2  # no such file here, and no such word neither
    assert "/config/my.yaml" in capsys.readouterr().err
