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
    assert found.summary["outputs"] == {"Int8": 1, "Half": 1}
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
    assert layers.from_inspector('{"Layers": ["conv"]}').summary["layers"] == 1
