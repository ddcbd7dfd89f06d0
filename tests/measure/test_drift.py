from __future__ import annotations

import numpy as np
import onnx
import pytest
from tiny_onnx import RIGHT, onnx_model, write_onnx

from tlopt.artifact import Artifact, seal
from tlopt.errors import ArtifactError
from tlopt.measure.drift import drift
from tlopt.publishing import draft


def test_an_artifact_does_not_drift_from_itself(tiny):
    report = drift(tiny, tiny)
    assert [row["op"] for row in report.rows] == ["Conv", "GlobalAveragePool"]
    assert all(row["error"] == 0 for row in report.rows)


def test_the_layer_where_the_error_starts_is_named(tiny, card, tmp_path):
    off = write_onnx(tmp_path / "off", card, RIGHT * 1.1)
    report = drift(tiny, off, batch=4)
    assert report.rows[0]["error"] == pytest.approx(0.1, rel=1e-4)
    assert report.rows[0]["added"] == report.rows[0]["error"]
    assert "It grows most at mix (Conv, +10.00%)" in report.table()


def test_artifacts_without_common_tensors_are_refused(tiny, card, tmp_path):
    model = onnx_model(RIGHT)
    for node in model.graph.node[:2]:
        node.output[0] = f"other_{node.output[0]}"
    for node in model.graph.node[1:]:
        node.input[0] = f"other_{node.input[0]}"
    with draft(tmp_path / "other") as scratch:
        onnx.save(model, scratch / "model.onnx")
        seal(scratch, card)
    with pytest.raises(ArtifactError, match="no tensor of the same name"):
        drift(tiny, Artifact.load(tmp_path / "other"))


def test_only_onnx_artifacts_have_layers_to_compare(tuned, tiny):
    with pytest.raises(ArtifactError, match="is of kind torch; this needs onnx"):
        drift(tuned, tiny)


@pytest.mark.parametrize(("channels", "layers"), [(16, ["Conv", "GlobalAveragePool"]), (4, [])])
def test_layers_that_quantizing_gave_more_channels_are_compared_by_those_they_had(
    channels, layers, tiny, card, tmp_path
):
    """With other numbers it is another layer, such as an unpruned one."""
    model = onnx_model(np.resize(RIGHT, (channels, 3)))
    back = onnx.numpy_helper.from_array(np.eye(3, channels, dtype=np.float32)[:, :, None, None], "back")
    model.graph.initializer.append(back)
    model.graph.node[2].input[0] = "kept"
    model.graph.node.insert(2, onnx.helper.make_node("Conv", ["pooled", "back"], ["kept"], name="keep"))
    with draft(tmp_path / "wide") as scratch:
        onnx.save(model, scratch / "model.onnx")
        seal(scratch, card)
    wide = Artifact.load(tmp_path / "wide")
    if layers:
        assert [(row["op"], row["error"]) for row in drift(tiny, wide).rows] == [(layer, 0) for layer in layers]
    else:
        with pytest.raises(ArtifactError, match="no tensor of the same name"):
            drift(tiny, wide)
