import gc
import time
import weakref

import numpy as np
import pytest
from PIL import Image

from tlopt.cards.card import ImagesRef
from tlopt.errors import ImagesError, SettingError
from tlopt.images import SPLITS, Unreadable, batches, ordered, reopen, scan
from tlopt.images.parts import assign
from tlopt.preprocess import Preprocess


def draw(path, seed, size=12):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pets(tmp_path):
    """Two classes, 30 cats and 10 dogs, all different."""
    for i in range(40):
        draw(tmp_path / "pets" / ("cat" if i < 30 else "dog") / f"{i}.png", i)
    return tmp_path / "pets"


@pytest.fixture
def parted(tmp_path):
    """train, val and test with two classes."""
    for k, (part, count) in enumerate([("train", 10), ("Validation", 3), ("test", 4)]):
        for i in range(count):
            for name in ("a", "b"):
                draw(tmp_path / "parted" / part / name / f"{i}.png", 1000 * k + 2 * i + (name == "a"))
    return tmp_path / "parted"


# Scanning folders


def test_scan_lists_classes_and_files_in_order(pets):
    (pets / ".hidden").mkdir()
    (pets / "cat" / "notes.txt").write_text("no image")
    (pets / "cat" / ".3.png").write_bytes(b"")
    draw(pets / "cat" / "more" / "deep.JPG", 99)
    folder = scan(pets)
    assert folder.classes == ("cat", "dog")
    assert folder.counts == {"cat": 31, "dog": 10}
    assert "cat/more/deep.JPG" in folder.files
    assert list(folder.files) == sorted(folder.files)
    assert (folder.fixed == -1).all()


def test_scan_knows_parts_by_their_names(parted):
    folder = scan(parted)
    assert np.bincount(folder.fixed).tolist() == [20, 6, 8]


def test_scan_takes_train_for_a_class_if_it_holds_images(tmp_path):
    for name in ("train", "tram"):
        draw(tmp_path / name / "1.png", len(name))
    assert scan(tmp_path).classes == ("train", "tram")


def test_scan_warns_of_folders_beside_the_parts(parted, caplog):
    (parted / "extra").mkdir()
    scan(parted)
    assert "other folders are ignored: extra" in caplog.text


def test_scan_refuses_two_folders_for_one_part(parted):
    (parted / "val").mkdir()
    with pytest.raises(ImagesError, match="two folders for the val part"):
        scan(parted)


def test_scan_refuses_a_missing_folder(tmp_path):
    with pytest.raises(ImagesError, match="does not exist"):
        scan(tmp_path / "none")
    (tmp_path / "file.txt").touch()
    with pytest.raises(ImagesError, match="is a file"):
        scan(tmp_path / "file.txt")


def test_scan_refuses_a_single_class(tmp_path):
    with pytest.raises(ImagesError, match="has no class folders"):
        scan(tmp_path)
    draw(tmp_path / "cat" / "1.png", 0)
    with pytest.raises(ImagesError, match="has 1 class folder;"):
        scan(tmp_path)


def test_scan_hints_at_a_folder_too_high_up(pets):
    with pytest.raises(ImagesError) as caught:
        scan(pets.parent)
    assert caught.value.hint == f"Did you mean {pets}?"


def test_scan_refuses_an_empty_class_folder(pets):
    (pets / "fish").mkdir()
    with pytest.raises(ImagesError, match="fish holds no image"):
        scan(pets)


def test_scan_refuses_a_class_that_only_the_test_part_has(parted):
    draw(parted / "test" / "c" / "1.png", 0)
    with pytest.raises(ImagesError, match="class c has no folder"):
        scan(parted)


def test_scan_allows_a_class_that_the_test_part_lacks(parted):
    draw(parted / "train" / "c" / "1.png", 0)
    assert scan(parted).classes == ("a", "b", "c")


# Identity


def test_digest_tells_names_and_contents_and_classes_apart(pets):
    digest = scan(pets).digest
    assert digest == scan(str(pets)).digest
    pets.rename(pets.parent / "moved")
    pets = pets.parent / "moved"
    assert scan(pets).digest == digest
    (pets / "cat" / "0.png").rename(pets / "cat" / "renamed.png")
    renamed = scan(pets).digest
    draw(pets / "cat" / "renamed.png", 555)
    assert len({digest, renamed, scan(pets).digest}) == 3


