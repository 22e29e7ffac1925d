"""Words of the trade find our settings."""

import pytest

from experiments.config.parsing import ConfigError
from experiments.config.schema import valid_names
from experiments.config.synonyms import _SAID, called_here
from experiments.config.tree import Config, load_config


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        ("train.gradient_accumulation_steps", "'train.grad_accum'"),
        ("per_device_train_batch_size", "'train.batch_size'"),
        ("train.lr", "'train.learning_rate'"),
        ("epochs", "'train.num_epochs'"),
        ("num_train_epochs", "'train.num_epochs'"),
        ("max_steps", "'train.steps'"),
        ("max_seq_length", "'data.max_length'"),
        ("train.warmup_ratio", "'train.warmup_steps', a number of optimiser steps"),
        ("temperature", "'output.temperature' for what teachers predict"),
        ("train.alpha", "'output.kd', the weight of what teachers predict"),
        ("output_dir", "'run.dir'"),
        ("logging-steps", "'train.log_every'"),
        ("save_steps", "'train.checkpoint_every'"),
        ("train.seed", "'run.seed'"),
        ("teacher_models", "'teachers', a list of models"),
        ("teacher_model", "'teachers', a list of models"),
        ("student_model", "'student.model'"),
        ("phase.routing.train.lr", "'phase.routing.train.learning_rate'"),
    ],
)
def test_the_words_of_other_trainers_name_our_settings(typed, ours):
    with pytest.raises(ConfigError) as refused:
        load_config(None, [f"{typed}=1"])
    key = f"unknown config key {typed!r}; here it is "
    assert str(refused.value).startswith(key + ours)


@pytest.mark.parametrize("word", ["weight_decay", "fp16", "bf16"])
def test_a_word_we_share_is_found_in_its_section(word):
    with pytest.raises(ConfigError, match=f"did you mean 'train.{word}'"):
        load_config(None, [f"{word}=1"])


def test_every_synonym_leads_to_a_setting_and_is_none_itself():
    valid = set(valid_names(Config))
    for word, (setting, told) in _SAID.items():
        assert setting in valid, word
        assert f"'{setting}" in told
        assert word not in valid, word


def test_the_keys_own_section_is_looked_into_first():
    valid = list(valid_names(Config))
    assert called_here("student.alpha", valid) is None  # student.lora.alpha
    assert called_here("nonsense", valid) is None
