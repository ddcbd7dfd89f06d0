"""Files of torch.export are read without unpickling anything, and only operators that compute run."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import tlopt
from tlopt.errors import ArtifactError
from tlopt.imports.formats import pt2, pt2_archive
from tlopt.imports.formats.pt2_network import Network


class Net(nn.Module):
    """Convolutions with what programs hold: in-place, several results, lengths, constants, words."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.last = nn.Linear(8, 4)
        self.register_buffer("scale", torch.linspace(0.5, 2, 8).view(8, 1, 1), persistent=False)

    def forward(self, images):
        inner = torch.relu_(self.norm(self.first(images))) * self.scale + torch.tensor([0.5]).view(1, 1, 1, 1)
        left, right = inner.chunk(2, 1)
        inner = torch.cat([nn.functional.gelu(left, approximate="tanh"), right], 1)
        pooled = inner.mean((2, 3), keepdim=True).flatten(1)
        return self.last(pooled.float())


class Changes(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, images):
        self.count.add_(1)
        return images.mean((2, 3)) + self.count


def exported(model, file, *inputs, **dims):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model.eval(), inputs, **dims)
        torch.export.save(program, file)
    return file


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The file of a network that takes any number of images, and the network."""
    torch.manual_seed(0)
    net = Net()
    net.norm.running_var.copy_(torch.linspace(0.5, 2, 8))
    images = torch.rand(2, 3, 16, 24)
    file = tmp_path_factory.mktemp("pt2") / "net.pt2"
    return exported(net, file, images, dynamic_shapes=({0: torch.export.Dim("n")},)), net


def rewritten(file, target, name="", change=None, add=None):
    """Write an archive anew with one member changed, or some added."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            if name and member.endswith(name):
                content = change(content)
            new.writestr(member, content)
        for member, content in (add or {}).items():
            new.writestr(f"net/{member}", content)
    return target


def edited(edit):
    def change(content):
        value = json.loads(content)
        edit(value)
        return json.dumps(value).encode()

    return change


def test_a_program_computes_what_the_network_does(program):
    file, net = program
    network = Network(pt2_archive.read(file), file)
    images = torch.rand(3, 3, 16, 24)
    with torch.inference_mode():
        [found], wanted = network(images), net(images)
    torch.testing.assert_close(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["any", 1])
def test_a_program_becomes_an_artifact_that_answers_alike(batch, program, tmp_path):
    file, net = program
    if batch == 1:
        file = exported(net, tmp_path / "net.pt2", torch.rand(1, 3, 16, 24))
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    artifact = tlopt.import_model(file, tmp_path / "out", classes=tmp_path / "classes.txt", preset="0..1")
    assert artifact.card.preprocess.sides == (16, 24)
    assert not artifact.card.onnx.fixed_batch  # though it was written with one image: nothing in it hangs on that
    inputs = np.random.default_rng(0).random((5, 3, 16, 24), dtype=np.float32)
    with torch.inference_mode(), tlopt.open_runner(artifact) as run:
        found = run(inputs)
        np.testing.assert_allclose(found, net(torch.from_numpy(inputs)).numpy(), atol=1e-5)


class Evil:
    def __reduce__(self):
        return (open, ("ran", "w"))


def pickled():
    buffer = io.BytesIO()
    torch.save(Evil(), buffer)
    return buffer.getvalue()


def with_pickle(value):
    first = next(iter(value["config"].values()))
    first["use_pickle"] = True


def with_object(value):
    value["config"]["evil"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}


def target(name, inputs=()):
    def edit(value):
        node = value["graph_module"]["graph"]["nodes"][0]
        node["target"] = name
        if inputs:
            node["inputs"] = [{"name": n, "arg": {"as_string": v}, "kind": 1} for n, v in inputs]

    return edit


