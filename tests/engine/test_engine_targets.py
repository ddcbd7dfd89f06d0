import pytest

from tlopt.cards.details import Gpu
from tlopt.engine import flavour, gpu
from tlopt.engine.building import targets
from tlopt.engine.flavour import Flavour
from tlopt.errors import MissingLibraryError, PluginError, SettingError, StageError

FULL = Flavour(name="tensorrt", version="10.13.2.6", cuda="13", api=object())


class _Rtx:
    """Test double of the RTX module: only what names its targets."""

    class ComputeCapability:
        __members__ = dict.fromkeys(("CURRENT", "NONE", "SM75", "SM80", "SM86", "SM89", "SM120", "SM121"))


RTX = Flavour(name="rtx", version="1.7.1.116", cuda="13", api=_Rtx)


@pytest.fixture
def machine(monkeypatch):
    """Make this machine one with the given GPU ("sm89" or "") and kinds of TensorRT."""

    def make(capability="", *kinds):
        here = Gpu(name="NVIDIA Test", capability=capability, driver_cuda="13.0") if capability else None
        known = {"tensorrt": FULL, "rtx": RTX}

        def load(name, *, to_run=False):
            if name not in kinds:
                raise MissingLibraryError(f"{name} is not installed.", hint=f"install {name}")
            return known[name]

        monkeypatch.setattr(targets, "gpu", lambda: here)
        monkeypatch.setattr(targets, "gpu_problem", lambda: "" if here else "There is no NVIDIA driver here.")
        monkeypatch.setattr(flavour, "load", load)

    return make


@pytest.mark.parametrize(
    ("capability", "kinds", "expected"),
    [
        ("", ("rtx",), ("rtx", ("sm80", "sm86", "sm89", "sm120"))),
        ("", ("rtx", "tensorrt"), ("rtx", ("sm80", "sm86", "sm89", "sm120"))),
        ("sm89", ("rtx", "tensorrt"), ("tensorrt", ("sm89",))),
        ("sm90", ("tensorrt",), ("tensorrt", ("sm90",))),
        ("sm121", ("rtx",), ("rtx", ("sm80", "sm86", "sm89", "sm120", "sm121"))),
        ("sm90", ("rtx",), ("rtx", ("sm80", "sm86", "sm89", "sm120"))),
    ],
)
def test_auto_takes_the_gpu_with_tensorrt_and_builds_ahead_of_time_without(machine, capability, kinds, expected):
    machine(capability, *kinds)
    plan = targets.plan(("auto",))
    assert (plan.flavour.name, plan.targets) == expected


def test_auto_leaves_out_gpus_that_do_not_compute_in_the_precision(machine):
    machine("", "rtx")
    assert targets.plan(("auto",), precision="fp8").targets == ("sm89", "sm120")


def test_named_targets_are_built_ahead_of_time_even_beside_a_gpu(machine):
    machine("sm89", "rtx", "tensorrt")
    plan = targets.plan(("SM120", "sm86", "sm120"))
    assert (plan.flavour.name, plan.targets, plan.gpu) == ("rtx", ("sm86", "sm120"), None)


def test_tensorrt_takes_the_name_of_the_gpu_it_runs_on_for_current(machine):
    machine("sm90", "tensorrt")
    assert targets.plan(("sm90",), flavour="tensorrt").gpu is not None


