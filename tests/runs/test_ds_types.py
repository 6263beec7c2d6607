"""Reading DeepSpeed's JSON: everything its own reader accepts is accepted, and types are checked before anything starts."""

import os
import time

import pytest

from mat_ds.engine.ds_config import ds_config_problems
from mat_ds.errors import UserError
from mat_ds.ranks.world import World
from mat_ds.runs.ds_config import complete, read_ds_config
from mat_ds.runs.ds_types import idle
from mat_ds.runs.options import RunConfig


def problems(tree):
    found = ds_config_problems(tree, RunConfig(), World())
    return {problem.key.removeprefix("ds_config "): problem for problem in found}


def write(folder, content):
    path = folder / "ds.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(folder, content):
    with pytest.raises(UserError) as caught:
        read_ds_config(write(folder, content))
    (found,) = caught.value.problems
    assert found.key == "--ds_config" and str(folder) in str(found.value)
    return found.reason


@pytest.mark.parametrize(
    "content",
    [
        '{"zero_optimization": {"stage": 2}, "bf16": {"enabled": false}}',
        '// mine\n{"zero_optimization": {"stage": 2,}, /* none */ "bf16": {"enabled": false},}  # end\n',
        '\ufeff{"zero_optimization": {"stage": 2}, "bf16": {"enabled": false, "auto_cast": null}}',
        '{"zero_optimization": {"stage": 2} // no comma\n "bf16": {"enabled": false}}',
    ],
)
def test_everything_that_deepspeeds_reader_accepts_is_accepted(content, tmp_path):
    assert read_ds_config(write(tmp_path, content)) == {"zero_optimization": {"stage": 2}, "bf16": {"enabled": False}}


@pytest.mark.parametrize("comment", ["", "// a comment\n"])
def test_a_duplicate_key_is_named_with_both_values(comment, tmp_path):
    reason = refusal(tmp_path, comment + '{"zero_optimization": {"stage": 1}, "fp16": {}, "zero_optimization": {"stage": 3}}')
    assert all(part in reason for part in ("zero_optimization", '{"stage": 1}', '{"stage": 3}'))
    reason = refusal(tmp_path, comment + '{"zero_optimization": {"stage": 1, "stage": 2}}')
    assert "'stage' twice, as 1 and as 2" in reason


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"steps_per_print": NaN}', "not a finite number"), ('{"steps_per_print": -Infinity}', "not a finite number"),
        ('{"a": 1e999}', "not a finite"), ('{"zero_optimization": {"reduce_bucket_size": 1' + "0" * 30 + "}}", "64 bits"),
        ('{"a": 1' + "0" * 5000 + "}", "is not"), ("[" * 100_000, "deep"), ('{"a": ' * 60 + "1" + "}" * 60, "deep"),
        ('{"a": ' * 100_000, "deep"), ("// c\n" + "[" * 50_000, "deep"), ("", "not a JSON object"), ("a: b", ""),
        ('{"a": 1', "is not JSON"), ('{"a": 1} /* x', "comment"),
        (b'{"a": "\xff"}', "UTF-8"), ("#" * 2_000_000, "bytes"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
    ],
)  # fmt: skip
def test_malformed_files_are_refused_within_seconds(content, said, tmp_path):
    begin = time.process_time()
    if said:
        assert said in refusal(tmp_path, content)
    else:  # DeepSpeed's reader accepts it without quotes and braces
        assert read_ds_config(write(tmp_path, content)) == {"a": "b"}
    assert time.process_time() - begin < 15


def test_a_pipe_in_place_of_the_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "ds.json")
    with pytest.raises(UserError, match="not a regular file"):
        read_ds_config(tmp_path / "ds.json")


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("steps_per_print", ["inf", "10", 0, -1, 1.5, True, [1]], [1, 10**9, "auto"]),
        ("gradient_predivide_factor", ["2", 0, -1.0, True], [2, 0.5]),
        ("wall_clock_breakdown", ["true", 1, "yes"], [True, False]),
        ("prescale_gradients", ["false", 0], [False]),
        ("memory_breakdown", ["on"], [True]), ("dump_state", [1], [True]), ("disable_python_gc", ["x"], [False]),
        ("communication_data_type", ["float99", 16, True], ["fp16", "bf16", "fp32"]),
        ("log_level", ["loud", 3], ["debug", "error"]),
        ("zero_optimization", [2, "2", [], {"stage": "2"}, {"stage": 4}, {"stage": True}, {"stage": 2.5}], [{"stage": 2}]),
        ("flops_profiler", [True, {"enabled": "yes"}, {"profile_step": 0}, {"top_modules": "3"}, {"output_file": 3},
                            {"output_file": "/"}, {"output_file": "a\0"}, {"output_file": "profile.txt"}],
         [{"enabled": False, "profile_step": 2, "output_file": None}]),
        ("comms_logger", [True, {"enabled": 1}, {"prof_all": "perhaps"}, {"prof_ops": "all"}], [{"enabled": False}]),
        ("data_types", ["fp32", {"grad_accum_dtype": "double"}, {"grad_accum_dtype": 32}], [{"grad_accum_dtype": "fp32"}]),
        ("activation_checkpointing", [True, []], [{"partition_activations": False}]),
        ("timers", [1, {"throughput": True}, {"throughput": {"enabled": "yes"}}, {"throughput": {"synchronized": "x"}}],
         [{}, {"throughput": {"enabled": False}}]),
        ("fp16", [{"loss_scale": "much"}, {"loss_scale_window": True}, {"hysteresis": "x"}, {"fp32": 1}, {"hysteresis": 0},
                  {"initial_scale_power": 500}, {"initial_scale_power": -1}],
         [{}, {"hysteresis": "auto", "loss_scale": "auto"}]),
    ],
)  # fmt: skip
def test_types_are_checked_before_anything_starts(key, wrong, right):
    for value in wrong:
        found = problems({key: value})
        assert found and all(problem.reason and problem.fix for problem in found.values()), value
        assert any(name.startswith(key) or name == "--ds_config" for name in found)
    for value in right:
        assert not problems({key: value}), value


