"""Load teachers and students from the hub or a folder.

Weights come from safetensors only: a pickle runs code when it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from align.bounds.finite import not_finite
from align.errors import InputError
from align.products.cpu import avoid_broken_amx
from align.products.primitive_cache import bound_primitive_caches
from align.support.quiet import quiet_attempt
from teacher.hub.pinned import fetch_weights
from teacher.loading.attention import attention_options, said_of_attention
from teacher.loading.fresh import fresh_model
from teacher.loading.model_config import (
    custom_code,
    kind_of,
    load_config,
    read_config,
)
from teacher.loading.model_files import (
    damaged,
    incomplete,
    misfits,
    no_weights,
    unused_layers,
)
from teacher.loading.remote_code import code_folder
from teacher.loading.tokenizer import largest_id, load_tokenizer
from teacher.loading.vocabulary import GivenVocabulary
from teacher.loading.vouched import check_vouched
from teacher.names import at_revision, model_source, pinned

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ROLES = ("teacher", "student")


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model with the tokenizer it was trained with."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    kind: str
    """decoder, encoder or encoder-decoder."""
    name: str
    """As asked for: a hub name, a folder, ``zoo:NAME``, ``zoo:SCALE/NAME`` or
    ``pkg:NAME``."""


def load_model(
    name_or_path: str | Path,
    *,
    role: str = "teacher",
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    resolve: Callable[[str], Path] | None = None,
    init_seed: int | None = None,
    vocabulary: str | None = None,
    attn_implementation: str = "auto",
    weightless: bool = False,
    tokenizer: Any = None,
) -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        name_or_path: see :func:`teacher.names.model_source`.
        role: a "teacher" is frozen and in evaluation mode; a "student" is
            trainable and in training mode.
        dtype: of the weights, a torch dtype or its name; None keeps the
            checkpoint's for a teacher and takes float32 for a student, whose
            small updates bf16 would round away.
        trust_remote_code: run Python files that come with the model.
        revision: branch, tag or commit on the hub; may also be behind the name, as
            ``org/name@revision``.
        resolve: see there.
        init_seed: draw a student's weights anew from this seed, in place of the
            checkpoint's, which need not exist.
        vocabulary: of weights drawn anew, the model whose tokenizer it gets.
        attn_implementation: of transformers, such as "eager"; "auto" is its choice.
        weightless: leave a checkpoint's weights unread, on ``meta``: it cannot be run.
        tokenizer: the model's, where it has been loaded before; None loads it.

    Returns:
        The model, on the CPU, and its fast tokenizer.

    Raises:
        FileNotFoundError: no such model, or no safetensors or tokenizer in it.
        ValueError: damaged, incomplete or not finite weights, other files than a run
            wrote, a slow tokenizer, ids beyond the embedding, an unknown role, dtype or
            kind, or new weights for what predicts no text.
    """
    if role not in ROLES:
        raise InputError(f"role={role!r}; valid are {', '.join(ROLES)}")
    avoid_broken_amx()
    bound_primitive_caches()
    name = at_revision(str(name_or_path), revision, "model")
    source = model_source(name, resolve)
    if trust_remote_code:
        source = str(code_folder(source))
    check_vouched(name, source)
    hub: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    config = load_config(name, source, hub)
    kind = kind_of(name, config)
    wanted = _dtype(dtype, role)
    model: Any
    given: GivenVocabulary | None = None
    if init_seed is None:
        if Path(source).parent.name == "snapshots" and not Path(name).exists():
            fetch_weights((pinned(name) or (name,))[0], Path(source))
        options = hub | {"dtype": wanted} | attention_options(attn_implementation)
        options |= {"device_map": "meta"} if weightless else {}
        with said_of_attention(name, attn_implementation):
            model = _load_weights(name, source, kind, options)
    elif role == "student" and kind != "encoder" and isinstance(wanted, torch.dtype):
        if vocabulary is not None:
            given = GivenVocabulary.of(vocabulary)
            given.write_into(config)
            tokenizer = given.tokenizer
        with said_of_attention(name, attn_implementation):
            options = attention_options(attn_implementation)
            model = fresh_model(config, init_seed, wanted, trust_remote_code, **options)
        _take_generation_settings(model, source)
        if given is not None:
            given.write_into(model.generation_config)
    else:
        raise InputError(
            f"model {name!r} is loaded as the {role} and is an {kind}; only weights of "
            "a student that predicts text can be drawn anew"
        )
    tokenizer = load_tokenizer(name, source, hub) if tokenizer is None else tokenizer
    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    most = largest_id(tokenizer)
    if most >= rows:
        raise InputError(
            f"model {name!r}: its tokenizer knows {len(tokenizer)} tokens, with ids up "
            f"to {most}, but its embedding has {rows} rows, for ids up to {rows - 1}; "
            "the tokenizer belongs to another model, or tokens were added without "
            "resize_token_embeddings"
        )
    if not weightless:
        _check_finite(name, model)
    _answer_by_name(model)
    if role == "student":
        _check_trainable(name, model)
    model.train(role == "student")
    model.requires_grad_(role == "student")
    return LoadedModel(model, tokenizer, kind, name)


