import pytest

from fuse.config import FuseConfig


def test_the_documented_defaults():
    config = FuseConfig()
    assert config.entropy_reg_strength == 0.01
    assert config.entropy_target == "specialized"
    assert config.fusion_method == "fixed"
    assert config.router == "fixed" and config.space_name == "student"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"temperature": 0}, r"fuse\.temperature is 0; give a number > 0"),
        ({"temperature": float("nan")}, r"fuse\.temperature is nan; give a number > 0"),
        ({"entropy_reg_strength": -0.1}, r"strength is -0\.1; give a number >= 0"),
        ({"entropy_warmup_steps": -1}, r"warmup_steps is -1; give an integer >= 0"),
        ({"entropy_target": "sharp"}, r"'sharp'; give one of 'specialized', 'diverse'"),
        ({"similarity": "l1"}, r"fuse\.similarity is 'l1'; give one of 'cosine'"),
        ({"routing_level": "layer"}, r"give one of 'sample', 'token'"),
        ({"prototype_method": "median"}, r"give one of 'mean', 'cls', 'kmeans'"),
        ({"space": ""}, r"fuse\.space is ''; give a registered name"),
        ({"lambda_agreement": -1}, r"lambda_agreement is -1; give a number >= 0"),
        ({"num_clusters": 0}, r"num_clusters is 0; give an integer >= 1"),
        ({"z_dim": 0}, r"z_dim is 0; give an integer >= 1"),
        ({"z_agreement": "l1"}, r"give one of 'cosine', 'mse'"),
        ({"weights": []}, r"fuse\.weights is empty"),
        ({"weights": [0.5, -0.5]}, r"fuse\.weights\[1\] is -0.5"),
        ({"weights": [0.0, 0.0]}, r"fuse\.weights is all zero"),
        ({"router_type": {"prior": 2}}, r"fuse\.router_type is .*\{use: NAME\}"),
        ({"fusion_method": " "}, r"fuse\.fusion_method is ' '"),
    ],
)
def test_a_bad_value_is_named_with_what_is_valid(bad, message):
    with pytest.raises(ValueError, match=message):
        FuseConfig(**bad)


def test_what_weighs_is_a_router_and_learnable_stands_for_the_router_type():
    assert FuseConfig(fusion_method="learnable", router_type="gate").router == "gate"
    assert FuseConfig(fusion_method="dirichlet").router == "dirichlet"
    near = FuseConfig(fusion_method="similarity", router_type="gate", temperature=2.0)
    assert near.router == "similarity"
    assert near.router_options == {
        "temperature": 2.0,
        "similarity": "cosine",
        "prototype_method": "mean",
        "num_clusters": 4,
    }


def test_a_choice_may_carry_options_which_win_over_the_settings():
    sharp = {"use": "similarity", "temperature": 0.1}
    assert FuseConfig(fusion_method=sharp).router_options["temperature"] == 0.1
    prior = {"use": "dirichlet", "prior": 2.0}
    for config in (
        FuseConfig(fusion_method=prior),
        FuseConfig(fusion_method="learnable", router_type=prior),
    ):
        assert (config.router, config.router_options) == ("dirichlet", {"prior": 2.0})
    narrow = FuseConfig(space={"use": "z", "z_dim": 8}, z_dim=12)
    assert narrow.space_name == "z" and narrow.space_options["z_dim"] == 8
    assert FuseConfig(weights=[1.0, 3.0]).router_options == {"weights": [1.0, 3.0]}


def test_the_latents_settings_are_the_space_zs_options_and_nobody_elses():
    options = FuseConfig(space="z", z_dim=12, lambda_agreement=0.5).space_options
    assert options == {
        "z_dim": 12,
        "z_hidden": 0,
        "z_agreement": "mse",
        "lambda_reconstruction": 1.0,
        "lambda_agreement": 0.5,
    }
    assert FuseConfig(space="losses", z_dim=12).space_options == {}
