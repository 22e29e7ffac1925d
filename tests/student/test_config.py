import pytest
import torch

from student.config import LossConfig, TrainConfig


def test_loss_weights_have_the_documented_defaults():
    loss = LossConfig()
    weights = loss.lambda_k, loss.lambda_v, loss.beta_cos, loss.gamma_kl, loss.delta_ce
    assert weights == (1.0, 1.0, 0.1, 0.01, 1.0)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"lambda_k": -1.0}, r"loss\.lambda_k is -1\.0; give a number >= 0 or a"),
        ({"gamma_kl": float("nan")}, r"loss\.gamma_kl is nan; give a number >= 0"),
        ({"extra": {"mine": -0.1}}, r"loss\.extra\.mine is -0\.1; give a number >= 0"),
        ({"attention_rows": 0}, r"loss\.attention_rows is 0; give an integer >= 1"),
        ({"fade_steps": -1}, r"loss\.fade_steps is -1; give an integer >= 0"),
        ({"fade_to": 1.5}, r"loss\.fade_to is 1\.5; give a number in \[0, 1\]"),
        (
            {"router_signal": "kv"},
            r"'kv'; give one of 'outcome', 'teacher_loss', 'both'",
        ),
        ({"lambda_v": float("inf")}, r"lambda_v is inf; give a number >= 0"),
        ({"temperatures": [1, 0]}, r"loss\.temperatures\[1\] is 0; give a number > 0"),
        ({"terms": {"z_agreement": {"use": "kv_k"}}}, "none of .*z_agreement, .*which"),
        ({"outcome_layers": "top"}, r"'top'; give one of all, upper.*'1,3'"),
    ],
)
def test_loss_settings_out_of_range_are_named(change, error):
    with pytest.raises(ValueError, match=error):
        LossConfig(**change)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"steps": -1}, r"train\.steps is -1; give an integer >= 0 or null"),
        ({"batch_size": 0}, r"train\.batch_size is 0; give an integer >= 1"),
        ({"log_every": 0}, r"train\.log_every is 0; give an integer >= 1"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0; give a number in \(0, 1e"),
        ({"engine": "jax"}, r"'jax'; give one of 'deepspeed', 'torch'"),
        ({"lr_schedule": "step"}, r"'step'; give one of 'cosine', 'linear', 'const"),
        ({"zero_stage": 4}, "zero_stage is 4; give one of 0, 1, 2, 3"),
        ({"bf16": True, "fp16": True}, "exclude each other"),
    ],
)
def test_train_settings_out_of_range_are_named(change, error):
    with pytest.raises(ValueError, match=error):
        TrainConfig(**change)


@pytest.mark.parametrize(
    "rate",
    [
        "learning_rate",
        "matrix_learning_rate",
        "bridge_learning_rate",
        "z_learning_rate",
        "router_learning_rate",
    ],
)
def test_a_rate_that_overflows_a_step_of_adamw_is_refused(rate):
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    with pytest.raises(ValueError, match=rf"train\.{rate} is 1e\+38; give .* 1e\+30"):
        TrainConfig(**{rate: 1e38})
    largest = getattr(TrainConfig(**{rate: 1e30}), rate)
    torch.optim.AdamW([parameter], lr=largest, betas=(0.9, 0.95)).step()
    assert bool(parameter.isfinite())


def test_layer_numbers_are_as_good_as_words():
    for layers in ("all", "upper", "lower", "middle", "0", "1, 3"):
        assert LossConfig(outcome_layers=layers).outcome_layers == layers


def test_gradients_may_go_unclipped():
    assert TrainConfig(max_grad_norm=float("inf")).max_grad_norm == float("inf")
    with pytest.raises(ValueError, match=r"is 0; give a number > 0 or \.inf"):
        TrainConfig(max_grad_norm=0)
