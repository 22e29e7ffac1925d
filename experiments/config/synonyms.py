"""Words of the trade for what settings are called here.

Who comes from another trainer types its words. Some are unlike ours
(``gradient_accumulation_steps``), others like the wrong one of ours, so that the
nearest name by letters would mislead.
"""

from __future__ import annotations

from collections.abc import Iterable

_WORDS: dict[str, str] = {
    "train.grad_accum": "gradient_accumulation_steps gradient_accumulation "
    "grad_accumulation grad_accumulation_steps accumulate_grad_batches "
    "accumulation_steps grad_acc",
    "train.batch_size": "per_device_train_batch_size train_batch_size "
    "micro_batch_size train_micro_batch_size_per_gpu batch bs",
    "train.learning_rate": "lr base_lr peak_lr max_lr",
    "train.num_epochs": "epochs epoch n_epochs num_train_epochs max_epochs",
    "train.steps": "max_steps num_steps total_steps train_steps num_train_steps "
    "max_train_steps iterations iters max_iters",
    "train.warmup_steps": "warmup num_warmup_steps warmup_iters",
    "train.weight_decay": "wd",
    "train.lr_schedule": "lr_scheduler_type lr_scheduler scheduler schedule",
    "train.optimizer": "optim optimiser",
    "train.max_grad_norm": "gradient_clipping clip_grad clip_grad_norm grad_clip "
    "gradient_clip_val clip",
    "train.gradient_checkpointing": "activation_checkpointing checkpoint_activations",
    "train.log_every": "logging_steps log_steps log_interval log_every_n_steps "
    "print_freq",
    "train.checkpoint_every": "save_steps save_every save_interval "
    "checkpoint_interval ckpt_every checkpointing_steps",
    "train.keep_checkpoints": "save_total_limit max_checkpoints",
    "train.fp16": "half float16",
    "train.bf16": "bfloat16",
    "train.compile": "torch_compile",
    "train.zero_stage": "zero stage zero_optimization",
    "data.max_length": "max_seq_length max_seq_len seq_len seq_length "
    "sequence_length context_length block_size cutoff_len model_max_length max_len",
    "data.train": "dataset dataset_name dataset_path train_file train_data "
    "train_dataset data_path data_files",
    "data.eval": "eval_file eval_data eval_dataset validation_file val_file valid "
    "val_data",
    "data.text_field": "text_column dataset_text_field text_key",
    "run.name": "run_name experiment_name exp_name",
    "run.seed": "seed random_seed",
    "student.model": "student_model student_model_name_or_path student_name "
    "student_path model_name model_name_or_path base_model pretrained",
    "student.lora.rank": "lora_r lora_rank",
    "student.lora.alpha": "lora_alpha",
    "student.lora.dropout": "lora_dropout",
    "student.lora.targets": "target_modules lora_target lora_target_modules",
    "output.kd": "kd_weight kl_weight distill_weight distillation_weight lambda_kd "
    "kd_loss_weight alpha_kd",
    "loss.delta_ce": "ce_weight alpha_ce lm_weight hard_loss_weight",
    "output.divergence": "kd_loss loss_type distill_loss kl_type",
}

_LONGER: dict[str, tuple[str, str]] = {
    "warmup_ratio": (
        "train.warmup_steps",
        "'train.warmup_steps', a number of optimiser steps and no share of them",
    ),
    **dict.fromkeys(
        ("temperature", "kd_temperature", "distill_temperature", "tau", "t"),
        (
            "output.temperature",
            "'output.temperature' for what teachers predict, 'fuse.temperature' for "
            "the router",
        ),
    ),
    **dict.fromkeys(
        ("alpha", "kd_alpha", "distill_alpha", "distillation_alpha"),
        (
            "output.kd",
            "'output.kd', the weight of what teachers predict, beside 'loss.delta_ce', "
            "the weight of the next token",
        ),
    ),
    **dict.fromkeys(
        ("output_dir", "out_dir", "save_dir", "output_path"),
        ("run.dir", "'run.dir', the folder of all runs, and 'run.name', one in it"),
    ),
    **dict.fromkeys(
        (
            "teacher",
            "teacher_model",
            "teacher_models",
            "teacher_name",
            "teacher_path",
            "teacher_model_path",
            "teacher_model_name_or_path",
        ),
        ("teachers", "'teachers', a list of models: teachers=[gpt2, ./opt]"),
    ),
    **dict.fromkeys(
        ("mixed_precision", "precision", "amp"),
        ("train.bf16", "'train.bf16' (true, false or auto) or 'train.fp16'"),
    ),
    **dict.fromkeys(
        ("load_in_4bit", "load_in_8bit", "quantization", "quantize"),
        (
            "student.quantise",
            "'student.quantise' or 'teachers.NAME.quantise': none, int8 or int4",
        ),
    ),
    **dict.fromkeys(
        ("torch_dtype", "dtype"),
        ("student.dtype", "'student.dtype' or 'teachers.NAME.dtype'"),
    ),
    "deepspeed": ("train.engine", "'train.engine=deepspeed' with 'train.zero_stage'"),
}

_SAID: dict[str, tuple[str, str]] = {
    **{
        word: (setting, repr(setting))
        for setting, words in _WORDS.items()
        for word in words.split()
    },
    **_LONGER,
}
"""A word -> the setting that it means, and how to say so."""


def called_here(path: str, valid: Iterable[str]) -> str | None:
    """Say what an unknown setting is called here, None where the word is no synonym.

    Args:
        path: the whole dotted key as given; its last part is the word. Within
            ``phase.NAME`` the answer is too, where phases have the setting.
        valid: dotted names that exist; where the key's own section has the very word
            further down, that is meant.

    Returns:
        Such as ``'train.grad_accum'``, quoted, with a remark where one is due.
    """
    names = set(valid)
    section, _, word = path.lower().replace("-", "_").rpartition(".")
    top = section.partition(".")[0]
    if any(n.startswith(f"{top}.") and n.endswith(f".{word}") for n in names if top):
        return None
    setting, advice = _SAID.get(word, ("", ""))
    if setting not in names:
        return None
    parts = path.split(".")
    if parts[0] == "phase" and f"phase.<name>.{setting}" in names:
        advice = advice.replace(f"'{setting}", f"'phase.{parts[1]}.{setting}")
    return advice
