"""Libraries do not speak between our lines."""

import logging

from align.support.quiet import quiet_libraries


def test_deepspeeds_notice_of_a_cpu_is_dropped_and_its_warnings_are_kept(caplog):
    quiet_libraries()
    quiet_libraries()  # as every load asks for it
    logger = logging.getLogger("DeepSpeed")
    logger.addHandler(caplog.handler)
    try:
        logger.warning("Setting accelerator to CPU. If you have GPU ...")
        logger.warning("the loss scale is at its minimum")
    finally:
        logger.removeHandler(caplog.handler)
    assert {r.getMessage() for r in caplog.records} == {
        "the loss scale is at its minimum"
    }


def test_loading_a_model_draws_no_bar(tiny_zoo, capfd):
    from teacher.loading.models import load_model

    quiet_libraries()
    load_model(tiny_zoo["student"])
    assert "Loading weights" not in capfd.readouterr().err
