"""Plans without PyTorch: made, written, read and compared; and the same bytes as the TypeScript planner's."""

import array
import copy
import pickle

import numpy
import pytest
from conftest import run_json
from layers import draw_ids

import fusco
from fusco.testing import assert_plan


def tables(ranks=4, topk=2, experts=8, masked=0.0):
    return [draw_ids(rank, (7, 0, 3, 12)[rank % 4], topk, experts, masked) for rank in range(ranks)]


def save_routing(folder, ids):
    folder.mkdir()
    for rank, table in enumerate(ids):
        numpy.save(folder / f"rank{rank}.npy", table)
    return folder


CASES = {
    "flat": {},
    "padded blocks": {"align": 4},
    "a capacity": {"capacity": 3},
    "once per rank": {"strategy": "hier", "ranks_per_node": 1},
    "nodes of two": {"strategy": "hier", "ranks_per_node": 2, "balance": "lpt"},
    "sums by token": {"strategy": "hier", "ranks_per_node": 2, "sum": "token", "partial": "f32"},
    "fp8 rows": {"dtype": "fp8", "hidden": 256},
    "replicas": {"placement": [[0, 1], 0, [1, 3], 1, 2, 2, 3, [0, 3]], "replicas": "local"},
    "auto": {"strategy": "auto", "ranks_per_node": 2, "dtype": "f32"},
    "auto inside a machine": {"strategy": "auto", "ranks_per_node": 2, "ranks_per_host": 4, "capacity": 3},
    "auto with replicas": {
        "placement": [[0, 1], 0, [1, 3], 1, 2, 2, 3, [0, 3]],
        "strategy": "auto",
        "ranks_per_node": 2,
    },
    "quotas": {"placement": [[0, 1], 0, [1, 3], 1, 2, 2, 3, [0, 3]], "strategy": "hier", "ranks_per_node": 2},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_a_plan_is_the_one_of_the_command_line_byte_for_byte(fusco_cli, tmp_path, options):
    ids = tables(masked=0.1)
    arguments = []
    for name, value in options.items():
        if name == "placement":
            (tmp_path / "placement.json").write_text(str(value))
            value = tmp_path / "placement.json"
        arguments += [f"--{name.replace('_', '-')}", value]
    routing = save_routing(tmp_path / "ids", ids)
    fusco_cli("plan", routing, "-o", tmp_path / "cli.fusco", "--experts", 8, *arguments)
    made = fusco.plan(ids, experts=8, **options)
    made.save(tmp_path / "python.fusco")
    assert (tmp_path / "python.fusco").read_bytes() == (tmp_path / "cli.fusco").read_bytes()
    assert made.plan_id() == run_json("inspect", tmp_path / "cli.fusco")["planId"]
    fusco_cli("verify", tmp_path / "python.fusco", "--routing", routing)


def test_auto_chooses_once_per_rank_where_tokens_have_several_experts_on_a_rank(tmp_path):
    # Experts 2r and 2r + 1 are on rank r; both experts of each token are on another machine.
    ids = [[[4, 5], [6, 7]], [[4, 5], [6, 7]], [[0, 1], [2, 3]], [[0, 1], [2, 3]]]
    made = fusco.plan(ids, experts=8, strategy="auto", ranks_per_node=2)
    assert made.reason == (
        "once per rank has the least busy rank: flat 4 rows between machines and 0 inside, "
        "once per rank 2 rows between machines and 0 inside, once per node 2 rows between machines and 2 inside"
    )
    assert (made.options.strategy, made.options.ranks_per_node) == ("hier", 1)
    asked = fusco.plan(ids, experts=8, strategy="hier", ranks_per_node=1)
    assert asked.plan_id() == made.plan_id()
    assert asked.reason == ""
    made.save(tmp_path / "auto.fusco")
    read = fusco.load_plan(tmp_path / "auto.fusco")
    assert read.reason == made.reason
    assert read.file_bytes() == (tmp_path / "auto.fusco").read_bytes()
    read.check_routing(ids)


def test_a_plan_that_was_read_is_equal_to_the_one_that_was_written(tmp_path):
    made = fusco.plan(tables(), experts=8, strategy="hier", ranks_per_node=2)
    plan_id = made.save(tmp_path / "a.fusco")
    read = fusco.load_plan(tmp_path / "a.fusco")
    assert plan_id == made.plan_id() == read.plan_id()
    assert read.options.hidden == 7168
    assert [read.shard_digest(rank) for rank in range(4)] == [made.shard_digest(rank) for rank in range(4)]
    assert read.shard_bytes == made.shard_bytes
    assert bytes(read.shard(3)) == bytes(made.shard(3))
    for plan, rank in ((made, 4), (made, -1), (read, 4), (read, 2**40)):
        with pytest.raises(fusco.FuscoError, match="rank is") as caught:
            plan.shard(rank)
        assert caught.value.code == "E_OPTION"
    assert read.file_bytes() == (tmp_path / "a.fusco").read_bytes()


def test_a_plan_outlives_the_file_and_the_planner_that_it_came_from(tmp_path):
    fusco.plan(tables(), experts=8).save(tmp_path / "a.fusco")
    digests = [fusco.load_plan(tmp_path / "a.fusco").shard_digest(rank) for rank in range(4)]
    plan = fusco.load_plan(tmp_path / "a.fusco")
    (tmp_path / "a.fusco").unlink()
    assert [plan.shard_digest(rank) for rank in range(4)] == digests


def test_a_routing_is_compared_with_a_plan(tmp_path):
    ids = tables()
    plan = fusco.plan(ids, experts=8)
    plan.check_routing(ids)
    changed = [table.copy() for table in ids]
    changed[2][1] = changed[2][1, ::-1]
    with pytest.raises(fusco.FuscoError) as caught:
        plan.check_routing(changed)
    assert (caught.value.code, caught.value.rank) == ("E_ENTRY", 2)
    with pytest.raises(fusco.FuscoError, match="E_RANKS 3 routing tables for 4 ranks"):
        plan.check_routing(ids[:3])


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_ids_of_every_integer_type_give_the_same_plan(dtype):
    ids = tables()
    expected = fusco.plan(ids, experts=8).plan_id()
    assert fusco.plan([table.astype(dtype) for table in ids], experts=8).plan_id() == expected


def test_ids_as_lists_arrays_and_read_only_arrays_give_the_same_plan():
    ids = tables()
    expected = fusco.plan(ids, experts=8).plan_id()
    assert fusco.plan([table.tolist() for table in ids], experts=8, topk=2).plan_id() == expected
    frozen = [table.copy() for table in ids]
    for table in frozen:
        table.flags.writeable = False
    assert fusco.plan(frozen, experts=8).plan_id() == expected


def refused(code, *arguments, **options):
    with pytest.raises(fusco.FuscoError) as caught:
        fusco.plan(*arguments, **options)
    assert caught.value.code == code
    assert len(caught.value.hint) > 10
    return caught.value


def test_bad_routings_are_refused_with_their_place():
    error = refused("E_ROUTING_ID", [[[0, 1]], [[0, 9]]], experts=8)
    assert (error.rank, error.path) == (1, "/ranks/1/tokens/0/k/1")
    assert "expert 9 is not -1 and not in 0..7" in error.message
    assert refused("E_ROUTING_DUPLICATE", [[[3, 3]]], experts=8).rank == 0
    refused("E_ROUTING_SHAPE", [[[0, 1]], [[0, 1, 2]]], experts=8)
    refused("E_ROUTING_SHAPE", [[[0, 1], [0]]], experts=8)
    refused("E_ROUTING_SHAPE", [array.array("i", [0, 1])], experts=8)
    refused("E_ROUTING_DTYPE", [[[0.5, 1.0]]], experts=8)
    refused("E_ROUTING_DTYPE", [numpy.zeros((1, 2), dtype="f4")], experts=8)
    refused("E_ROUTING_DTYPE", [3], experts=8)
    refused("E_RANKS", None, experts=8)
    refused("E_BUFFER", [numpy.zeros((2, 4), dtype="i4")[:, ::2]], experts=8)


def test_an_error_is_the_same_in_another_process():
    error = refused("E_ROUTING_ID", [[[0, 9]]], experts=8)
    for copied in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(copied) is fusco.FuscoError and vars(copied) == vars(error)
        assert str(copied) == str(error) == f"E_ROUTING_ID {error.message} ({error.hint})"


def test_options_may_be_numbers_of_numpy():
    ids = tables()
    placement = [[0, 1], [0], 1, 1, 2, 2, 3, [3, 0]]
    made = fusco.plan(ids, experts=numpy.int64(8), placement=[numpy.array(entry) for entry in placement])
    assert made.options.placement == ((0, 1), 0, 1, 1, 2, 2, 3, (0, 3))
    assert made.plan_id() == fusco.plan(ids, experts=8, placement=placement).plan_id()


def test_bad_options_are_refused():
    ids = [[[0, 1]], [[2, 3]]]
    refused("E_OPTION", ids, experts=0)
    refused("E_OPTION", ids, experts=8, align=-1)
    refused("E_OPTION", ids, experts=8, align=True)
    refused("E_OPTION", ids, experts=8, strategy="fast")
    refused("E_OPTION", ids, experts=8, strategy="auto", ranks_per_host=3)
    for name in ("align", "ranks_per_node", "ranks_per_host", "hidden", "slice_rows"):
        assert f"{name} is 0; it must be an integer from 1" in refused("E_OPTION", ids, experts=8, **{name: 0}).message
    for name in ("align", "slice_rows"):
        # The range that is stated is the one that holds.
        assert "from 1 to 1048576" in refused("E_OPTION", ids, experts=8, **{name: 0}).message
        assert fusco.plan(ids, experts=8, **{name: 1 << 20}).plan_id()
        refused("E_OPTION", ids, experts=8, **{name: (1 << 20) + 1})
    refused("E_OPTION", ids, experts=8, ranks_per_node=3)
    refused("E_PLACEMENT", ids, experts=8, placement=[0, 1])
    refused("E_PLACEMENT", ids, experts=4, placement=[0, 1, 2, 0])
    refused("E_RANKS", ids, experts=8, ranks=3)
    error = refused("E_MAX_ROWS", [[[0, 1]] * 4, [[0, 1]] * 4], experts=8, max_rows=5)
    assert (error.rank, error.value, error.limit) == (0, 16, 5)


def test_files_that_are_no_plans_are_refused(tmp_path):
    def code_of(path):
        with pytest.raises(fusco.FuscoError) as caught:
            fusco.load_plan(path)
        return caught.value.code

    assert code_of(tmp_path / "missing.fusco") == "E_FILE_NOT_FOUND"
    (tmp_path / "text.fusco").write_text("no plan")
    assert code_of(tmp_path / "text.fusco") == "E_PLAN_MAGIC"
    fusco.plan(tables(), experts=8).save(tmp_path / "a.fusco")
    data = bytearray((tmp_path / "a.fusco").read_bytes())
    data[-100] ^= 1
    (tmp_path / "flipped.fusco").write_bytes(data)
    assert code_of(tmp_path / "flipped.fusco") == "E_PLAN_DIGEST"
    with pytest.raises(fusco.FuscoError, match="E_FILE_WRITE"):
        fusco.plan(tables(), experts=8).save(tmp_path / "no" / "folder" / "a.fusco")


def test_a_golden_plan_is_compared_in_a_test(tmp_path):
    path, ids = tmp_path / "golden.fusco", tables()
    with pytest.raises(fusco.FuscoError, match="E_FILE_NOT_FOUND"):
        assert_plan(path, ids, experts=8)
    fusco.plan(ids, experts=8, align=2).save(path)
    assert_plan(path, ids)
    assert_plan(path, ids, experts=8, align=2)
    with pytest.raises(AssertionError, match="align was 2 and is 4"):
        assert_plan(path, ids, experts=8, align=4)
    changed = [ids[0], ids[1], ids[2][::-1].copy(), ids[3]]
    with pytest.raises(AssertionError, match="/ranks/2/entries/0: rank 2"):
        assert_plan(path, changed)


def test_a_golden_plan_is_updated_but_not_in_ci(tmp_path, monkeypatch):
    path, ids = tmp_path / "golden.fusco", tables()
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(fusco.FuscoError, match="E_OPTION there is no file "):
        assert_plan(path, ids, update=True)
    assert_plan(path, ids, update=True, experts=8)
    changed = ids[::-1]
    assert_plan(path, changed, update=True)
    assert_plan(path, changed)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(AssertionError):
        assert_plan(path, ids, update=True)