def checkpoint_dtypes(
    name: str, fresh: bool = False, trust_remote_code: bool = False
) -> dict[str, torch.dtype]:
    """The types of a model's weights as its files have them, unread.

    Args:
        name: as of :func:`load_model`.
        fresh: there may be no weights; take what its config.json says, or float32.
        trust_remote_code: run Python files that come with the model.

    Returns:
        By parameter and buffer; where an architecture holds some in float32 whatever
        the rest is in, they are.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    source = str(code_folder(name)) if trust_remote_code else model_source(name)
    hub = {"trust_remote_code": trust_remote_code}
    if fresh:
        config = load_config(name, source, hub)
        dtype = getattr(config, "dtype", None) or config.get_text_config().dtype
        with torch.device("meta"):
            model = fresh_model(config, 0, dtype or torch.float32, trust_remote_code)
    else:
        both = read_config(name, trust_remote_code)[1] == "encoder-decoder"
        auto = AutoModelForSeq2SeqLM if both else AutoModelForCausalLM
        model = auto.from_pretrained(
            source, dtype="auto", device_map="meta", use_safetensors=True, **hub
        )
    return {key: tensor.dtype for key, tensor in model.state_dict().items()}


def _dtype(dtype: str | torch.dtype | None, role: str) -> str | torch.dtype:
    if dtype is None:
        return "auto" if role == "teacher" else torch.float32
    if isinstance(dtype, torch.dtype):
        return dtype
    torch_dtype = getattr(torch, dtype, None)
    if not isinstance(torch_dtype, torch.dtype) or not torch_dtype.is_floating_point:
        raise InputError(f"dtype={dtype!r}; valid are float32, bfloat16, float16")
    return torch_dtype


def _load_weights(
    name: str, source: str, kind: str, options: dict[str, Any]
) -> PreTrainedModel:
    import transformers

    heads_of: dict[str, list[Any]] = {
        "decoder": [transformers.AutoModelForCausalLM],
        # An encoder may come without its masked-language-model head.
        "encoder": [
            transformers.AutoModelForMaskedLM,
            transformers.AutoModelForTextEncoding,
            transformers.AutoModel,
        ],
        "encoder-decoder": [transformers.AutoModelForSeq2SeqLM],
    }
    heads = heads_of[kind]
    missing: list[str] = []
    others: list[str] = []
    for auto in heads:
        try:
            with nullcontext() if auto is heads[-1] else quiet_attempt():
                model, missing, others = _try_load(name, source, auto, options)
        except InputError:
            raise
        except ValueError as error:
            if "Unrecognized configuration" in str(error) and auto is not heads[-1]:
                continue
            if "custom code" in str(error):
                raise custom_code(name, source) from error
            raise InputError(f"model {name!r} cannot be loaded: {error}") from error
        if not missing:
            unused = unused_layers(name, model, others)
            if unused is not None:
                raise InputError(unused)
            return model
    raise InputError(incomplete(name, missing, others))


def _try_load(
    name: str, source: str, auto: Any, options: dict[str, Any]
) -> tuple[PreTrainedModel, list[str], list[str]]:
    from safetensors import SafetensorError

    try:
        model, info = auto.from_pretrained(
            source, use_safetensors=True, output_loading_info=True, **options
        )
    except SafetensorError as error:
        raise damaged(name, source, error) from error
    except (OSError, JSONDecodeError) as error:  # of weights, and of their index
        raise no_weights(name, source, error) from error
    except RuntimeError as error:
        raise InputError(_unfitting(name, source, auto, options, error)) from error
    pooler = "pooler."  # next-sentence prediction only; not on the way of the KV
    missing = sorted(key for key in info["missing_keys"] if pooler not in key)
    return model, missing, sorted(info["unexpected_keys"])


def _unfitting(
    name: str, source: str, auto: Any, options: dict[str, Any], error: Exception
) -> str:
    """Say which weights have other shapes, which transformers puts in a table alone."""
    again = options | {"device_map": "meta", "ignore_mismatched_sizes": True}
    shapes: set[Any] = set()
    with quiet_attempt(), suppress(Exception):  # the first error is what is told
        _, info = auto.from_pretrained(
            source, use_safetensors=True, output_loading_info=True, **again
        )
        shapes = info["mismatched_keys"]
    if shapes:
        return misfits(name, source, [(k, tuple(a), tuple(b)) for k, a, b in shapes])
    return f"model {name!r}: weights in {source} do not fit its config.json: {error}"


def _take_generation_settings(model: Any, source: str) -> None:
    """Keep what a model's files say of generating, such as several ends of a turn."""
    from transformers import GenerationConfig

    with suppress(OSError):  # there are none
        model.generation_config = GenerationConfig.from_pretrained(source)


def _answer_by_name(model: PreTrainedModel) -> None:
    """Let a model give its outputs by name, whatever its config.json asks for."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "return_dict"):
            config.return_dict = True


def _check_trainable(name: str, model: Any) -> None:
    """Refuse a student whose own files hold quantised weights."""
    if not getattr(model, "is_quantized", False):
        return
    settings = model.config.quantization_config
    method = getattr(settings.quant_method, "value", settings.quant_method)
    raise InputError(
        f"model {name!r}: its weights are quantised already "
        f"({method}, quantization_config in config.json), so it cannot be trained as a "
        "student; give the model it was made from and, to spare memory, set "
        "student.quantise=int4 and student.lora.rank=16"
    )


def _check_finite(name: str, model: PreTrainedModel) -> None:
    """Find NaN and infinities before a whole run is spent on them."""
    key = not_finite(model.named_parameters())
    if key is not None:
        dtype = str(model.get_parameter(key).dtype).removeprefix("torch.")
        raise InputError(
            f"model {name!r}: weight {key} holds values that are not finite in "
            f"{dtype}; its training diverged or the type is too narrow for it: give "
            "another checkpoint or a wider dtype"
        )
