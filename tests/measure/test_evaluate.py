from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from tiny_onnx import CLASSES, RIGHT, write_onnx

from tlopt.errors import ArtifactError, ImagesError, PluginError, SettingError
from tlopt.images import scan
from tlopt.measure.answers.images import open_part
from tlopt.measure.compare import compare
from tlopt.measure.corruptions import CORRUPTIONS
from tlopt.measure.evaluate import evaluate


def test_figures_agree_with_a_count_by_hand(tiny, swatches):
    result = evaluate(tiny)
    ref = tiny.card.images
    test = scan(swatches).split(val=ref.val, test=ref.test, seed=ref.seed)["test"]
    hits, confusion = 0, np.zeros((3, 3), int)
    for file, label in zip(test.files, test.labels, strict=True):
        pixels = tiny.card.preprocess(swatches / file)
        answer = int((RIGHT @ pixels.mean((1, 2))).argmax())
        hits += answer == label
        confusion[label, answer] += 1
    assert result.images == len(test)
    assert result.top1 == hits / len(test)
    assert (result.confusion == confusion).all()
    red = result.scores[CLASSES.index("red")]
    assert red.precision == pytest.approx(confusion[2, 2] / confusion[:, 2].sum())
    assert red.recall == pytest.approx(confusion[2, 2] / confusion[2].sum())
    assert result.interval[0] < result.top1 < result.interval[1]
    assert result.top5 is None


def test_an_artifact_agrees_with_itself_and_less_with_another(tiny, biased):
    assert evaluate(tiny, reference=tiny.path).agreement == 1
    assert evaluate(biased, reference=tiny.path).agreement < 1


def test_two_backends_give_the_same_answers(tiny):
    first, second = evaluate(tiny, backend="onnxruntime"), evaluate(tiny, backend="openvino")
    assert second.runner == "openvino:cpu"
    np.testing.assert_allclose(first.outputs.logits, second.outputs.logits, atol=1e-5)


def test_the_batch_size_changes_nothing(tiny):
    np.testing.assert_allclose(
        evaluate(tiny, batch=1).outputs.logits, evaluate(tiny, batch=7).outputs.logits, atol=1e-6
    )


def test_other_photos_are_used_whole(tiny, swatches, tmp_path):
    shutil.copytree(swatches, tmp_path / "others")
    (tmp_path / "others" / "red" / "0.png").unlink()
    assert evaluate(tiny, images=tmp_path / "others").images == 59


def test_the_training_folder_in_another_place_is_split_as_in_training(tiny, swatches, tmp_path):
    shutil.copytree(swatches, tmp_path / "moved")
    moved = evaluate(tiny, images=tmp_path / "moved")
    assert moved.outputs.files == evaluate(tiny).outputs.files


def test_a_folder_with_parts_is_asked_for_its_own_part(tiny, swatches, tmp_path):
    for part in ("train", "test"):
        shutil.copytree(swatches, tmp_path / part)
    shutil.rmtree(tmp_path / "test" / "red")
    shutil.copytree(swatches / "red", tmp_path / "test" / "red")
    assert evaluate(tiny, images=tmp_path).images == 60
    with pytest.raises(ImagesError, match="has no val images"):
        evaluate(tiny, images=tmp_path, split="val")


def test_an_unreadable_photo_is_left_out_and_named(tiny, swatches, tmp_path):
    shutil.copytree(swatches, tmp_path / "photos")
    (tmp_path / "photos" / "green" / "7.png").write_bytes(b"")
    result = evaluate(tiny, images=tmp_path / "photos")
    assert result.images == 59
    assert list(result.unreadable) == ["green/7.png"]
    assert "Images left out because they cannot be read (1): green/7.png" in result.to_report().table()


def test_a_class_without_a_photo_has_no_recall(tiny, swatches, tmp_path):
    shutil.copytree(swatches, tmp_path / "photos")
    shutil.rmtree(tmp_path / "photos" / "green")
    result = evaluate(tiny, images=tmp_path / "photos")
    assert result.images == 40
    assert [score.recall is None for score in result.scores] == [False, True, False]
    assert "No image shows green" in result.to_report().table()
    assert result.by_class().table()
    assert "green" not in compare(tiny, tiny, images=tmp_path / "photos").recall_change


