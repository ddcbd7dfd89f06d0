"""What a search chooses from: names, weights, artifacts, and every point once."""

from __future__ import annotations

import shutil

import pytest

from tlopt.errors import ArtifactError, PluginError, SettingError
from tlopt.search import networks
from tlopt.search.networks import code_of
from tlopt.search.space import Network, Point, Space, chosen_space, network


def point(**changes) -> Point:
    return Point(**{"network": Network(name="pip:efficientnet_lite0"), "image_size": 160, **changes})


def test_a_points_digest_is_that_of_what_it_says():
    """The digest is an address on disk, also of what other versions and machines have made."""
    assert point().digest == "efaf5d158c9a0255"
    others = [
        point(image_size=128), point(width=0.7), point(precision="int8"),
        point(backend="openvino"), point(threads=1), point(network=Network(name="pip:efficientnet_lite1")),
    ]  # fmt: skip
    assert len({one.digest for one in (point(), *others)}) == 1 + len(others)


def test_a_point_says_what_it_is():
    one = point(width=0.7, precision="int8", backend="openvino", threads=1)
    assert one.label == "pip:efficientnet_lite0 160 px 70 % wide int8 on openvino, 1 thread"


def test_a_space_has_every_point_once():
    space = Space(
        networks=(Network(name="a:one"), Network(name="a:two")), image_sizes=(32, 64), widths=(1.0, 0.5),
        precisions=("fp32", "int8"), threads=(1, 2),
    )  # fmt: skip
    points = space.points()
    assert len(points) == len(set(points)) == 2 * 2 * 2 * 2 * 2
    assert space.points() == points
    assert space.digest != Space(networks=space.networks, image_sizes=(32,)).digest


def test_torch_runs_networks_in_fp32_alone():
    space = Space(networks=(Network(name="a:one"),), image_sizes=(32,), backends=("torch", "onnxruntime"))
    found = [(one.backend, one.precision) for one in space.points()]
    assert found == [("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")]


def test_artifacts_keep_their_size_and_graphs_their_width(tuned, exported):
    space = Space(networks=(network(tuned.path), network(exported.path)), widths=(1.0, 0.5), precisions=("int8",))
    found = [(one.network.artifact, one.image_size, one.width) for one in space.points()]
    assert found == [(tuned.path, 32, 1.0), (tuned.path, 32, 0.5), (exported.path, 32, 1.0)]


def test_an_artifact_is_known_by_what_is_in_it(tuned, tmp_path):
    copied = shutil.copytree(tuned.path, tmp_path / "elsewhere")
    assert network(copied).digest == network(tuned.path).digest
    assert network(copied).digest != network("tiny_models:cnn").digest


def test_weights_of_a_file_make_another_network(tmp_path):
    file = tmp_path / "some.safetensors"
    file.write_bytes(b"weights")
    one = network("timm:resnet18", weights=file)
    assert one.digest != network("timm:resnet18").digest
    file.write_bytes(b"others")
    assert network("timm:resnet18", weights=file).digest != one.digest
    with pytest.raises(ArtifactError, match="cannot be read"):
        network("timm:resnet18", weights=tmp_path / "none")


def test_only_a_network_of_the_users_own_has_code_that_decides_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_nets.py").write_text("width = 1")
    before = code_of("my_nets:small")
    assert before == code_of("module:my_nets:small") == network("my_nets:small").content != ""
    (tmp_path / "my_nets.py").write_text("width = 2")
    assert code_of("my_nets:small") not in ("", before)
    others = ("timm:resnet18", "my_nets", "none_of_mine:small", str(tmp_path), f"{tmp_path}:x", "x" * 5000 + ":y")
    assert {code_of(name) for name in others} == {""}


def test_a_space_is_chosen_by_names():
    space, left_out = chosen_space(models=["tiny_models:cnn"], image_sizes=[32, 32, 48], precisions=["int8"], threads=1)
    assert [one.name for one in space.networks] == ["tiny_models:cnn"]
    assert (space.image_sizes, space.precisions, space.threads, left_out) == ((32, 48), ("int8",), (1,), {})
    assert space.networks[0].content  # its module's code


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"models": ["resnet18"]}, PluginError, "no artifact lies at resnet18"),
        ({"models": ["pip:efficientnet_lite9"]}, PluginError, "efficientnet_lite9"),
        ({"models": ["nowhere:net"]}, PluginError, "nowhere"),
        ({"models": ["tiny_models:cnn", "tiny_models:cnn"]}, SettingError, "named twice"),
        ({"weights": ["pip:efficientnet_lite0=a"]}, SettingError, "for named networks"),
        ({"models": ["tiny_models:cnn"], "weights": ["tiny_models:cn=a"]}, SettingError, "NAME=FILE"),
        ({"models": ["tiny_models:cnn"], "weights": ["tiny_models:cnn="]}, SettingError, "NAME=FILE"),
        (
            {"models": ["tiny_models:cnn"], "weights": ["tiny_models:cnn=a", "tiny_models:cnn=b"]},
            SettingError,
            "given twice",
        ),
        ({"models": ["tiny_models:cnn"], "backend": ["onnxruntim"]}, PluginError, "onnxruntime"),
    ],
)
def test_a_space_that_cannot_be_is_refused(given, error, match):
    with pytest.raises(error, match=match):
        chosen_space(**given)


def test_a_name_with_options_keeps_them_beside_its_weights(tmp_path):
    file = tmp_path / "a=b.safetensors"
    name = "timm:mobilenetv2_100?pad_type=same"
    from tlopt.search.space import _files

    assert _files([name], [f"{name}={file}"]) == {name: file}


def test_networks_that_cannot_be_had_are_left_out_and_named(monkeypatch):
    monkeypatch.setattr(networks, "DEFAULTS", ("pip:efficientnet_lite0", "pip:efficientnet_lite1", "timm:resnet18"))
    monkeypatch.setattr(networks, "problem", lambda one: "It is gone." if one.name.endswith("1") else "")
    monkeypatch.setattr("tlopt.sources.timm.kept", lambda _: False)
    space, left_out = chosen_space()
    assert [one.name for one in space.networks] == ["pip:efficientnet_lite0"]
    assert list(left_out) == ["pip:efficientnet_lite1", "timm:resnet18"]
    assert left_out["pip:efficientnet_lite1"] == "It is gone."
    assert left_out["timm:resnet18"].startswith("Its weights are not on this machine.")


def test_weights_in_the_cache_of_a_hub_are_found(monkeypatch, tmp_path):
    """The layout of the cache is that of huggingface_hub: models--OWNER--NAME/snapshots/COMMIT/FILE, and refs/main."""
    from huggingface_hub import constants
    from timm import get_pretrained_cfg

    from tlopt.sources import timm

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert not timm.kept("resnet18")
    folder = tmp_path / f"models--{get_pretrained_cfg('resnet18').hf_hub_id.replace('/', '--')}"
    for file, content in (("refs/main", "0" * 40), (f"snapshots/{'0' * 40}/model.safetensors", "weights")):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text(content)
    assert timm.kept("resnet18")


def test_without_any_network_there_is_no_space(monkeypatch):
    monkeypatch.setattr(networks, "DEFAULTS", ("pip:efficientnet_lite0",))
    monkeypatch.setattr(networks, "problem", lambda _: "It is gone.")
    with pytest.raises(
        PluginError, match=r"No pretrained network can be had here. pip:efficientnet_lite0: It is gone."
    ):
        chosen_space()
