"""Keep what other libraries say of themselves out of what a command says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_NOTICE = "Setting accelerator to CPU"


def quiet_libraries() -> None:
    """Switch off transformers' bars for every load, and DeepSpeed's notice of a CPU.

    The commands say themselves what is loaded and on what; DeepSpeed's notice goes to
    the standard output, also where no DeepSpeed is asked for.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    quiet_deepspeed()


def quiet_deepspeed() -> None:
    """Switch off DeepSpeed's notice of a CPU alone."""
    logging.getLogger("DeepSpeed").addFilter(_of_use)


@contextmanager
def quiet_attempt() -> Iterator[None]:
    """Keep back what transformers reports of a load that another may follow."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _of_use(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_NOTICE)
