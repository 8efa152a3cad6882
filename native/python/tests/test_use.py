"""How a layer is used in training programs: compiled, checkpointed, under autocast, by threads; and misused."""

import functools
import threading
import warnings

import pytest
import torch
from layers import HIDDEN, forward_backward, leaves, make, step
from torch.library import opcheck
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

import fusco.torch as ft
from fusco import FuscoError
from fusco.torch.plan_cache import plans
from fusco.torch.state import state_bytes


def layer(shuffle, x, ids, weights):
    rows, handle = shuffle.dispatch(x, ids, weights)
    return shuffle.combine(torch.tanh(rows), handle)


def gradients(function, x, ids, weights, gradient):
    x, weights = leaves(x, weights)
    output = function(x, ids, weights)
    output.backward(gradient)
    return output.detach(), x.grad, weights.grad


def assert_equal(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture
def inputs():
    x, ids, weights, _, gradient = step(3, 24, 2, 8)
    return x, ids, weights, gradient


# -- torch.compile


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_layer_with_a_receive_bound_compiles_as_one_graph(inputs, backend):
    shuffle = make(max_recv_rows=40)
    torch._dynamo.reset()
    compiled = torch.compile(functools.partial(layer, shuffle), fullgraph=True, backend=backend, dynamic=False)
    # Inductor computes tanh in another way.
    torch.testing.assert_close(gradients(compiled, *inputs), gradients(functools.partial(layer, shuffle), *inputs))
    # Another routing of the same shape needs no new graph.
    x, ids, weights, _, gradient = step(4, 24, 2, 8)
    with torch.compiler.set_stance("fail_on_recompile"):
        found = gradients(compiled, x, ids, weights, gradient)
    torch.testing.assert_close(found, gradients(functools.partial(layer, shuffle), x, ids, weights, gradient))


def test_a_layer_of_exact_size_compiles_with_dynamic_output_shapes(inputs):
    shuffle = make()
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(functools.partial(layer, shuffle), fullgraph=True, backend="aot_eager")
        assert_equal(gradients(compiled, *inputs), gradients(functools.partial(layer, shuffle), *inputs))


def test_an_error_while_a_layer_is_compiled_is_named(inputs):
    x, ids, weights, _ = inputs
    compiled = torch.compile(functools.partial(layer, make(max_recv_rows=96)), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"E_DTYPE.*x is torch\.float64"):
        compiled(x.double(), ids, weights)


@pytest.mark.parametrize("bound", [None, 40])
def test_a_compiled_layer_takes_other_numbers_of_tokens(inputs, bound):
    shuffle = make(max_recv_rows=bound)

    def unweighted(x, ids):
        rows, handle = shuffle.dispatch(x, ids)
        return shuffle.combine(rows * 2, handle)

    torch._dynamo.reset()
    x, ids, _, gradient = inputs
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(unweighted, fullgraph=True, backend="aot_eager", dynamic=True)
        for tokens in (24, 20, 9):
            ours, theirs = leaves(x[:tokens], x[:tokens])
            compiled(ours, ids[:tokens]).backward(gradient[:tokens])
            unweighted(theirs, ids[:tokens]).backward(gradient[:tokens])
            assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("rows", [-1, 160])
def test_the_operators_pass_the_checks_of_torch(inputs, rows):
    x, ids, weights, _ = inputs
    shuffle = make(max_recv_rows=None if rows < 0 else rows // 4)
    fusco, name = torch.ops.fusco, shuffle.name
    planned = (ids, name, [6] * 4)
    opcheck(fusco.plan.default, planned)
    state = fusco.plan(*planned)
    opcheck(fusco.blocks.default, (state, name))
    x, weights = leaves(x, weights)
    opcheck(fusco.dispatch.default, (x, state, rows, name))
    received = fusco.dispatch(x, state, rows, name).detach().requires_grad_()
    opcheck(fusco.combine.default, (received, weights, state, 24, name))
    opcheck(fusco.combine.default, (received, None, state, 24, name))
    opcheck(fusco.dispatch_weights.default, (weights, state, rows, name))
    opcheck(fusco.dispatch_fp8.default, (x, state, rows, name))
    opcheck(fusco.origins.default, (state, rows, name))
    codes, scales = ft.quantize(x.detach())
    opcheck(fusco.dispatch_quantized.default, (codes, scales, state, rows, name), test_utils="test_faketensor")


# -- gradients


@pytest.mark.parametrize("options", [{}, {"align": 4}, {"sum": "token"}, {"capacity": 3}])
def test_gradcheck_in_float32(inputs, options):
    x, ids, weights, _ = inputs
    shuffle = make(hidden=4, **options)
    x, weights = leaves(x[:12, :4], weights[:12])
    x, ids = x.contiguous().detach().requires_grad_(), ids[:12]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Input #. requires gradient and is not a double precision")
        function = functools.partial(layer, shuffle)
        assert torch.autograd.gradcheck(lambda a, b: function(a, ids, b), (x, weights), eps=1e-3, atol=1e-2)


def test_a_handle_may_be_used_twice(inputs):
    x, ids, weights, gradient = inputs
    shuffle = make()

    def twice(x, ids, weights):
        rows, handle = shuffle.dispatch(x, ids, weights)
        again, _ = shuffle.dispatch(2 * x, handle=handle)
        return shuffle.combine(rows + again, handle)

    def once(x, ids, weights):
        rows, handle = shuffle.dispatch(3 * x, ids, weights)
        return shuffle.combine(rows, handle)

    for found, expected in zip(gradients(twice, *inputs), gradients(once, *inputs)):
        torch.testing.assert_close(found, expected)
    # A second backward pass through a retained graph adds the same gradients again.
    x, weights = leaves(x, weights)
    output = layer(shuffle, x, ids, weights)
    output.backward(gradient, retain_graph=True)
    first = x.grad.clone()
    output.backward(gradient)
    assert torch.equal(x.grad, 2 * first)


def test_a_gradient_of_any_layout_is_taken(inputs):
    x, ids, weights, _ = inputs
    (x,) = leaves(x)
    layer(make(), x, ids, weights).sum().backward()
    expected = x.grad.clone()
    x.grad = None
    layer(make(), x, ids, weights).backward(torch.ones(HIDDEN, 24).t())
    assert torch.equal(x.grad, expected)


def test_only_what_needs_a_gradient_gets_one(inputs):
    x, ids, weights, gradient = inputs
    (weights,) = leaves(weights)
    layer(make(), x, ids, weights).backward(gradient)
    assert weights.grad is not None and x.grad is None
    with torch.no_grad():
        assert not layer(make(), x, ids, weights).requires_grad
    with torch.inference_mode():
        assert torch.equal(layer(make(), x, ids, weights.detach()), layer(make(), x, ids, weights))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_router_weights_of_any_float_dtype_get_a_gradient_of_it(inputs, dtype):
    x, ids, weights, gradient = inputs
    (weights,) = leaves(weights.to(dtype))
    layer(make(), x, ids, weights).backward(gradient)
    assert weights.grad.dtype == dtype


# -- checkpointing and autocast


def test_plain_checkpointing_plans_again(inputs, tmp_path):
    shuffle = make()
    expected = gradients(functools.partial(layer, shuffle), *inputs)
    with shuffle.record(tmp_path):
        found = gradients(
            lambda *args: checkpoint(functools.partial(layer, shuffle), *args, use_reentrant=False), *inputs
        )
    assert_equal(found, expected)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000000", "step-000001"]


def test_selective_checkpointing_saves_the_plan(inputs, tmp_path):
    shuffle = make()
    expected = gradients(functools.partial(layer, shuffle), *inputs)
    contexts = functools.partial(create_selective_checkpoint_contexts, list(ft.SAVED_OPS))
    function = functools.partial(layer, shuffle)
    with shuffle.record(tmp_path):
        found = gradients(lambda *args: checkpoint(function, *args, use_reentrant=False, context_fn=contexts), *inputs)
    assert_equal(found, expected)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000000"]


def test_autocast_leaves_the_dtype_of_rows_to_the_experts(inputs):
    x, ids, weights, _ = inputs
    experts = torch.randn(HIDDEN, HIDDEN, requires_grad=True)
    (x,) = leaves(x)
    shuffle = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows, handle = shuffle.dispatch(x, ids, weights)
        output = shuffle.combine(rows @ experts, handle)
    assert (rows.dtype, output.dtype) == (torch.float32, torch.bfloat16)
    output.sum().backward()
    assert x.grad.dtype == experts.grad.dtype == torch.float32


def test_a_handle_is_a_value(inputs):
    x, ids, weights, gradient = inputs
    shuffle = make()
    x, weights = leaves(x, weights)
    rows, handle = shuffle.dispatch(x, ids, weights)
    assert handle.state.numel() == state_bytes(4, 2, 64)
    expected = shuffle.combine(rows, handle)
    # The group forgets the plan; a copy of the state makes it again, forward and backward.
    plans.clear()
    handle.state = handle.state.clone()
    output = shuffle.combine(rows, handle)
    plans.clear()
    output.backward(gradient)
    assert torch.equal(output, expected) and x.grad.any() and weights.grad.any()
    # An equal group takes it, too; one with other options does not.
    assert torch.equal(torch.ops.fusco.combine(rows, weights, handle.state, 24, make().name), expected)
    with pytest.raises(FuscoError, match="E_OPTION the handle belongs to an ExpertShuffle with other options"):
        torch.ops.fusco.combine(rows, weights, handle.state, 24, make(align=2).name)
    with pytest.raises(FuscoError, match="E_OPTION the tensor is not the state of a handle"):
        torch.ops.fusco.combine(rows, weights, torch.zeros(500, dtype=torch.uint8), 24, shuffle.name)


def test_more_plans_than_are_kept(inputs, monkeypatch):
    x, _, weights, _ = inputs
    shuffle = make()
    plans.clear()
    one = sum(shuffle.plan(inputs[1]).plan().shard_bytes)
    monkeypatch.setattr(plans, "most_bytes", 5 * one)
    x, weights = leaves(x, weights)
    routings = [step(seed, 24, 2, 8)[1] for seed in range(12)]
    outputs = [layer(shuffle, x, ids, weights) for ids in routings]
    assert 3 <= len(plans) <= 6
    torch.stack(outputs).sum().backward()
    found = x.grad
    monkeypatch.undo()
    x, weights = leaves(x.detach(), weights.detach())
    torch.stack([layer(make(), x, ids, weights) for ids in routings]).sum().backward()
    assert torch.equal(found, x.grad)


def test_threads_may_share_a_group():
    shuffle = make(threads=2)
    steps = [step(seed, 24, 2, 8) for seed in range(8)]
    expected = [forward_backward(shuffle, *each) for each in steps]
    failures = []

    def work(thread):
        for _ in range(10):
            for each, result in zip(steps, expected):
                found = forward_backward(shuffle, *each)
                if not all(torch.equal(a, b) for a, b in zip(found, result)):
                    failures.append(thread)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# -- fp8


@pytest.mark.parametrize("hidden", [16, 128, 300])
def test_fp8_rows_are_those_of_a_conversion_there_and_back(hidden):
    x, ids, weights, _, gradient = step(3, 24, 2, 8, hidden)
    shuffle = make(hidden=hidden, fp8=True, align=4)
    assert shuffle.group().options.dtype == "fp8"
    (leaf,) = leaves(x)
    rows, handle = shuffle.dispatch(leaf, ids, weights)
    there_and_back = ft.dequantize(*ft.quantize(x), torch.float32)
    expected, _ = make(hidden=hidden, align=4).dispatch(there_and_back, ids, weights)
    assert torch.equal(rows, expected)
    assert (rows - make(hidden=hidden, align=4).dispatch(x, ids, weights)[0]).abs().max() <= x.abs().max() / 16
    # The gradient passes the conversion as it is.
    shuffle.combine(rows, handle).backward(gradient)
    (plain,) = leaves(x)
    layer_rows, plain_handle = make(hidden=hidden, align=4).dispatch(plain, ids, weights)
    make(hidden=hidden, align=4).combine(layer_rows, plain_handle).backward(gradient)
    assert torch.equal(leaf.grad, plain.grad)


def test_codes_and_scales_travel_as_they_are():
    x, ids, weights, _, _ = step(3, 24, 2, 8, 300)
    shuffle = make(hidden=300, fp8=True, max_recv_rows=48)
    codes, scales = ft.quantize(x)
    assert (codes.dtype, scales.shape) == (torch.float8_e4m3fn, (24, 3))
    (row_codes, row_scales), handle = shuffle.dispatch((codes, scales), ids, weights)
    whole, _ = shuffle.dispatch(x, handle=handle)
    assert torch.equal(ft.dequantize(row_codes, row_scales, torch.float32), whole)
    origins = handle.origins()
    for row, (rank, token, _) in enumerate(origins.tolist()):
        if rank >= 0:
            assert torch.equal(row_codes[row].view(torch.uint8), codes[6 * rank + token].view(torch.uint8))
    assert not row_scales[handle.expert_offsets[-1] :].any()


# -- errors


def refused(code, function, *arguments, **options):
    with pytest.raises(FuscoError) as caught:
        function(*arguments, **options)
    assert caught.value.code == code, caught.value
    assert len(caught.value.hint) > 10
    return caught.value


def test_tensors_that_do_not_fit_are_refused(inputs):
    x, ids, weights, _ = inputs
    shuffle = make()
    dispatch, combine = shuffle.dispatch, shuffle.combine
    rows, handle = dispatch(x, ids, weights)
    refused("E_SHAPE", dispatch, x[:, :8].contiguous(), ids, weights)
    refused("E_SHAPE", dispatch, x[:23], ids, weights)
    refused("E_SHAPE", dispatch, x, ids, weights[:23])
    refused("E_SHAPE", dispatch, x, ids, weights, splits=[1, 2, 3])
    refused("E_SHAPE", dispatch, x, ids, weights, splits=4)
    refused("E_SHAPE", dispatch, x, ids, weights, splits=[1, 2, 3, 4])
    refused("E_SHAPE", combine, rows[:20], handle)
    refused("E_SHAPE", combine, torch.cat([rows, rows]), handle)
    refused("E_SHAPE", make(max_recv_rows=40).combine, rows, make(max_recv_rows=40).dispatch(x, ids)[1])
    refused("E_SHAPE", combine, rows[:, :8].contiguous(), handle)
    assert "x.contiguous()" in refused("E_BUFFER", dispatch, x.t().contiguous().t(), ids, weights).hint
    assert "y.contiguous()" in refused("E_BUFFER", combine, rows.t().contiguous().t(), handle).hint
    refused("E_BUFFER", dispatch, x, ids.t().contiguous().t(), weights)
    refused("E_DTYPE", dispatch, x.double(), ids, weights)
    refused("E_DTYPE", dispatch, x, ids, weights.long())
    refused("E_DTYPE", combine, rows.long(), handle)
    refused("E_DTYPE", dispatch, (x, weights), ids, weights)
    refused("E_BACKEND", dispatch, x.to("meta"), ids, weights)
    refused("E_DTYPE", dispatch, None, ids, weights)
    refused("E_DTYPE", dispatch, [x], ids, weights)
    refused("E_DTYPE", dispatch, x, ids, weights.tolist())
    refused("E_DTYPE", combine, None, handle)
    refused("E_OPTION", dispatch, x)
    refused("E_OPTION", dispatch, x, handle=handle.state)
    refused("E_OPTION", combine, rows, handle.state)
    refused("E_OPTION", dispatch, x, ids, handle=handle)
    refused("E_OPTION", dispatch(x, ids)[1].row_weights)


def test_operators_refuse_what_does_not_fit_their_plan(inputs):
    x, ids, weights, gradient = inputs
    shuffle = make()
    rows, handle = shuffle.dispatch(x, ids, weights)
    ops, state, name = torch.ops.fusco, handle.state, shuffle.name
    splits = [6, 6, 6, 6]
    for code, wrong in (("E_DTYPE", weights.double()), ("E_SHAPE", weights[:, :1]), ("E_SHAPE", weights[:20])):
        refused(code, ops.combine, rows, wrong, state, 24, name)
        refused(code, ops.combine_gradient, gradient, rows, wrong, state, name)
        refused(code, ops.dispatch_weights, wrong, state, -1, name)
    refused("E_SHAPE", ops.combine, rows, weights, state, 25, name)
    refused("E_SHAPE", ops.gather_weights, rows[:, 0], state, 25, name)
    refused("E_ROUTING_DTYPE", ops.plan, ids.float(), name, splits)
    refused("E_ROUTING_DTYPE", ops.plan, ids.long() + 2**32, name, splits)
    refused("E_ROUTING_SHAPE", ops.plan, ids[:, :1], name, splits)
    refused("E_SHAPE", ops.plan, ids, name, [6, 6])
    refused("E_LIMIT", ops.plan, torch.cat([ids] * 8), name, [192, 0, 0, 0])


def test_a_changed_state_is_refused(inputs):
    x, ids, _, _ = inputs
    shuffle = make()
    _, handle = shuffle.dispatch(x, ids)
    other = handle.state.clone()
    other[-1] ^= 1
    ranks = handle.state.clone()
    ranks[12:16] = 255
    for wrong in (other, ranks, handle.state[:-8].clone()):
        plans.clear()
        refused("E_OPTION", torch.ops.fusco.dispatch, x, wrong, -1, shuffle.name)
    plans.clear()
    spread = torch.stack([handle.state, handle.state], 1)[:, 0]
    assert len(torch.ops.fusco.dispatch(x, spread, -1, shuffle.name)) > 0


def test_routings_that_are_wrong_are_refused(inputs):
    x, ids, weights, _ = inputs
    dispatch = make().dispatch
    refused("E_ROUTING_DTYPE", dispatch, x, ids.tolist(), weights)
    refused("E_ROUTING_DTYPE", dispatch, x, ids.float(), weights)
    refused("E_ROUTING_SHAPE", dispatch, x, ids[:, :1], weights)
    wrong = ids.long()
    for value in (8, -2, 2**40, -(2**40), 2**63 - 1):
        wrong[13, 1] = value
        error = refused("E_ROUTING_ID", dispatch, x, wrong, weights)
        assert (error.rank, error.path) == (2, "/ranks/2/tokens/1/k/1")
    wrong[13] = 3
    refused("E_ROUTING_DUPLICATE", dispatch, x, wrong, weights)
    refused("E_LIMIT", make(max_tokens=5).dispatch, x, ids, weights)
    refused("E_MAX_ROWS", make(max_recv_rows=5).dispatch, x, ids, weights)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int16, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64]
)
def test_ids_of_every_integer_dtype_give_the_same_plan(inputs, dtype):
    x, ids, weights, _ = inputs
    shuffle = make()
    assert torch.equal(shuffle.plan(ids.to(dtype)).state, shuffle.plan(ids).state)
    if not dtype.is_signed:
        largest = torch.full((24, 2), 255).to(dtype)
        refused("E_ROUTING_ID", shuffle.plan, largest)


