"""A checkpoint's config and kind, known before its weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.errors import InputError, MissingFileError
from teacher.loading.model_files import check_index, not_found, refuse_adapter
from teacher.loading.remote_code import code_folder
from teacher.names import model_source


def read_config(name: str, trust_remote_code: bool = False) -> tuple[Any, str]:
    """A model's transformers config and its kind, without its weights.

    Args:
        name: a folder or hub name, as of :func:`load_model`.
        trust_remote_code: run Python files that come with the model.

    Raises:
        FileNotFoundError: no such model.
        ValueError: its config cannot be used, or it is no language model.
    """
    source = str(code_folder(name)) if trust_remote_code else model_source(name)
    config = load_config(name, source, {"trust_remote_code": trust_remote_code})
    return config, kind_of(name, config)


def load_config(name: str, source: str, hub: dict[str, Any]) -> Any:
    """The same of a model whose place is known, without its kind.

    Args:
        name: what the user calls the model, for errors.
        source: its folder or hub name.
        hub: ``trust_remote_code`` and, of the hub, ``revision``.
    """
    from transformers import AutoConfig

    refuse_adapter(name, source, hub.get("revision"))
    check_index(source)
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise MissingFileError(
            f"model {name!r}: folder {source} has no config.json; give the folder "
            "that save_pretrained wrote"
        )
    try:
        return AutoConfig.from_pretrained(source, **hub)
    except (OSError, ValueError) as error:
        if not Path(source).is_dir():
            if isinstance(error, OSError):
                raise not_found(name, source, error) from error
            if "custom code" in str(error):
                raise custom_code(name, source) from error
            raise InputError(f"model {name!r} cannot be loaded: {error}") from error
        reason = str(error).splitlines()[0]
        if "custom code" in reason:
            raise custom_code(name, source) from error
        raise InputError(
            f"model {name!r}: {source}/config.json cannot be used: {reason}; copy it "
            "again from where the model came from"
        ) from error


def custom_code(name: str, source: str) -> InputError:
    """Say that a model brings code of its own, and what to do."""
    return InputError(
        f"model {name!r}: {source} needs Python code of its own (auto_map in "
        "config.json), which is not run: give a model of a type that transformers "
        "knows by itself, or, having read that code, set teachers.NAME."
        "trust_remote_code=true where it teaches, student.trust_remote_code=true where "
        "it learns, or load it in a program of yours "
        "with load_model(..., trust_remote_code=True)"
    )


def kind_of(name: str, config: Any) -> str:
    """The kind of model that a transformers config describes.

    Raises:
        ValueError: it is no language model that teaches.
    """
    from transformers.models.auto import modeling_auto as auto

    architecture = (getattr(config, "architectures", None) or [""])[0]
    if architecture.endswith("EncoderModel"):
        return "encoder"
    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    model_type = config.model_type
    masked = model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if architecture.endswith(("CausalLM", "LMHeadModel")) and causal:
        return "decoder"
    if masked and not getattr(config, "is_decoder", False):
        return "encoder"
    if causal or "AutoModelForCausalLM" in getattr(config, "auto_map", {}):
        return "decoder"
    raise InputError(
        f"model {name!r} of type {model_type!r} is no language model that teaches; "
        "supported are causal decoders, masked encoders and encoder-decoders"
    )
