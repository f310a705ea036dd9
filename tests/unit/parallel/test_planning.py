"""Cluster files, plans and their bytes. W ranks, D columns."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from ppr_dist import plan as plan_command
from ppr_dist.config import Config
from ppr_dist.errors import UserError
from ppr_dist.parallel import planning
from ppr_dist.parallel.cluster import default_cluster, load_cluster
from ppr_dist.parallel.footprint import describe_plan
from ppr_dist.parallel.planning import DoesNotFitError, make_plan
from ppr_dist.tuning import TUNING_METHODS
from tests.shards import ATTRIBUTES, random_users, write_data

ROOT = Path(__file__).parents[3]
SHARDING = ROOT / "sharding"
CPU = (SHARDING / "cpu.yaml").read_text()
ADAGRAD = EmbOptimType.EXACT_ROWWISE_ADAGRAD


def config(name, rows, columns=16):
    return EmbeddingConfig(name=name, num_embeddings=rows, embedding_dim=columns, feature_names=[name])


def module_of(items, profiles=()):
    module = nn.Module()
    module.items = EmbeddingCollection(tables=[items], device=torch.device("meta"))
    if profiles:
        module.profiles = EmbeddingCollection(tables=list(profiles), device=torch.device("meta"))
    return module


def sharders(optimizer=ADAGRAD):
    return [EmbeddingCollectionSharder(fused_params={"optimizer": optimizer}, use_index_dedup=False)]


def cluster_from(tmp_path, text):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return load_cluster(path)


@pytest.mark.parametrize("path", sorted(SHARDING.glob("*.yaml")), ids=lambda p: p.stem)
def test_committed_clusters_load(path):
    cluster = load_cluster(path)
    assert cluster.constraint("item").sharding_types == ("row_wise",)
    if path.stem != "cpu":
        assert cluster.world_size == int(path.stem.removeprefix("gpu-"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("nodes: 1", "nodez: 1", "unknown key 'nodez'"),
        ("nodes: 1", "nodes: one", "nodes: expected a whole number, got 'one'"),
        ("nodes: 1", "nodes: true", "nodes: expected a whole number, got True"),
        ("nodes: 1", "nodes: 0", "nodes must be above 0"),
        ("nodes: 1\n", "", "missing key 'nodes'"),
        ("host_memory_gb: 16", "host_memory_gb: .inf", "host_memory_gb: expected a number"),
        ("hbm_gb: 0", "hbm_gb: 80", "hbm_gb must be"),
        ("compute_device: cpu", "compute_device: tpu", "compute_device: 'tpu'"),
        ("reserved_fraction: 0.3", "reserved_fraction: 1.0", "reserved_fraction must be in"),
        ("[row_wise]", "row_wise", "constraints.item: sharding_types: expected a list"),
        ("[row_wise]", "[data_parallel]", "sharding_types: ['data_parallel']"),
        ("[fused]", "[fused_uvm_caching]", "needs cuda"),
        ("ids_per_step: 25600", "ids_per_stp: 25600", "constraints.item: unknown key 'ids_per_stp'"),
        ("nodes: 1", "nodes: 1.5e0", "nodes: expected a whole number, got 1.5"),
        ("nodes: 1", "nodes: 1e400", "nodes: expected a whole number, got inf"),
        ("nodes: 1", "nodes: [", "cannot read the cluster file"),
        ("nodes: 1\n", "nodes: 1\nnodes: 2\n", "nodes: there twice"),
    ],
)
def test_a_bad_file_names_itself_and_the_key(tmp_path, old, new, said):
    assert old in CPU
    with pytest.raises(UserError) as caught:
        cluster_from(tmp_path, CPU.replace(old, new))
    assert "cluster.yaml" in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_number_may_be_written_1e2(tmp_path):
    text = (SHARDING / "gpu-8.yaml").read_text()
    cluster = cluster_from(tmp_path, text.replace("hbm_gb: 80", "hbm_gb: 1e2").replace("nodes: 1\n", "nodes: 2e0\n"))
    assert (cluster.hbm_gb, cluster.nodes) == (100, 2)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        load_cluster(tmp_path / "nowhere.yaml")


def test_a_constraint_on_no_table_is_an_error(tmp_path):
    cluster = cluster_from(tmp_path, CPU.replace("  item:", "  itme:"))
    with pytest.raises(UserError, match="itme: no such table"):
        make_plan(module_of(config("item", 100)), cluster, 1, sharders())


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["row_wise", "column_wise", "table_wise"])
def test_shards_cover_each_table_once(tmp_path, world_size, kind):
    cluster = cluster_from(tmp_path, CPU.replace("[row_wise]", f"[{kind}]"))
    tables = [config("item", 1001), config("prompt_gender", 3), config("profile_encoder_gender", 3)]
    plan = make_plan(module_of(tables[0], tables[1:]), cluster, world_size, sharders())
    said = describe_plan(plan, tables, ADAGRAD.value, cluster, world_size)
    json.dumps(said)
    assert [table["sharding_type"] for table in said["tables"]] == [kind, "table_wise", "table_wise"]
    for table in said["tables"]:
        assert sum(r * c for _, r, c in table["shards"]) == table["rows"] * table["columns"]
    assert sum(r["host"]["weights"] for r in said["ranks"]) == 4 * 16 * (1001 + 3 + 3)
    state_rows = 1001 * (len(said["tables"][0]["shards"]) if kind == "column_wise" else 1) + 3 + 3
    assert sum(r["host"]["optimizer"] for r in said["ranks"]) == 4 * state_rows
    assert bool(said["notes"]) == (kind == "column_wise" and world_size > 1)


@pytest.mark.parametrize(
    ("rows", "world_size", "kind"), [(12, 4, "row_wise"), (9, 4, "table_wise"), (2, 3, "table_wise")]
)
def test_row_wise_leaves_no_rank_without_rows(rows, world_size, kind):
    cluster = load_cluster(SHARDING / "cpu.yaml")
    item = config("item", rows)
    plan = make_plan(module_of(item), cluster, world_size, sharders())
    said = describe_plan(plan, [item], ADAGRAD.value, cluster, world_size)
    assert said["tables"][0]["sharding_type"] == kind
    assert bool(said["notes"]) == (kind == "table_wise")


def test_a_billion_items_on_32_gpus_is_the_arithmetic():
    cluster = load_cluster(SHARDING / "gpu-32.yaml")
    item = config("item", 10**9, 128)
    plan = make_plan(module_of(item), cluster, 32, sharders())
    said = describe_plan(plan, [item], ADAGRAD.value, cluster, 32)
    assert said["tables"][0]["shards"] == [[rank, 31_250_000, 128] for rank in range(32)]
    ids = 51_200
    for rank in said["ranks"]:
        assert rank["hbm"] == {
            "weights": 31_250_000 * 128 * 4,
            "optimizer": 31_250_000 * 4,
            "cache": 0,
            "io": ids * (8 + 128 * 4),
            "total": 31_250_000 * (128 * 4 + 4) + ids * (8 + 128 * 4),
        }
    assert said["largest"]["hbm"] == said["mean"]["hbm"] == 16_151_624_000


@pytest.mark.parametrize("kernel", ["fused", "fused_uvm", "fused_uvm_caching"])
@pytest.mark.parametrize("kind", ["row_wise", "column_wise", "table_wise"])
@pytest.mark.parametrize("optimizer", [EmbOptimType.ADAM, EmbOptimType.PARTIAL_ROWWISE_ADAM], ids=lambda o: o.value)
def test_the_description_counts_what_the_planner_counts(tmp_path, kernel, kind, optimizer):
    text = (SHARDING / "gpu-8.yaml").read_text()
    text = text.replace("[row_wise]", f"[{kind}]").replace("[fused]", f"[{kernel}]", 1)
    cluster = cluster_from(tmp_path, text)
    tables = [config("item", 10_000_001, 64), config("profile_encoder_age", 7, 64)]
    module = module_of(tables[0], tables[1:])
    weights = {
        "item": module.items.embeddings["item"].weight,
        "profile_encoder_age": module.profiles.embeddings["profile_encoder_age"].weight,
    }
    planner, winners = planning._planner(weights, cluster, 8, optimizer.value)
    plan = planner.plan(module, sharders(optimizer))
    said = describe_plan(plan, tables, optimizer.value, cluster, 8)
    assert {table["compute_kernel"] for table in said["tables"]} == {kernel, "fused"}
    used = planning._used(winners)
    for memory, by_rank in used.items():
        for rank, count in by_rank.items():
            # The planner rounds each part of a shard's share up; some bytes apart, never more.
            assert said["ranks"][rank][memory]["total"] == pytest.approx(count, abs=16)


def test_what_does_not_fit_says_by_how_much():
    cluster = load_cluster(SHARDING / "gpu-8.yaml")
    item = config("item", 10**9, 128)
    with pytest.raises(DoesNotFitError) as caught:
        make_plan(module_of(item), cluster, 8, sharders())
    needed = 125_000_000 * (128 * 4 + 4) + 51_200 * (8 + 128 * 4)
    assert caught.value.memory == "hbm"
    assert caught.value.short_bytes == needed - cluster.usable()["hbm"]
    assert f"{caught.value.short_bytes:,} bytes too many" in str(caught.value)
    assert "'item'" in str(caught.value)


def test_this_machine_holds_a_small_table():
    cluster = default_cluster("cpu", 2)
    assert cluster.world_size == 2
    make_plan(module_of(config("item", 1000)), cluster, 2, sharders())


def test_the_cheapest_change_is_one_that_was_tried_and_fits(capsys):
    argv = [
        "--cluster",
        str(SHARDING / "gpu-8.yaml"),
        "--items",
        "1000000000",
        "--dim",
        "128",
    ]
    with pytest.raises(SystemExit) as caught:
        plan_command.main([*argv, "--json"])
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    report = json.loads(out)
    tried = {change["change"]: change["fits"] for change in report["changes"]}
    assert tried["item column_wise"] is False
    assert tried["half-precision item table (tables.precision float16)"] is True
    assert report["cheapest"] == "half-precision item table (tables.precision float16)"
    assert tried["16 ranks"] is True
    assert report["fits"] is False
    assert err.count("\n") == 1
    assert f"{report['short_bytes']:,} bytes too many" in err


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_json_is_printed_alone_or_not_at_all(as_json):
    command = [
        sys.executable,
        "-m",
        "ppr_dist.plan",
        "--cluster",
        "sharding/cpu.yaml",
        "--items",
        "1000",
        "--dim",
        "64",
    ]
    command += ["--world-size", "3", *(["--json"] if as_json else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    if as_json:
        report = json.loads(done.stdout)
        assert report["fits"] is True
        assert [shard[1] for shard in report["tables"][0]["shards"]] == [334, 334, 332]
    else:
        lines = done.stdout.splitlines()
        assert lines[0] == "1,000 items x 64, rowwise_adagrad, on 3 rank(s) of 'one machine, CPU'"
        assert lines[-1] == "It fits."
        assert not any("{" in line for line in lines)


@pytest.mark.parametrize("method", [None, *TUNING_METHODS])
def test_plan_takes_what_training_takes(method, tmp_path, capsys):
    write_data(tmp_path / "data", {"tune-train": random_users(9, 3000)}, items=3000, per_shard=4)
    options = ["--cluster", str(SHARDING / "cpu.yaml"), "--world-size", "2", "--dim", "32", "--history", "9"]
    options += ["--profiles.attribute_dim", "16", "--tables.precision", "float16", "--tables.optimizer", "adagrad"]
    options += ["--method", method] if method else []
    said = []
    by_hand = ["--items", "3e3", *(word for a, n in ATTRIBUTES.items() for word in (f"--attributes.{a}", str(n)))]
    for given in (["--data", str(tmp_path / "data")], by_hand):
        plan_command.main([*options, *given, "--json"])
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
    assert said[0]["optimizer"] == "exact_adagrad"
    uses = TUNING_METHODS[method].profile_uses if method else ()
    assert [(t["name"], t["rows"], t["columns"], t["dtype"]) for t in said[0]["tables"]] == [
        ("item", 3000, 32, "fp16"),
        *((f"{use}:{a}", n, 16, "fp32") for use in uses for a, n in ATTRIBUTES.items()),
    ]


def test_more_ranks_than_gpus_do_not_fit():
    argv = ["--cluster", str(SHARDING / "gpu-8.yaml"), "--items", "1e3", "--dim", "64", "--world-size", "9"]
    with pytest.raises(UserError, match=r"--world-size 9: .*gpu-8.yaml has 8 GPUs \(1 machine\(s\) of 8\)"):
        plan_command.main(argv)


def test_an_attribute_to_predict_has_no_table(capsys):
    words = ["--cluster", str(SHARDING / "cpu.yaml"), "--items", "9", "--attributes.age", "5", "--attributes.city", "7"]
    predict = ["--train.objectives", "attribute", "--attribute.name", "age"]
    plan_command.main([*words, *predict, "--method", "fine-tune", "--dim", "8", "--json"])
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert [table["name"] for table in tables] == ["item", "profile_encoder:city"]


def test_label_spaces_to_predict_are_counted(capsys):
    words = ["--cluster", str(SHARDING / "cpu.yaml"), "--items", "9", "--dim", "8", "--world-size", "2", "--json"]
    steps = []
    for predict in ([], ["labels", "--label-spaces.orders", "50", "--label-spaces.answer", "3"]):
        plan_command.main([*words, "--train.objectives", "softmax", *predict])
        steps.append(json.loads(capsys.readouterr().out)["step"]["planned"])
    without, with_labels = steps
    users = Config().train.global_batch_size // 2
    assert with_labels["labels"]["flops"] == 3 * 2 * users * 8 * 53
    # Gradients of the heads, float32, half of which lie on the other rank: reduced and gathered.
    added = with_labels["dense gradients"]["bytes"] - without["dense gradients"]["bytes"]
    assert added == 2 * 4 * 53 * 8 // 2


def test_a_label_space_above_the_limit_is_a_table(capsys):
    words = ["--cluster", str(SHARDING / "cpu.yaml"), "--items", "9", "--dim", "8", "--world-size", "2", "--json"]
    spaces = ["--label-spaces.answer", "3", "--label-spaces.orders", "10_000_000"]
    plan_command.main([*words, "--train.objectives", "softmax", "labels", *spaces])
    said = json.loads(capsys.readouterr().out)
    _, orders = said["tables"]
    assert (orders["name"], orders["rows"], orders["columns"]) == ("label:orders", 10**7, 8)
    assert (orders["sharding_type"], len(orders["shards"])) == ("row_wise", 2)
    assert said["ranks"][1]["host"]["weights"] == (4 + 10**7 // 2) * 8 * 4
    # Of the other rank: candidates, and half of the users' labels; of each the id, the vector and its gradient.
    users, drawn = Config().train.global_batch_size // 2, 512 // 2
    received = (users + drawn + users / 2) * (8 + 2 * 4 * 8)
    step = said["step"]["planned"]["labels"]
    assert step["bytes"] == 8 + received
    assert step["flops"] == 3 * 2 * users * 8 * (3 + 2 * (users + drawn))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "how many items"),
        (["--items", "1.5"], "whole numbers"),
        (["--items", "many"], "items"),
        (["--items", "9", "--attributes.age", "0"], "whole numbers"),
        (["--items", "9", "--data", "data"], "leave --items"),
    ],
)
def test_arguments_that_say_too_little_or_too_much_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        plan_command.main(["--cluster", str(SHARDING / "cpu.yaml"), "--dim", "8", *given])


def test_bad_input_is_a_user_error():
    with pytest.raises(UserError, match=r"sharding/none\.yaml"):
        plan_command.main(["--cluster", "sharding/none.yaml", "--items", "9", "--dim", "64"])
    with pytest.raises(UserError, match=r"--dim and .* must be multiples of 4"):
        plan_command.main(["--cluster", str(SHARDING / "cpu.yaml"), "--items", "9", "--dim", "6"])
    with pytest.raises(UserError, match="world size must be at least 1"):
        plan_command.main(["--cluster", str(SHARDING / "cpu.yaml"), "--items", "9", "--dim", "8", "--world-size", "0"])