@pytest.mark.parametrize(
    ("capability", "kinds", "asked", "kind", "error", "message"),
    [
        ("", ("rtx",), ("current",), "auto", StageError, r"(?s)needs a GPU\. There is no NVIDIA driver.*--target sm80"),
        ("", (), ("auto",), "auto", MissingLibraryError, "rtx is not installed"),
        ("sm89", (), ("current",), "auto", MissingLibraryError, "No TensorRT is installed"),
        ("sm89", ("rtx",), ("current",), "tensorrt", MissingLibraryError, "tensorrt is not installed"),
        ("sm90", ("rtx",), ("current",), "auto", StageError, r"cannot build for sm90 \(Hopper: H100, H200\)"),
        ("sm90", ("rtx",), ("current",), "rtx", StageError, r"(?s)cannot build for sm90.*tlopt\[gpu\]"),
        ("sm89", ("tensorrt",), ("sm86",), "tensorrt", StageError, r"cannot build for sm86; the GPU here is sm89"),
        ("", ("rtx",), ("sm90",), "auto", StageError, "it builds for sm75, sm80, sm86, sm89, sm120, sm121"),
        ("", ("rtx",), ("sm89", "sm88"), "auto", PluginError, r"Unknown target 'sm88'.\nDid you mean 'sm8"),
        ("", ("rtx",), ("current", "sm89"), "auto", SettingError, "cannot be combined"),
    ],
)
def test_what_cannot_be_built_says_what_is_missing(machine, capability, kinds, asked, kind, error, message):
    machine(capability, *kinds)
    with pytest.raises(error, match=message):
        targets.plan(asked, flavour=kind)


@pytest.mark.parametrize(("precision", "target"), [("fp8", "sm86"), ("bf16", "sm75")])
def test_a_precision_that_the_gpu_lacks_is_refused(machine, precision, target):
    machine("", "rtx")
    with pytest.raises(StageError, match=f"{target} .* do not compute in {precision}"):
        targets.plan((target,), precision=precision)


def test_the_states_of_all_targets_say_which_library_builds_them_or_why_none_does(machine):
    machine("", "rtx")
    states = {state.name: state for state in targets.states()}
    assert states["sm89"].flavours == ("rtx",)
    assert states["current"].problem == "There is no NVIDIA driver here."
    assert "TensorRT does, on a machine with that GPU" in states["sm90"].problem
    machine("sm90", "tensorrt", "rtx")
    states = {state.name: state for state in targets.states()}
    assert states["sm90"].flavours == ("tensorrt",)
    assert states["current"].flavours == ("tensorrt",)  # TensorRT for RTX does not know sm90
    machine("")
    assert "install rtx" in {state.name: state for state in targets.states()}["sm89"].problem


def test_a_driver_that_does_not_load_is_the_reason_why_there_is_no_gpu(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(gpu.ctypes, "CDLL", missing)
    gpu.gpu.cache_clear(), gpu.gpu_problem.cache_clear()
    assert gpu.gpu() is None
    assert gpu.gpu_problem() == "There is no NVIDIA driver here (libcuda.so.1 does not load)."
    gpu.gpu.cache_clear(), gpu.gpu_problem.cache_clear()


class _Driver:
    """Test double of libcuda: answers like a driver with one Ada GPU, or refuses cuInit."""

    def __init__(self, status):
        self.status = status

    def __getattr__(self, name):
        def call(*arguments):
            if name == "cuInit":
                return self.status
            if name == "cuGetErrorString":
                arguments[1]._obj.value = b"no device"
            elif name == "cuDeviceGetName":
                arguments[0].value = b"NVIDIA L4"
            elif name == "cuDeviceGetAttribute":
                arguments[0]._obj.value = {75: 8, 76: 9}[arguments[1]]
            elif name != "cuDeviceGet":
                arguments[0]._obj.value = {"cuDeviceGetCount": 1, "cuDriverGetVersion": 13010}[name]
            return 0

        return call


@pytest.mark.parametrize("status", [0, 100])
def test_the_gpu_is_what_the_driver_says(monkeypatch, status):
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda _: _Driver(status))
    gpu.gpu.cache_clear(), gpu.gpu_problem.cache_clear()
    if status:
        assert gpu.gpu() is None
        assert gpu.gpu_problem() == "The NVIDIA driver refuses cuInit: no device."
    else:
        assert gpu.gpu() == Gpu(name="NVIDIA L4", capability="sm89", driver_cuda="13.1")
    gpu.gpu.cache_clear(), gpu.gpu_problem.cache_clear()
