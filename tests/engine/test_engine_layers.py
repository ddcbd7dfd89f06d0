import json

from tlopt.engine import layers

LISTING = """Layers:
Name: quantize, LayerType: kgen, Inputs: [ { Name: images, Dimensions: [-1,3,16,16], Strides: [768,256,16,1], \
StrideOrder: [3,2,1,0], Datatype: Float, Format: (Linear) Row major linear format }], Constants: [], Outputs: [ { \
Name: q, Dimensions: [-1,3,16,16], Strides: [768,1,48,3], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) }], \
TacticName: __myl_Quant, StreamId: 0, Metadata: [ONNX Layer: q0]
Name: conv, LayerType: correlation, Inputs: [ { Name: q, Dimensions: [-1,3], Datatype: Int8 }], Constants: [ { Name: \
w, Dimensions: [8,3], Datatype: Int8 }, { Name: b, Dimensions: [1], Datatype: Float }], Outputs: [ { Name: c, \
Dimensions: [-1,8], Datatype: Half }], TacticName: STUB, StreamId: 0, Metadata: [ONNX Layer: conv][ONNX Layer: relu]

I/O Tensors:
 Name: images, IOMode: Input, DataType: Float, Dimensions: [-1,3,16,16], Location: Device"""


def test_the_builders_listing_gives_names_types_and_onnx_nodes():
    found = layers.from_log(LISTING)
    assert [row["name"] for row in found.rows] == ["quantize", "conv"]
    assert found.rows[1]["onnx"] == ["conv", "relu"]
    assert found.rows[1]["inputs"] == ["Int8"]
    assert found.summary.outputs == {"Int8": 1, "Half": 1}
    assert json.loads(found.to_json())["source"] == "builder log"


def test_the_inspectors_json_of_both_major_versions_is_read_alike():
    old = {
        "Name": "conv",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "q", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
        "Outputs": [{"Name": "c", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
        "TacticName": "sm80_xmma",
        "Metadata": "[ONNX Layer: conv]",
    }
    new = {
        **old,
        "Inputs": [{"Name": "q", "Datatype": "Int8", "Format": "vectorized"}],
        "Outputs": [{"Name": "c", "Datatype": "Half", "Format": "Channel major"}],
    }
    first, second = (
        layers.from_inspector(json.dumps({"Layers": [layer], "Bindings": ["images"]})) for layer in (old, new)
    )
    assert first == second
    assert first.rows[0]["outputs"] == ["Half"]


def test_an_inspector_that_knows_only_names_gives_only_names():
    assert layers.from_inspector('{"Layers": ["conv"]}').summary.layers == 1


def test_where_the_inspector_tells_no_types_of_tensors_the_weights_do():
    unknown = [{"Name": "q", "Format/Datatype": "N/A due to dynamic shapes"}]
    conv = {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": unknown, "Outputs": unknown}

    def read(*rows):
        return layers.from_inspector(json.dumps({"Layers": rows}))

    assert read(conv, {**conv, "Weights": {"Type": "Int8", "Count": 9}}).computes_in("Int8") is True
    assert read(conv, {**conv, "Weights": {"Type": "Half", "Count": 9}}).computes_in("Int8") is False
    assert read(conv).computes_in("Int8") is None
    assert read({**conv, "Weights": {"Type": "Half"}}).summary.weights == {"Half": 1}
    assert read(conv).summary.inputs == {"unknown": 1}


def test_the_listing_tells_what_the_layers_compute_in():
    found = layers.from_log(LISTING)
    assert found.computes_in("Int8")
    assert found.computes_in("FP8") is False
