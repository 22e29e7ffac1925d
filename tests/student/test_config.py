import pytest

from student.config import LossConfig, TrainConfig


def test_loss_weights_have_the_documented_defaults():
    loss = LossConfig()
    weights = loss.lambda_k, loss.lambda_v, loss.beta_cos, loss.gamma_kl, loss.delta_ce
    assert weights == (1.0, 1.0, 0.1, 0.01, 1.0)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"lambda_k": -1.0}, r"loss\.lambda_k must be >= 0, got -1\.0"),
        ({"gamma_kl": float("nan")}, r"loss\.gamma_kl must be >= 0, got nan"),
        ({"extra": {"mine": -0.1}}, r"loss\.extra\.mine must be >= 0"),
        ({"attention_rows": 0}, r"loss\.attention_rows must be >= 1"),
        ({"fade_steps": -1}, r"loss\.fade_steps must be >= 0"),
        ({"fade_to": 1.5}, r"loss\.fade_to must be in \[0, 1\], got 1\.5"),
        ({"router_signal": "kv"}, r"'kv'; give one of outcome, teacher_loss, both"),
        ({"outcome_layers": "top"}, r"'top'; give one of all, upper.*'1,3'"),
    ],
)
def test_loss_settings_out_of_range_are_named(change, error):
    with pytest.raises(ValueError, match=error):
        LossConfig(**change)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"steps": -1}, r"train\.steps must be >= 0, got -1"),
        ({"batch_size": 0}, r"train\.batch_size must be >= 1"),
        ({"log_every": 0}, r"train\.log_every must be >= 1"),
        ({"learning_rate": 0.0}, r"train\.learning_rate must be > 0"),
        ({"engine": "jax"}, r"'jax'; give one of deepspeed, torch"),
        ({"lr_schedule": "step"}, r"'step'; give one of cosine, linear, constant"),
        ({"zero_stage": 4}, "give 0, 1, 2 or 3"),
        ({"bf16": True, "fp16": True}, "exclude each other"),
    ],
)
def test_train_settings_out_of_range_are_named(change, error):
    with pytest.raises(ValueError, match=error):
        TrainConfig(**change)


def test_layer_numbers_are_as_good_as_words():
    for layers in ("all", "upper", "lower", "middle", "0", "1, 3"):
        assert LossConfig(outcome_layers=layers).outcome_layers == layers
