"""Earlier names of modules: an import by one gives the module as it is called now.

Code outside this project (plugins, notebooks) may import what lay elsewhere before
files moved into folders. ``align`` imports this file, ``experiments`` asks it for names
that it has not; it answers for the names of :data:`MOVED` alone, with a
``DeprecationWarning``. Both names are one module: what is set on one is seen on the
other.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "align.byte_lengths": "align.tokens.byte_lengths",
    "align.cache_folder": "align.support.cache_folder",
    "align.caches": "align.support.caches",
    "align.captured": "align.views",
    "align.chat": "align.text.chat",
    "align.chat_rows": "align.text.chat_rows",
    "align.conversation": "align.text.conversation",
    "align.csv_rows": "align.text.csv_rows",
    "align.cumulative": "align.tokens.placed",
    "align.cut": "align.tokens.cut",
    "align.extras": "align.support.extras",
    "align.fonts": "align.pictures.fonts",
    "align.fragment": "align.text.fragment",
    "align.json_rows": "align.text.json_rows",
    "align.lost_text": "align.tokens.lost_text",
    "align.offsets": "align.tokens.offsets",
    "align.output": "align.views",
    "align.overlap": "align.tokens.overlap",
    "align.pieces": "align.tokens.pieces",
    "align.placed": "align.tokens.placed",
    "align.plain_text": "align.text.plain_text",
    "align.primitive_cache": "align.products.primitive_cache",
    "align.process_memory": "align.support.process_memory",
    "align.quiet": "align.support.quiet",
    "align.records": "align.text.records",
    "align.similarity_picture": "align.pictures.similarity",
    "align.stopwatch": "align.support.stopwatch",
    "align.support.cpu": "align.products.cpu",
    "align.support.primitive_cache": "align.products.primitive_cache",
    "align.tables": "align.text.tables",
    "align.text_files": "align.text.files",
    "align.text_folder": "align.text.folder",
    "align.text_part": "align.support.text_part",
    "align.view": "align.views",
    "align.visualize": "align.pictures.visualize",
    "experiments.alarms": "experiments.run.alarms",
    "experiments.alignment_figures": "experiments.report.alignment",
    "experiments.arms": "experiments.run.arms",
    "experiments.checks": "experiments.assemble.checks",
    "experiments.cli_parts": "experiments.commands.parser",
    "experiments.config.error_place": "align.errors",
    "experiments.config_reference": "experiments.config.reference",
    "experiments.course": "experiments.record.course",
    "experiments.data": "experiments.assemble.data",
    "experiments.dates": "experiments.record.dates",
    "experiments.depth": "experiments.assemble.layer_maps",
    "experiments.driver": "experiments.run.driver",
    "experiments.effects": "experiments.config.later",
    "experiments.evaluation": "experiments.run.evaluation",
    "experiments.extraction.bench": "experiments.extraction.context",
    "experiments.extraction.code": "experiments.assemble.stored_code",
    "experiments.extraction.errors": "experiments.extraction.encoding_error",
    "experiments.extraction.estimate": "experiments.estimate.needs",
    "experiments.extraction.fingerprint": "experiments.assemble.fingerprint",
    "experiments.extraction.memory": "experiments.estimate.measured",
    "experiments.extraction.plan": "experiments.estimate.counted",
    "experiments.extraction.shapes": "experiments.estimate.shapes",
    "experiments.extraction.stages": "experiments.run.phase_texts",
    "experiments.extraction.stand_ins": "experiments.assemble.stored_teachers",
    "experiments.extraction.traced": "experiments.estimate.traced",
    "experiments.extraction.training": "experiments.estimate.training",
    "experiments.failures": "experiments.record.failures",
    "experiments.figures": "experiments.report.figures",
    "experiments.gates": "experiments.run.gates",
    "experiments.history": "experiments.record.history",
    "experiments.later_settings": "experiments.config.later",
    "experiments.lease": "experiments.record.lease",
    "experiments.ledger": "experiments.run.ledger",
    "experiments.lengths": "experiments.assemble.lengths",
    "experiments.lineage": "experiments.run.lineage",
    "experiments.measure": "experiments.report.measure",
    "experiments.metrics": "experiments.record.metrics",
    "experiments.models": "experiments.assemble.models",
    "experiments.outputs": "experiments.assemble.outputs",
    "experiments.place": "align.errors",
    "experiments.plotting": "experiments.report.plotting",
    "experiments.plugin_commands": "experiments.commands.plugins",
    "experiments.precision": "experiments.assemble.precision",
    "experiments.preflight": "experiments.run.preflight",
    "experiments.presets": "experiments.config.presets",
    "experiments.progress": "experiments.record.progress",
    "experiments.reading": "experiments.run.coverage",
    "experiments.report_teachers": "experiments.report.teachers",
    "experiments.routing_figures": "experiments.report.routing",
    "experiments.run.stored_phases": "experiments.run.phase_texts",
    "experiments.run_dir": "experiments.record.run_dir",
    "experiments.run_parts": "experiments.run.context",
    "experiments.schema": "experiments.config.schema",
    "experiments.sections": "experiments.config.sections",
    "experiments.settings": "experiments.config.parsing",
    "experiments.splits": "experiments.assemble.splits",
    "experiments.stage": "experiments.run.phase",
    "experiments.status": "experiments.report.status",
    "experiments.stop": "experiments.record.stop",
    "experiments.store_commands": "experiments.commands.store",
    "experiments.summary": "experiments.run.summary",
    "experiments.synonyms": "experiments.config.synonyms",
    "experiments.teacher_rule": "teacher.teacher_rule",
    "experiments.teaching": "experiments.assemble.teaching",
    "experiments.text_sources": "experiments.assemble.text_sources",
    "experiments.used_plugins": "experiments.config.used_plugins",
    "experiments.versions": "experiments.record.versions",
    "experiments.viz": "experiments.commands.viz",
    "experiments.writing.ways": "teacher.writing.ways",
    "experiments.zoo_names": "experiments.config.zoo_names",
    "fuse.label_router": "fuse.routers.label",
    "fuse.prequential": "fuse.routers.prequential",
    "fuse.router": "fuse.routers.router",
    "fuse.similarity_router": "fuse.routers.similarity",
    "fuse.z_agreement": "fuse.z.agreement",
    "fuse.z_coder": "fuse.z.coder",
    "fuse.z_space": "fuse.z.space",
    "plugins.contract": "plugins.promise",
    "plugins.contract_aligner": "plugins.contracts.aligner",
    "plugins.contract_maps": "plugins.contracts.maps",
    "plugins.contract_objective": "plugins.contracts.objective",
    "plugins.contract_phase": "plugins.contracts.phase",
    "plugins.contract_router": "plugins.contracts.router",
    "plugins.contract_step": "plugins.contracts.step",
    "plugins.contract_temperature": "plugins.contracts.schedule",
    "plugins.contracts.temperature": "plugins.contracts.schedule",
    "student.calibrate": "student.bridges.calibrate",
    "student.context": "student.step.context",
    "student.data_order": "student.loop.data_order",
    "student.engine": "student.loop.engine",
    "student.feed": "student.loop.batches",
    "student.launch": "student.loop.launch",
    "student.optimizer_state": "student.loop.optimizer_state",
    "student.output.chunks": "student.output.across.chunks",
    "student.output.geometry": "student.output.transport.geometry",
    "student.output.labels": "student.output.divergence.labels",
    "student.output.lexicon": "student.output.across.lexicon",
    "student.output.likelihood": "student.output.across.likelihood",
    "student.output.linear": "student.output.divergence.linear",
    "student.output.linear_blocks": "student.output.divergence.linear_blocks",
    "student.output.linear_divergence": "student.output.divergence.linear_divergence",
    "student.output.linear_likelihood": "student.output.divergence.linear_likelihood",
    "student.output.ot": "student.output.transport.token",
    "student.output.pairing": "student.output.across.pairing",
    "student.output.predictions": "student.output.across.predictions",
    "student.output.row_divergence": "student.output.divergence.row_divergence",
    "student.output.rows": "student.output.divergence.rows",
    "student.output.sequence_ot": "student.output.transport.sequence",
    "student.output.support": "student.output.divergence.support",
    "student.output.terms.config": "student.output_config",
    "student.output.terms.counts": "student.terms.counts",
    "student.output.terms.heat": "student.terms.temperature",
    "student.output.terms.likeliest_tokens": "student.terms.likeliest_tokens",
    "student.output.terms.objectives": "student.terms.next_token",
    "student.output.terms.same_vocabulary": "student.terms.same_vocabulary",
    "student.output.terms.shared_text": "student.terms.shared_text",
    "student.output.terms.step_outputs": "student.step_outputs",
    "student.output.top_tokens": "student.output.divergence.top_tokens",
    "student.output.vocabulary": "student.output.across.vocabulary",
    "student.phase_checkpoint": "student.loop.phase_checkpoint",
    "student.prepared": "student.loop.prepared",
    "student.random_state": "student.loop.random_state",
    "student.sinks": "student.attention_sinks",
    "student.standardize": "student.bridges.standardize",
    "student.frozen": "student.trained",
    "student.still": "student.trained",
    "student.trainer": "student.loop.trainer",
    "student.trouble": "student.loop.non_finite",
    "teacher.arguments": "teacher.capture.checks",
    "teacher.attention_rows": "teacher.capture.attention_rows",
    "teacher.attention_sites": "teacher.capture.attention_sites",
    "teacher.context": "teacher.loading.longer_texts",
    "teacher.cpu": "align.products.cpu",
    "teacher.depth": "teacher.capture.layer_numbers",
    "teacher.forward": "teacher.capture.forward",
    "teacher.fresh": "teacher.loading.fresh",
    "teacher.left_padding": "teacher.capture.left_padding",
    "teacher.limits": "teacher.capture.limits",
    "teacher.model_files": "teacher.loading.model_files",
    "teacher.models": "teacher.loading.models",
    "teacher.probe": "teacher.capture.probe",
    "teacher.quantise": "teacher.loading.quantise",
    "teacher.recording": "teacher.capture.recording",
    "teacher.rotary": "teacher.capture.rotary",
    "teacher.shard": "teacher.loading.shard",
    "teacher.tokenizer": "teacher.loading.tokenizer",
    "teacher.windows": "teacher.capture.windows",
}
"""The name before, and the name now."""


class _Earlier(MetaPathFinder, Loader):
    """Finds modules by their earlier names."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """A spec for an earlier name; None for any other."""
        if fullname not in MOVED:
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module by its name of today."""
        now = MOVED[spec.name]
        warnings.warn(
            f"{spec.name} is called {now} now", DeprecationWarning, stacklevel=2
        )
        module = import_module(now)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run; the module keeps its own name."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


FINDER = _Earlier()
"""The one finder; asked after all others, of names that nobody knows."""
if FINDER not in sys.meta_path:
    sys.meta_path.append(FINDER)