@pytest.mark.parametrize(
    ("section", "slip", "meant"),
    [
        ("data_types", {"grad_accum_dtyp": "fp32"}, "grad_accum_dtype"),
        ("flops_profiler", {"module_dept": 2}, "module_depth"),
        ("timers", {"througput": {}}, "throughput"),
        ("activation_checkpointing", {"profil": True}, "profile"),
        ("optimizer", {"typ": "SGD"}, "type"),
        ("scheduler", {"parms": {"warmup_num_steps": 5}}, "params"),
    ],
)
def test_a_misspelt_key_that_deepspeed_would_ignore_is_named(section, slip, meant):
    ((key, problem),) = problems({section: slip}).items()
    assert key == f"{section}.{next(iter(slip))}" and f"did you mean {meant!r}?" == problem.fix


@pytest.mark.parametrize(
    ("section", "slip"),
    [
        ("bf16", {"enable": True}),
        ("fp16", {"enabled": False, "loss_scal": 1}),
        ("zero_optimization", {"stag": 3}),
        ("comms_logger", {"verbos": True}),
    ],
)
def test_a_misspelt_key_that_deepspeed_refuses_is_named_with_its_section(section, slip):
    (key,) = problems({section: slip})
    assert key == f"{section}.{list(slip)[-1]}"


def test_types_of_gradients_that_the_engine_cannot_mix_are_refused():
    half = {"data_types": {"grad_accum_dtype": "bf16"}}
    assert "computes in fp32" in problems(half)["data_types.grad_accum_dtype"].reason
    assert not problems({**half, "bf16": {"enabled": True}}) and not problems({**half, "zero_optimization": {"stage": 1}})
    whole = {"data_types": {"grad_accum_dtype": "fp32"}, "bf16": {"enabled": True}}
    assert set(problems(whole)) == {"data_types.grad_accum_dtype"}
    assert not problems({**whole, "zero_optimization": {"stage": 1}})
    tree = {"data_types": {"param_dtype": "bf16"}, "zero_optimization": {"stage": 2, "compute_grad_norm": False}}
    assert set(problems(tree)) == {"data_types.param_dtype", "zero_optimization.compute_grad_norm"}


def test_words_for_true_and_false_are_read_as_deepspeed_reads_them_and_refused_elsewhere():
    zero = {"stage": 1, "overlap_comm": "true", "contiguous_gradients": "perhaps", "round_robin_gradients": "auto"}
    assert set(problems({"zero_optimization": zero})) == {"zero_optimization.overlap_comm"}
    assert set(problems({"zero_optimization": {**zero, "overlap_comm": "auto"}})) == {"zero_optimization.contiguous_gradients"}
    assert set(problems({"zero_optimization": {"compute_grad_norm": "no"}})) == {"zero_optimization.compute_grad_norm"}
    offload = {"device": "cpu", "pin_memory": "no"}
    assert not problems({"zero_optimization": {"stage": 2, "contiguous_gradients": "yes", "offload_optimizer": offload}})


def test_integers_may_be_written_as_floats():
    assert not problems({"zero_optimization": {"stage": 2, "reduce_bucket_size": 5e8, "allgather_bucket_size": 2e8}})


def test_an_auto_precision_is_refused_with_the_cards_for_each_precision():
    found = problems({"fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"}})
    assert set(found) == {"fp16.enabled", "bf16.enabled"}
    assert all(word in problem.fix for problem in found.values() for word in ("8.0", "fp16", "bf16", "fp32"))


def test_sections_without_effect_are_reported():
    tree = {
        "activation_checkpointing": {},
        "fp16": {"loss_scale": 0},
        "bf16": {"enabled": False},
        "zero_optimization": {"stage": 2, "stage3_prefetch_bucket_size": 1, "sub_group_size": 3, "overlap_comm": True},
    }
    said = list(idle(tree))
    assert len(said) == 3 and "model.gradient_checkpointing" in said[0]
    assert (
        "stage3_prefetch_bucket_size, sub_group_size do nothing at ZeRO stage 2" in said[1] and "fp16 does nothing" in said[2]
    )
    bucket = {"zero_optimization": {"stage": 1, "reduce_bucket_size": 1000}}
    assert "reduce_bucket_size do nothing at ZeRO stage 1" in next(idle(bucket))
    assert not list(idle({**bucket, "wall_clock_breakdown": True}))  # then DeepSpeed's own updates are made, and measured
    assert "offload_optimizer" in next(idle({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}))
    three = {"zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": 1}, "bf16": {"enabled": True}}
    assert not list(idle(three, "model")) and next(idle({}, "layer")).startswith("model.gather=layer does nothing")


def test_deepspeed_gets_the_users_configuration_with_auto_filled_in():
    done = complete({"steps_per_print": "auto", "communication_data_type": "auto"}, RunConfig(), World())
    assert done["steps_per_print"] == 10**9 and "communication_data_type" not in done


def test_the_throughput_timer_is_off_by_default():
    assert not complete({}, RunConfig(), World())["timers"]["throughput"]["enabled"]
    asked = {"timers": {"throughput": {"enabled": True}}}
    assert complete(asked, RunConfig(), World())["timers"] == asked["timers"]