def test_options_that_are_wrong_are_refused():
    refused("E_BACKEND", make, backend="cuda")
    refused("E_BACKEND", make, backend="nccl", ranks=1)
    refused("E_OPTION", make, backend="nccl")
    refused("E_OPTION", make, sms=24)
    refused("E_OPTION", make, devices=0)
    refused("E_OPTION", make, backend="tpu")
    refused("E_OPTION", make, strategy="auto")
    refused("E_OPTION", make, sum="fast")
    refused("E_OPTION", make, ranks=0)
    refused("E_OPTION", make, deadline_ms=-5)
    for experts in (0, 8.0, "8", 65536):
        assert "experts is" in refused("E_OPTION", make, experts=experts).message
    refused("E_OPTION", make, hidden=0)
    refused("E_OPTION", make, topk=300)
    refused("E_OPTION", make, max_recv_rows=0)
    refused("E_OPTION", make, ranks_per_node=3)
    refused("E_OPTION", make, threads=5000)
    refused("E_OPTION", make, threads=-1)
    refused("E_PLACEMENT", make, placement=[0, 1])
    refused("E_PLACEMENT", make, placement=5)
    refused("E_OPTION", make, fp8="no")
    refused("E_OPTION", make, process_group="world")
    refused("E_PLACEMENT", make, placement=[0, 0, 1, 1, 2, 2, 3, "3"])
    refused("E_OPTION", make, process_group=torch.distributed.GroupMember.NON_GROUP_MEMBER)
    refused("E_DTYPE", make, dtype=torch.float64)


def test_a_closed_layer_is_refused(inputs):
    x, ids, weights, gradient = inputs
    (x,) = leaves(x)
    with make() as shuffle:
        rows, handle = shuffle.dispatch(x, ids, weights)
        output = shuffle.combine(rows, handle)
    shuffle.close()
    assert not any(group == shuffle.name for group, _ in plans._kept)
    refused("E_CLOSED", shuffle.dispatch, x, ids, weights)
    refused("E_CLOSED", shuffle.combine, rows, handle)
    refused("E_CLOSED", handle.plan_id)
    refused("E_CLOSED", output.backward, gradient)


def test_zero_tokens():
    shuffle = make()
    empty = torch.empty(0, HIDDEN, requires_grad=True)
    rows, handle = shuffle.dispatch(empty, torch.empty(0, 2, dtype=torch.int64), torch.empty(0, 2))
    output = shuffle.combine(rows, handle)
    output.sum().backward()
    assert (rows.shape, output.shape, empty.grad.shape) == ((0, HIDDEN),) * 3
    assert handle.expert_counts.tolist() == [0] * 8