def test_other_classes_are_refused_by_name(tiny, swatches, tmp_path):
    shutil.copytree(swatches, tmp_path / "photos")
    (tmp_path / "photos" / "red").rename(tmp_path / "photos" / "pink")
    with pytest.raises(ImagesError, match=r"it has no red; tiny does not know pink\."):
        evaluate(tiny, images=tmp_path / "photos")


def test_changed_training_photos_are_refused(card, swatches, tmp_path):
    shutil.copytree(swatches, tmp_path / "photos")
    own = replace(card, images=replace(card.images, path=str(tmp_path / "photos")))
    artifact = write_onnx(tmp_path / "artifact", own, RIGHT)
    (tmp_path / "photos" / "red" / "0.png").unlink()
    with pytest.raises(ImagesError, match="are not the images that the artifact was trained on"):
        evaluate(artifact)


def test_an_imported_model_needs_photos(card, tmp_path):
    artifact = write_onnx(tmp_path / "artifact", replace(card, images=None), RIGHT)
    with pytest.raises(ImagesError, match="knows no training images"):
        evaluate(artifact)


def test_the_order_of_the_logits_need_not_be_alphabetical(card, swatches, tmp_path, tiny):
    turned = write_onnx(tmp_path / "artifact", replace(card, classes=("red", "green", "blue")), RIGHT[::-1].copy())
    assert evaluate(turned).top1 == evaluate(tiny).top1
    with pytest.raises(ImagesError, match="different classes"):
        evaluate(turned, reference=tiny.path)


def test_top5_is_given_from_six_classes_on(card, tmp_path, swatches):
    names = (*CLASSES, "x", "y", "z")
    shutil.copytree(swatches, tmp_path / "photos")
    for name in names[3:]:
        shutil.copytree(swatches / "red", tmp_path / "photos" / name)
    weight = np.concatenate([RIGHT, np.zeros((3, 3))])
    artifact = write_onnx(tmp_path / "six", replace(card, classes=names, images=None), weight)
    result = evaluate(artifact, images=tmp_path / "photos")
    assert result.top1 < result.top5 < 1


def test_bad_settings_are_refused(tiny):
    with pytest.raises(SettingError, match="batch must be between 1 and 1000000, got 0"):
        evaluate(tiny, batch=0)
    with pytest.raises(PluginError, match="Unknown backend: 'onnxrt'"):
        evaluate(tiny, backend="onnxrt")
    with pytest.raises(PluginError, match="no device 'gpu'"):
        evaluate(tiny, backend="onnxruntime:gpu")
    with pytest.raises(ArtifactError, match="is of kind onnx; this needs torch"):
        evaluate(tiny, backend="torch")


def test_photos_are_decoded_once_for_several_artifacts(tiny, biased, monkeypatch):
    photos = open_part(tiny)
    evaluate(tiny, opened=photos)
    monkeypatch.setattr("tlopt.measure.answers.images.batches", lambda *_, **__: pytest.fail("decoded again"))
    result = evaluate(biased, opened=photos)
    assert result.images_per_s is None


def test_photos_too_large_for_the_memory_are_decoded_each_time(tiny):
    photos = open_part(tiny)
    photos.keep_mb = 0
    first = evaluate(tiny, opened=photos)
    assert not photos.cached(tiny.card.preprocess)
    assert evaluate(tiny, opened=photos).outputs.files == first.outputs.files


