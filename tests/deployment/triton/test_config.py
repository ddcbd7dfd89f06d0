"""What config.pbtxt says."""

from __future__ import annotations

from dataclasses import replace

from tlopt.deployment.triton.config import Batching, Decoder, Model, Tensor, ensemble

MODEL = Model(
    name="lite",
    backend="onnxruntime",
    file="model.onnx",
    input=Tensor(name="images", dtype="uint8", shape=(32, 32, 3)),
    output=Tensor(name="logits", dtype="float32", shape=(10,)),
    batching=Batching(most=6, delay_us=500),
    instances=2,
    device="CPU",
    parameters={"intra_op_thread_count": "3"},
)


def test_a_network_is_described_whole():
    assert (
        MODEL.config()
        == """\
name: "lite"
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: 6
input {
  name: "images"
  data_type: TYPE_UINT8
  dims: [32, 32, 3]
}
output {
  name: "logits"
  data_type: TYPE_FP32
  dims: [10]
  label_filename: "labels.txt"
}
version_policy {
  latest {
    num_versions: 1
  }
}
instance_group {
  count: 2
  kind: KIND_CPU
}
dynamic_batching {
  max_queue_delay_microseconds: 500
}
parameters {
  key: "intra_op_thread_count"
  value {
    string_value: "3"
  }
}
"""
        + "".join(
            f"""\
model_warmup {{
  name: "batch_{size}"
  batch_size: {size}
  inputs {{
    key: "images"
    value {{
      data_type: TYPE_UINT8
      dims: [32, 32, 3]
      zero_data: true
    }}
  }}
}}
"""
            for size in (1, 2, 4, 6)
        )
    )


def test_engines_for_several_gpus_and_their_batches_are_named():
    batching = Batching(most=16, preferred=(8, 16))
    engines = {"8.9": "model_sm89.plan", "12.0": "model_sm120.plan"}
    text = replace(MODEL, backend="tensorrt", device="GPU", files=engines, batching=batching).config()
    assert 'cc_model_filenames {\n  key: "8.9"\n  value: "model_sm89.plan"\n}' in text
    assert 'cc_model_filenames {\n  key: "12.0"\n  value: "model_sm120.plan"\n}' in text
    assert "preferred_batch_size: [8, 16]" in text
    assert "kind: KIND_GPU" in text


def test_a_batch_of_one_or_a_fixed_one_is_not_put_together():
    for most in (0, 1):
        text = replace(MODEL, batching=Batching(most=most)).config()
        assert "dynamic_batching" not in text
        assert text.count("model_warmup") == 1
    assert "dynamic_batching" not in replace(MODEL, batching=Batching(most=8, dynamic=False)).config()


def test_an_ensemble_hands_the_decoded_images_on():
    files = Tensor(name="image", dtype="object", shape=(1,))
    decoder = Decoder(name="lite_decode", input=files, output=MODEL.input, most=6, instances=2)
    text = ensemble("lite_all", decoder, MODEL)
    assert 'platform: "ensemble"' in text
    assert "data_type: TYPE_STRING" in text
    assert text.count("model_version: -1") == 2
    assert 'backend: "python"' in decoder.config()
