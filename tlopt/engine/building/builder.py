"""From an ONNX file to a serialized engine, with either kind of TensorRT."""

from __future__ import annotations

import hashlib
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlopt.cards.details import Profile, TimingCache
from tlopt.engine import layers
from tlopt.engine.building.monitor import monitored
from tlopt.engine.building.options import Options
from tlopt.engine.building.profiles import add_profile, profile_of
from tlopt.engine.building.targets import Plan
from tlopt.engine.flavour import TITLES
from tlopt.engine.layers import Layers
from tlopt.engine.messages import Messages, parse_error
from tlopt.errors import SettingError, StageError, reason
from tlopt.publishing import write_whole
from tlopt.reading.files import TABLE_LIMIT, read_bytes

log = logging.getLogger(__name__)

# The library has one logger for all builds, and the layer listing comes through it.
_one_at_a_time = threading.Lock()

_COMPATIBILITY = {"same-capability": "SAME_COMPUTE_CAPABILITY", "ampere-plus": "AMPERE_PLUS"}


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A built engine, and what the card says about it.

    Attributes:
        data: The serialized engine.
        timing_cache: The timing cache used, or None.
    """

    data: bytes
    profile: Profile
    layers: Layers
    timing_cache: TimingCache | None


def check(plan: Plan, options: Options) -> None:
    """Refuse, before any work, what this kind of TensorRT cannot do.

    Raises:
        SettingError: The batches are out of order, or an option does not apply.
    """
    check_options(options, plan.flavour.name)
    if plan.flavour.name != "rtx":
        _warn_of_refit(plan, options)
    elif (options.refit or options.strip_weights) and plan.gpu is None:
        raise SettingError(
            f"{plan.flavour.title} makes refittable and weight-stripped engines only on a GPU, for that GPU.",
            hint="Leave out --refit and --strip-weights, or add --target current on a machine with a GPU.",
        )


def check_options(options: Options, flavour: str) -> None:
    """Refuse options that do not go together.

    Args:
        options: The options.
        flavour: The kind of TensorRT, "auto" if that is not known yet.

    Raises:
        SettingError: The batches are out of order, or an option does not apply.
    """
    if not options.min_batch <= options.tuned_batch <= options.max_batch:
        raise SettingError(
            "The batches must satisfy min <= opt <= max, got "
            f"{options.min_batch}, {options.tuned_batch}, {options.max_batch}.",
            hint="Set --min-batch, --opt-batch and --max-batch together.",
        )
    if options.version_compatible and (options.refit or options.strip_weights):
        raise SettingError(
            "A version-compatible engine cannot have its weights replaced: the lean runtime in it cannot refit.",
            hint="Leave out --version-compatible, or --refit and --strip-weights.",
        )
    if flavour != "rtx":
        return
    title = TITLES[flavour]
    if options.hardware_compatible != "no":
        raise SettingError(
            f"{title} builds no hardware-compatible engines.",
            hint="Name every GPU instead: --target sm80,sm86,sm89,sm120.",
        )
    if options.version_compatible:
        raise SettingError(
            f"{title} builds no version-compatible engines: it lacks the lean runtime that they need.",
            hint="Leave out --version-compatible, or build with --flavour tensorrt.",
        )
    if options.timing_cache is not None:
        raise SettingError(
            f"{title} times no kernels while it builds, so it has no timing cache.",
            hint="Leave out --timing-cache, or build with --flavour tensorrt.",
        )


def _warn_of_refit(plan: Plan, options: Options) -> None:
    # Release notes of TensorRT 11.3, known issues: kREFIT may drop the bias of a matrix product, even if nothing is
    # ever replaced. Remove this once a release mends it. REFIT_IDENTICAL, which --strip-weights takes, is not affected.
    if options.refit and plan.flavour.version_parts >= (11, 3):
        log.warning(
            "%s may lose the bias of a matrix product with --refit. Check the engine: tlopt compare ONNX ENGINE.",
            plan.flavour.title,
        )


def build(
    onnx: Path, plan: Plan, options: Options, *, shape: tuple[int, ...], dtype: str, classifier: bool = True
) -> Engine:
    """Build an engine.

    Args:
        onnx: The network. Its types are kept: precision is what the file says, not an option.
        plan: What to build with and for.
        options: How.
        shape: Of one input, without the batch axis.
        dtype: Of the input ("float32", "uint8").
        classifier: Whether the network has one output, a row of numbers for each image.

    Raises:
        SettingError: An option does not apply to this kind of TensorRT.
        StageError: TensorRT refuses the network or fails to build it.
    """
    check(plan, options)
    with _one_at_a_time:
        return _build(onnx, plan, options, shape=shape, dtype=dtype, classifier=classifier)


def _build(onnx: Path, plan: Plan, options: Options, *, shape: tuple[int, ...], dtype: str, classifier: bool) -> Engine:
    api = plan.flavour.api
    messages = Messages(api)
    builder = plan.flavour.make("Builder", messages)
    network = builder.create_network(_network_flags(api))
    parser = api.OnnxParser(network, messages.logger)
    if not parser.parse_from_file(str(onnx)):
        raise parse_error([parser.get_error(i) for i in range(parser.num_errors)], str(onnx))
    profile = profile_of(api, network, options, str(onnx), shape=shape, dtype=dtype, classifier=classifier)
    config = builder.create_builder_config()
    _apply(api, config, options)
    add_profile(builder, config, profile, messages)
    _aim(api, config, plan)
    cache = _timing_cache_file(plan, options)
    _load_timing_cache(config, cache)
    with monitored(api, config):
        data = builder.build_serialized_network(network, config)
    if data is None:
        raise _failure(plan, options, messages)
    engine = bytes(data)
    log.info("%s: %.1f MB for %s", plan.flavour.title, len(engine) / 1e6, ", ".join(plan.targets))
    return Engine(
        data=engine,
        profile=profile,
        layers=_inspect(api, engine, plan, options, messages),
        timing_cache=_save_timing_cache(config, cache),
    )


def _network_flags(api: Any) -> int:
    """Ask for a strongly typed network where that is a choice; newer versions know no other kind."""
    flag = getattr(api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _apply(api: Any, config: Any, options: Options) -> None:
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
    flags = {
        "SPARSE_WEIGHTS": options.sparse,
        "REFIT": options.refit,
        "STRIP_PLAN": options.strip_weights,
        # Opening takes the weights from the file that the engine was built of, so they are the same.
        "REFIT_IDENTICAL": options.strip_weights and not options.refit,
        "VERSION_COMPATIBLE": options.version_compatible,
    }
    for name, wanted in flags.items():
        if wanted:
            config.set_flag(getattr(api.BuilderFlag, name))
    if options.hardware_compatible != "no":
        level = _COMPATIBILITY[options.hardware_compatible]
        if level not in api.HardwareCompatibilityLevel.__members__:
            raise SettingError(
                f"This version of TensorRT has no hardware compatibility {options.hardware_compatible!r}.",
                hint="Upgrade TensorRT, or use --hardware-compatible ampere-plus.",
            )
        config.hardware_compatibility_level = getattr(api.HardwareCompatibilityLevel, level)


def _aim(api: Any, config: Any, plan: Plan) -> None:
    """Name the targets. TensorRT proper has only the GPU it runs on and is not asked."""
    if plan.flavour.name != "rtx":
        return
    names = ("CURRENT",) if plan.gpu is not None else tuple(name.upper() for name in plan.targets)
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        if not config.set_compute_capability(getattr(api.ComputeCapability, name), index):
            raise StageError(f"{plan.flavour.title} refuses the target {name.lower()}.")


def _timing_cache_file(plan: Plan, options: Options) -> Path | None:
    """Return the cache of this GPU and version: timings of another are worse than none."""
    if options.timing_cache is None or plan.gpu is None:
        return None
    name = "-".join((plan.flavour.name, plan.flavour.version, plan.gpu.capability, plan.gpu.name.replace(" ", "_")))
    return options.timing_cache / f"{name.replace('/', '_')}.timing"


def _load_timing_cache(config: Any, file: Path | None) -> None:
    if file is None:
        return
    try:
        content = read_bytes(file, limit=TABLE_LIMIT) if file.exists() else b""
    except OSError as error:
        raise StageError(f"The timing cache {file} cannot be read: {reason(error)}.") from error
    if not config.set_timing_cache(config.create_timing_cache(content), False):
        log.warning("The timing cache %s belongs to another GPU or version; starting a new one.", file)
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _save_timing_cache(config: Any, file: Path | None) -> TimingCache | None:
    if file is None:
        return None
    content = bytes(config.get_timing_cache().serialize())
    try:
        write_whole(file, content)
    except OSError as error:
        raise StageError(f"The timing cache {file} cannot be written: {reason(error)}.") from error
    return TimingCache(file=file.name, sha256=hashlib.sha256(content).hexdigest())


def _failure(plan: Plan, options: Options, messages: Messages) -> StageError:
    said = messages.last() or "it gave no reason"
    hint = "Run with -v for the builder's log."
    if "workspace" in said and options.workspace_mb is not None:
        hint = f"Raise --workspace-mb (now {options.workspace_mb}) or leave it out."
    elif "Cannot compile" in said:
        hint = "Leave the target that it names out of --target, or quantize to a precision that its GPUs compute in."
    return StageError(f"{plan.flavour.title} cannot build the engine: {said}", hint=hint)


def _inspect(api: Any, engine: bytes, plan: Plan, options: Options, messages: Messages) -> Layers:
    """Ask the engine itself where there is a GPU to open it on, else read the builder's listing."""
    if plan.gpu is None:
        return layers.from_log(messages.layers)
    runtime = plan.flavour.make("Runtime", messages)
    if options.version_compatible:
        runtime.engine_host_code_allowed = True  # the engine carries a runtime of its own
    opened = runtime.deserialize_cuda_engine(engine)
    if opened is None:
        raise StageError(f"{plan.flavour.title} cannot open the engine it has just built: {messages.last()}")
    inspector = opened.create_engine_inspector()
    if inspector is None:
        log.warning(
            "%s gives no inspector of the engine: its layers are those of the builder's log.", plan.flavour.title
        )
        return layers.from_log(messages.layers)
    return layers.from_inspector(inspector.get_engine_information(api.LayerInformationFormat.JSON))