def test_accuracy_is_reported_per_source_of_a_merged_set(tiny, swatches, tmp_path):
    folder = scan(swatches)
    lines = ["path,label,origin"]
    for i, (file, label) in enumerate(zip(folder.files, folder.labels, strict=True)):
        lines.append(f"{swatches / file},{folder.classes[label]},{'phone' if i % 3 else 'camera'}")
    manifest = tmp_path / "all.csv"
    manifest.write_text("\n".join(lines))
    result = evaluate(tiny, images=manifest)
    camera, phone = result.origins
    assert (camera.origin, camera.images, phone.origin, phone.images) == ("camera", 20, "phone", 40)
    assert camera.images * camera.top1 + phone.images * phone.top1 == pytest.approx(result.top1 * 60)
    assert camera.top1 == result.outputs.correct[::3].mean()
    assert camera.interval[0] < camera.top1 < camera.interval[1]
    report = result.to_report()
    assert [one["origin"] for one in report.details["origins"]] == ["camera", "phone"]
    assert any(note.startswith("By source: camera ") for note in report.notes)
    assert [row["origin"] for row in result.by_origin().rows] == ["camera", "phone"]


def test_photos_of_one_source_are_not_split_by_source(tiny):
    assert evaluate(tiny).origins == ()


@pytest.mark.parametrize("tta", ["flip", "five", "ten"])
def test_views_are_averaged_and_recorded(tiny, tta):
    plain, result = evaluate(tiny), evaluate(tiny, tta=tta)
    assert result.images == plain.images
    assert result.conditions["views"] == tta
    if tta == "flip":  # a mean over the image does not see that it is mirrored
        np.testing.assert_allclose(result.outputs.probabilities, plain.outputs.probabilities, rtol=1e-4)
    else:
        assert not np.allclose(result.outputs.probabilities, plain.outputs.probabilities)


def test_throughput_includes_decoding_and_is_left_out_where_photos_are_decoded_already(tiny):
    photos = open_part(tiny)
    assert evaluate(tiny, opened=photos).images_per_s > 0
    assert evaluate(tiny, opened=photos).images_per_s is None


def test_a_confidence_is_chosen_on_validation_images_and_judged_on_others(tiny):
    plain = evaluate(tiny)
    result = evaluate(tiny, min_precision=0.5)
    chosen = result.selective
    assert chosen.chosen_on == len(open_part(tiny, part="val"))
    answered = plain.outputs.probabilities.max(axis=1) >= chosen.threshold
    assert chosen.coverage == answered.mean()
    assert chosen.precision == plain.outputs.correct[answered].mean()
    assert chosen.sentence() in result.to_report().notes
    assert plain.selective is None


@pytest.mark.parametrize("part", ["val", "all"])
def test_a_confidence_is_not_judged_where_it_was_chosen(part, tiny):
    with pytest.raises(ImagesError, match="judged on others"):
        evaluate(tiny, min_precision=0.9, split=part)


def test_a_folder_without_parts_leaves_nothing_to_choose_a_confidence_on(tiny, swatches, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(swatches, other)
    next(other.glob("*/*")).unlink()
    with pytest.raises(ImagesError, match=r"all \d+ images would be judged") as caught:
        evaluate(tiny, images=other, min_precision=0.9)
    assert f"tlopt data split {other}" in caught.value.hint
    assert " all images" not in evaluate(tiny, images=other).to_report().title


def test_the_surest_answers_are_shown(tiny):
    result = evaluate(tiny)
    (table,) = [one for one in result.to_report().more if "surest" in one.title]
    assert table.rows[0]["answered"] == 1.0
    assert table.rows[0]["accuracy"] == result.top1


def test_corrupted_images_are_judged_beside_the_reference(tiny, biased):
    result = evaluate(tiny, corruptions=True, reference=biased.path)
    assert [one.corruption for one in result.corrupted] == list(CORRUPTIONS)
    table = result.by_corruption()
    assert list(table.columns) == [
        "corruption",
        *(f"{who}_{i}" for who in ("accuracy", "reference") for i in (1, 2, 3)),
    ]
    assert table.rows[-1]["corruption"] == "mean"
    shares = [one.accuracies[0] for one in result.corrupted]
    assert table.rows[-1]["accuracy_1"] == pytest.approx(sum(shares) / len(shares))
    assert evaluate(tiny).corrupted == ()