def test_digest_takes_names_that_are_not_utf_8(pets):
    import os

    name = os.fsencode(pets) + b"/cat/\xff.png"
    with open(name, "wb") as file:
        file.write((pets / "cat" / "0.png").read_bytes())
    assert len(scan(pets).digest) == 64


def test_selected_images_keep_the_hashes_read_before(pets):
    folder = scan(pets)
    hashes = folder.hashes
    for file in pets.rglob("*.png"):
        file.unlink()
    assert folder.select([3, 1]).hashes == (hashes[3], hashes[1])


def test_folders_compare_by_identity(pets):
    folder = scan(pets)
    assert folder == folder
    assert folder != scan(pets)


# Splitting


def test_split_is_stratified_disjoint_and_complete(pets):
    parts = scan(pets).split(val=0.2, test=0.1, seed=0)
    assert parts["val"].counts == {"cat": 6, "dog": 2}
    assert parts["test"].counts == {"cat": 3, "dog": 1}
    files = [file for part in SPLITS for file in parts[part].files]
    assert sorted(files) == list(scan(pets).files)


def test_split_depends_on_the_seed_alone(pets):
    def chosen(seed):
        return scan(pets).split(val=0.2, test=0.2, seed=seed)["test"].files

    assert chosen(3) == chosen(3)
    assert chosen(3) != chosen(4)


def test_split_keeps_one_content_on_one_side_even_across_classes(pets):
    for i in range(10):
        (pets / "cat" / f"copy{i}.png").write_bytes((pets / "cat" / f"{i}.png").read_bytes())
        (pets / "dog" / f"copy{i}.png").write_bytes((pets / "cat" / f"{i}.png").read_bytes())
    for seed in range(5):
        parts = scan(pets).split(val=0.2, test=0.2, seed=seed)
        contents = [set(parts[part].hashes) for part in SPLITS]
        assert not contents[0] & contents[1]
        assert not contents[0] & contents[2]
        assert not contents[1] & contents[2]
        assert all(len(parts[part]) >= 6 for part in SPLITS)


def test_split_gives_small_classes_one_image_in_each_part(tmp_path):
    for i in range(3):
        draw(tmp_path / "rare" / f"{i}.png", i)
    for i in range(50):
        draw(tmp_path / "common" / f"{i}.png", 10 + i)
    parts = scan(tmp_path).split(val=0.1, test=0.1, seed=0)
    assert [parts[part].counts["rare"] for part in SPLITS] == [1, 1, 1]


def test_split_always_leaves_an_image_to_train_on(tmp_path):
    for name in ("a", "b"):
        draw(tmp_path / name / "1.png", ord(name))
    draw(tmp_path / "b" / "2.png", 5)
    with pytest.raises(SettingError, match="3 groups of images are too few"):
        scan(tmp_path).split(val=0.45, test=0.45, seed=0)
    draw(tmp_path / "b" / "3.png", 6)
    parts = scan(tmp_path).split(val=0.45, test=0.45, seed=0)
    assert min(parts["train"].counts.values()) == 1


def test_split_uses_fixed_parts_as_they_are(parted):
    parts = scan(parted).split(val=0.5, test=0.4, seed=0)
    assert [len(parts[part]) for part in SPLITS] == [20, 6, 8]
    assert all(file.startswith("test/") for file in parts["test"].files)


def test_split_draws_only_the_part_that_is_missing(parted):
    for file in (parted / "Validation").rglob("*.png"):
        file.unlink()
    for folder in (parted / "Validation" / "a", parted / "Validation" / "b", parted / "Validation"):
        folder.rmdir()
    parts = scan(parted).split(val=0.2, test=0.5, seed=0)
    assert [len(parts[part]) for part in SPLITS] == [16, 4, 8]


def test_split_without_shares_reads_no_file(pets):
    folder = scan(pets)
    for file in pets.rglob("*.png"):
        file.unlink()
    parts = folder.split(val=0, test=0, seed=0)
    assert [len(parts[part]) for part in SPLITS] == [40, 0, 0]