@pytest.mark.parametrize(
    ("name", "edit", "said"),
    [
        ("weights_config.json", with_pickle, "pickle"),
        ("constants_config.json", with_object, "evil as a pickle"),
        ("models/model.json", target("torch.os.system", [("command", "touch ran")]), "holds torch.os.system"),
        ("models/model.json", target("torch.ops.load_library", [("path", "x.so")]), "holds torch.ops.load_library"),
        ("models/model.json", target("torch.ops.aten.from_file.default", [("filename", "ran")]), "from_file"),
        ("models/model.json", target("torch.ops.aten.__class__.mro"), "__class__"),
        ("models/model.json", target("_operator.methodcaller"), "methodcaller"),
        ("models/model.json", target("torch.ops.mine.op.default"), "mine"),
        ("models/model.json", lambda v: v["schema_version"].update(major=9), "schema 9"),
        ("models/model.json", lambda v: v["graph_module"]["signature"]["output_specs"].clear(), "no output"),
        (
            "models/model.json",
            lambda v: v["graph_module"]["signature"]["output_specs"].append({"buffer_mutation": {}}),
            "buffer mutation",
        ),
    ],
)
def test_what_would_run_code_is_refused(name, edit, said, program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = rewritten(program[0], tmp_path / "net.pt2", name, edited(edit), {"data/constants/opaque_obj_0": pickled()})
    with pytest.raises(ArtifactError, match=said):
        pt2.read(file)
    assert not (tmp_path / "ran").exists()


def test_formulas_and_examples_of_a_file_are_never_evaluated(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def edit(value):
        for tensor in value["graph_module"]["graph"]["tensor_values"].values():
            for size in tensor["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = "open('ran', 'w')"
        value["guards_code"] = ["open('ran', 'w')"]

    file = rewritten(program[0], tmp_path / "net.pt2", "models/model.json", edited(edit))
    file = rewritten(file, tmp_path / "both.pt2", "sample_inputs/model.pt", lambda _: pickle.dumps(Evil()))
    network = Network(pt2_archive.read(file), file)
    assert network(torch.rand(1, 3, 16, 24))[0].shape == (1, 4)
    assert not (tmp_path / "ran").exists()


def test_a_tensor_that_reaches_past_its_bytes_is_refused(program, tmp_path):
    def edit(value):
        next(iter(value["config"].values()))["tensor_meta"]["sizes"][0] = {"as_int": 10**6}

    file = rewritten(program[0], tmp_path / "net.pt2", "weights_config.json", edited(edit))
    with pytest.raises(ArtifactError, match="damaged"):
        pt2.read(file)


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive"])
def test_what_is_no_archive_is_refused(content, tmp_path):
    file = tmp_path / "net.pt2"
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"no file of torch\.export\.save"):
        tlopt.import_model(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("member", "said"),
    [("serialized_exported_program.json", "before 2.8"), ("net/data/aotinductor/net/a.so", "machine code"),
     ("net/models/other.json", "2 programs")],
)  # fmt: skip
def test_other_archives_are_named(member, said, tmp_path):
    file = tmp_path / "net.pt2"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/models/net.json", "{}")
        archive.writestr(member, "")
    with pytest.raises(ArtifactError, match=said):
        pt2.read(file)


def test_a_compressed_member_is_refused(program, tmp_path):
    file = tmp_path / "net.pt2"
    with zipfile.ZipFile(program[0]) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    with pytest.raises(ArtifactError, match="compressed"):
        pt2.read(file)


def test_a_network_that_changes_itself_is_refused(tmp_path):
    file = exported(Changes(), tmp_path / "net.pt2", torch.rand(1, 3, 8, 8))
    with pytest.raises(ArtifactError, match="changes its own"):
        pt2.read(file)


def test_a_network_of_two_inputs_is_refused(tmp_path):
    class Two(nn.Module):
        def forward(self, images, other):
            return images.mean((2, 3)) + other

    file = exported(Two(), tmp_path / "net.pt2", torch.rand(1, 3, 8, 8), torch.rand(1, 3))
    with pytest.raises(ArtifactError, match="other inputs than one image"):
        pt2.read(file)
