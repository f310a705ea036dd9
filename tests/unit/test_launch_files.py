"""What cannot be run here, checked by what it says: the Kubernetes manifest by Kubeflow's own models, the container
file by the files that it copies."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from ppr_dist import pretrain
from ppr_dist.read_config import parse

ROOT = Path(__file__).resolve().parents[2]


def unknown(asked: Any, model: Any, at: str = "") -> list[str]:
    """Keys of the manifest that the models, which read leniently, have no field for."""
    if isinstance(asked, dict) and not isinstance(model, dict):
        fields = {field.alias or name: name for name, field in type(model).model_fields.items()}
        found = [f"{at}.{key}" for key in asked if key not in fields]
        known = [key for key in asked if key in fields]
        return found + [
            name for key in known for name in unknown(asked[key], getattr(model, fields[key]), f"{at}.{key}")
        ]
    if isinstance(asked, list):
        return [name for n, (a, m) in enumerate(zip(asked, model, strict=True)) for name in unknown(a, m, f"{at}[{n}]")]
    return []


@pytest.fixture
def manifest() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "launch/kubernetes.yaml").read_text()))


def checked(document: dict[str, Any]) -> Any:
    """The document as Kubeflow's model of its kind; raises pydantic's ValidationError."""
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="kubeflow-trainer-api is not installed")
    kind = getattr(models, f"TrainerV1alpha1{document['kind']}")
    model = kind.from_dict(document)
    assert not unknown(document, model)
    return model


def test_kubeflows_models_take_the_manifest(manifest: list[dict[str, Any]]) -> None:
    runtime, job = map(checked, manifest)
    assert (runtime.kind, job.kind) == ("TrainingRuntime", "TrainJob")
    reference = job.spec.runtime_ref
    assert (reference.kind, reference.name) == (runtime.kind, runtime.metadata.name)
    (node,) = runtime.spec.template.spec.replicated_jobs
    pod = node.template.spec.template.spec
    (timeout,) = [word.split("=")[1] for word in job.spec.trainer.command if word.startswith("--shutdown-timeout")]
    assert int(timeout) < pod.termination_grace_period_seconds
    assert {mount.name for mount in pod.containers[0].volume_mounts} == {volume.name for volume in pod.volumes}


def test_a_misspelt_key_is_found(manifest: list[dict[str, Any]]) -> None:
    runtime, job = manifest
    job["spec"]["trainer"]["numNode"] = 4
    with pytest.raises(AssertionError, match=r"trainer\.numNode"):
        checked(job)
    pod = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["terminationGracePeriodSeconds"] = "long"
    with pytest.raises(ValueError, match="terminationGracePeriodSeconds"):
        checked(runtime)


def test_the_job_runs_a_command_of_ours(manifest: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = manifest[1]["spec"]["trainer"]
    launcher = importlib.import_module("torch.distributed.run").get_args_parser()
    options = launcher.parse_args([*trainer["command"][1:], *trainer["args"]])
    assert options.training_script == "ppr_dist.pretrain"
    monkeypatch.chdir(ROOT)
    arguments, _ = parse("ppr_dist.pretrain", options.training_script_args, pretrain.Arguments)
    assert arguments.resume


def test_the_container_has_what_set_up_needs() -> None:
    lines = [shlex.split(line, comments=True) for line in (ROOT / "launch/Containerfile").read_text().splitlines()]
    before: set[str] = set()
    for word, *rest in filter(None, lines):
        if word == "COPY":
            assert all((ROOT / source).exists() for source in rest[:-1])
            before |= set(rest[:-1])
        elif word == "RUN":
            # The project is installed from its folder (pyproject.toml names the others).
            assert before >= {"pyproject.toml", "README.md", "LICENSE", "ppr_dist", "launch/environment"}
            assert rest == ["PPR_DIST_DEVICE=$DEVICE", "launch/environment/setup.sh"]