def test_split_refuses_shares_that_leave_nothing(pets):
    with pytest.raises(SettingError, match="sum up to 1; nothing is left"):
        scan(pets).split(val=0.5, test=0.5, seed=0)


def test_assign_keeps_large_groups_together_and_hits_the_shares():
    random = np.random.default_rng(0)
    groups = random.integers(0, 60, 900)
    labels = random.integers(0, 4, 900)
    parts = assign(labels, groups, {"val": 0.15, "test": 0.2}, seed=0, classes=4)
    for group in range(60):
        assert len(np.unique(parts[groups == group])) == 1
    for label in range(4):
        shares = np.bincount(parts[labels == label], minlength=3) / (labels == label).sum()
        np.testing.assert_allclose(shares, [0.65, 0.15, 0.2], atol=0.06)


def test_assign_fills_every_part_from_few_groups():
    groups = np.repeat(np.arange(4), 25)
    parts = assign(np.tile([0, 1], 50), groups, {"val": 0.1, "test": 0.1}, seed=0, classes=2)
    assert sorted(np.bincount(parts).tolist()) == [25, 25, 50]


def test_assign_refuses_fewer_groups_than_parts():
    with pytest.raises(SettingError, match="2 groups of images are too few"):
        assign(np.zeros(10, int), np.repeat([0, 1], 5), {"val": 0.1, "test": 0.1}, seed=0, classes=1)


def test_reopen_refuses_changed_images(pets):
    folder = scan(pets)
    ref = ImagesRef(path=str(pets), digest=folder.digest, val=0.2, test=0.2, seed=1)
    assert reopen(ref)["test"].files == folder.split(val=0.2, test=0.2, seed=1)["test"].files
    (pets / "cat" / "0.png").unlink()
    with pytest.raises(ImagesError, match="not the images that the artifact was trained on"):
        reopen(ref)


# Manifests


def test_a_manifest_stands_for_a_folder(pets):
    lines = ["path,label,split,origin"]
    lines += [f"cat/{i}.png,feline,{'train' if i < 20 else 'test'},home" for i in range(30)]
    lines += [f"./dog/{i}.png,canine,,street" for i in range(30, 40)]
    file = pets / "list.csv"
    file.write_text("\n".join(lines))
    folder = scan(file)
    assert folder.counts == {"canine": 10, "feline": 30}
    assert folder.path == pets
    assert folder.source == file
    assert dict(zip(folder.files, folder.origins, strict=True))["dog/30.png"] == "street"
    parts = folder.split(val=0.1, test=0.5, seed=0)
    assert len(parts["test"]) == 10
    ref = ImagesRef(path=str(folder.source), digest=folder.digest, val=0.1, test=0.5, seed=0)
    assert reopen(ref)["val"].files == parts["val"].files


@pytest.mark.parametrize(("separator", "mark"), [(";", ""), ("\t", ""), (",", "\ufeff")])
def test_a_manifest_may_come_from_a_spreadsheet(pets, separator, mark):
    rows = [("Path", "Label "), ("cat/1.png", "a, b" if separator != "," else '"a, b"'), ("dog/31.png", "c")]
    (pets / "list.csv").write_text(mark + "\r\n".join(separator.join(row) for row in rows), encoding="utf-8")
    assert scan(pets / "list.csv").classes == ("a, b", "c")


