"""Small classifiers as other tools write them, node by node, and what they answer by themselves."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import tlopt
from tlopt.sessions import open_session

SIDE, CLASSES = 16, ("a", "b", "c")


class Net:
    """float32 (n, 3, 16, 16) in 0..1 -> (n, 3); every part can be changed before it is saved."""

    def __init__(self, *, image="x", answer="y", opset=13, spread=6.0):
        self.random, self.nodes, self.constants = np.random.default_rng(0), [], []
        self.image, self.answer, self.opset = image, answer, opset
        weight = self.random.normal(0, 0.3, (8, 3, 3, 3))
        x = self.add("Conv", image, self.constant(weight), strides=[2, 2], pads=[1] * 4)
        x = self.add("GlobalAveragePool", self.add("Relu", x))
        x = self.add("Flatten", x, axis=1)
        self.add(
            "Gemm",
            x,
            self.constant(self.random.normal(0, spread, (3, 8))),
            self.constant(np.zeros(3)),
            transB=1,
            out=answer,
        )

    def constant(self, values, dtype=np.float32):
        name = f"k{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, kind, *inputs, out="", first=False, **attributes):
        out = out or f"t{len(self.nodes)}"
        node = helper.make_node(kind, list(inputs), [out], name=f"n{len(self.nodes)}", **attributes)
        self.nodes.insert(0 if first else len(self.nodes), node)
        return out

    def end(self, kind, *more, **attributes):
        """Put another operator at the end."""
        self.answer = self.add(kind, self.answer, *more, out=f"end{len(self.nodes)}", **attributes)
        return self

    def save(self, file, *, shape=("n", 3, SIDE, SIDE), out=("n", 3), type_=TensorProto.FLOAT, weights=False, **more):
        image = helper.make_tensor_value_info(self.image, type_, shape)
        listed = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in self.constants]
        answers = [helper.make_tensor_value_info(self.answer, more.get("out_type", TensorProto.FLOAT), out)]
        answers += more.get("outputs", [])
        inputs = [*(listed if weights else []), *more.get("inputs", []), image]
        graph = helper.make_graph(self.nodes, "net", inputs, answers, self.constants)
        ir = 3 if weights else 8
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=ir)
        onnx.checker.check_model(model)
        onnx.save(model, file)
        return file


def brought(file, folder, **settings):
    """Import a file whose pixels are fed as 0..1."""
    (folder / "names.txt").write_text("\n".join(CLASSES))
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "crop_ratio": 1.0, "classes": folder / "names.txt"}
    return tlopt.import_model(file, folder / "art", **{**plain, **settings}, force=True)


def some(count=4):
    random = np.random.default_rng(3)
    return random.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def by_itself(file, pixels, dtype=np.float32, *, nhwc=False):
    """What the file says of each image alone, (n, 3)."""
    session = open_session(file)
    weights = {t.name for t in onnx.load(file).graph.initializer}
    name = next(value.name for value in session.get_inputs() if value.name not in weights)
    rows = pixels if nhwc else pixels.transpose(0, 3, 1, 2)
    return np.concatenate([np.reshape(session.run(None, {name: row[None].astype(dtype)})[0], (1, -1)) for row in rows])


def said(artifact, pixels):
    with tlopt.open_runner(artifact) as runner:
        return runner(artifact.card.preprocess.normalize(pixels))


def agree(artifact, file, pixels=None, scale=255, **more):
    pixels = some() if pixels is None else pixels
    wanted = by_itself(file, pixels / scale if scale != 1 else pixels, **more)
    np.testing.assert_allclose(said(artifact, pixels), wanted, atol=1e-4)  # of float32, in another batch