def test_a_parquet_manifest_reads_like_csv(pets):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"path": ["cat/1.png", "dog/31.png"], "label": [7, 8], "split": ["train", None], "x": [1, 2]})
    parquet.write_table(table, pets / "list.parquet")
    folder = scan(pets / "list.parquet")
    assert folder.classes == ("7", "8")
    assert folder.fixed.tolist() == [0, -1]
    (pets / "broken.parquet").write_text("no table")
    with pytest.raises(ImagesError, match="cannot be read as a Parquet table"):
        scan(pets / "broken.parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs one column 'path'; it is empty"),
        ("file,label\ncat/1.png,a", "needs one column 'path'; its columns are file, label"),
        ("path,label\n", "lists no image"),
        ("path,label\ncat/1.png,a\n\ncat/2.png,\n", "line 4 has no label"),
        ("path,label\n,a\n", "line 2 has no path"),
        ("path,label,split\ncat/1.png,a,tain\n", "line 2 names the unknown split 'tain'"),
        ("path,label\ncat/1.png,a\ncat/1.png,b\n", r"line 3 names cat/1\.png again, after line 2"),
        ("path,label\ncat/nope.png,a\n", r"line 2: there is no file cat/nope\.png"),
        ("path,label\ncat/1.png,a,b\n", "line 2 has 3 columns, the first line 2"),
        ("path,label\ncat/1.png,a\ncat/2.png,a\n", "has 1 label;"),
        ("path,label,split\ncat/1.png,a,\ncat/2.png,b,test\n", "lists the class b .* never for training"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_line(pets, text, message):
    (pets / "list.csv").write_text(text)
    with pytest.raises(ImagesError, match=message):
        scan(pets / "list.csv")


def test_a_manifest_that_is_no_text_or_missing_is_refused(pets):
    (pets / "unicode.csv").write_bytes("path,label\ncat/0.png,cat\n".encode("utf-16"))
    with pytest.raises(ImagesError, match="line 1 is not UTF-8"):
        scan(pets / "unicode.csv")
    (pets / "list.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    with pytest.raises(ImagesError, match="cannot be read as a CSV table"):
        scan(pets / "list.csv")
    with pytest.raises(ImagesError, match="no manifest at"):
        scan(pets / "none.csv")


# Decoding


def test_batches_come_in_order_and_leave_out_the_unreadable(pets):
    (pets / "cat" / "5.png").write_bytes(b"")
    folder = scan(pets)
    unreadable = Unreadable(len(folder))
    made = list(batches(folder, Preprocess(size=8), batch=16, unreadable=unreadable))
    assert [len(batch.files) for batch in made] == [16, 16, 7]
    assert [file for batch in made for file in batch.files] == [f for f in folder.files if f != "cat/5.png"]
    assert "it is empty" in unreadable.reasons["cat/5.png"]
    assert made[0].inputs.shape == (16, 3, 8, 8)
    first = Preprocess(size=8)(pets / made[0].files[0])
    np.testing.assert_array_equal(made[0].inputs[0], first)


def test_batches_stop_if_more_than_a_tenth_is_unreadable(pets):
    for i in range(4):
        (pets / "cat" / f"{i}.png").write_bytes(b"no image")
    assert sum(len(b.files) for b in batches(scan(pets), Preprocess(size=8), batch=8)) == 36
    (pets / "cat" / "4.png").write_bytes(b"no image")
    with pytest.raises(ImagesError, match="5 of the 40 images cannot be read"):
        list(batches(scan(pets), Preprocess(size=8), batch=8))


def test_batches_stop_if_no_image_is_left(pets):
    (pets / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(ImagesError, match=r"0\.png cannot be read as an image: it is empty\.$"):
        list(batches(scan(pets).select([0]), Preprocess(size=8), batch=8))


@pytest.mark.parametrize("chunk", [1, 7])
def test_ordered_keeps_order_and_works_a_bounded_number_ahead(chunk):
    started = []

    def square(x):
        started.append(x)
        time.sleep(0.0005 * (x % 3))
        return x * x

    results = ordered(square, range(200), workers=2, chunk=chunk)
    assert next(results) == 0
    time.sleep(0.02)
    assert len(started) <= 8 * chunk + 2 * chunk
    assert list(results) == [x * x for x in range(1, 200)]


def test_ordered_hands_an_error_on_and_lets_go_of_its_threads():
    def refuse(x):
        if x == 5:
            raise ValueError("five")
        return x

    with pytest.raises(ValueError, match="five"):
        list(ordered(refuse, range(1000)))


def test_batches_do_not_hold_images_that_were_used(pets):
    made = batches(scan(pets), Preprocess(size=8), batch=4)
    first = weakref.ref(next(made).inputs)
    next(made)
    gc.collect()
    assert first() is None
