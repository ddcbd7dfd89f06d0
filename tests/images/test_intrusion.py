import pytest

from tlopt.cards.card import CARD_NAME
from tlopt.errors import OutputError
from tlopt.images import intrusion
from tlopt.publishing import PAGE


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize("out", ["tuned", "runs/tuned", "cat/tuned", "cat"])
def test_an_output_among_class_folders_is_refused(tmp_path, out):
    images = touch(tmp_path / "images", "cat/1.jpg", "dog/more/2.jpg")
    with pytest.raises(OutputError, match="lies among the images") as raised:
        intrusion.refuse(images / out, [tmp_path / "nothing", images])
    assert raised.value.exit_code == 2  # as whatever else may not be written there


def test_a_link_to_the_images_is_seen_through(tmp_path):
    touch(tmp_path / "images", "cat/1.jpg", "dog/2.jpg")
    (tmp_path / "link").symlink_to("images")
    with pytest.raises(OutputError, match="lies among the images"):
        intrusion.refuse(tmp_path / "images" / "tuned", [tmp_path / "link"])


@pytest.mark.parametrize(
    ("names", "out"),
    [
        (["images/cat/1.jpg", "images/dog/1.jpg"], "tuned"),  # beside the images
        (["images/cat/1.jpg", "images/dog/1.jpg"], "images"),  # told by who replaces it
        (["images/cat/1.jpg", "images/dog/1.jpg"], "images/.runs/tuned"),  # hidden folders are passed over
        (["images/train/cat/1.jpg", "images/val/cat/1.jpg"], "images/runs/tuned"),  # so is what is no part
        (["images/1.jpg", "images/notes/a.txt"], "images/tuned"),  # no classes
        ([f"images/{CARD_NAME}", "images/a/1.jpg", "images/b/1.jpg"], "images/pruned"),  # an artifact
        (["images/set.csv"], "images/tuned"),
    ],
)
def test_an_output_where_nobody_looks_for_images_is_not(tmp_path, names, out):
    touch(tmp_path, *names)
    intrusion.refuse(tmp_path / out, [tmp_path / "images", tmp_path / names[0]])


@pytest.mark.parametrize("file", ["cat/page.html", "dog/more/page.html", "new/page.html"])
def test_a_file_in_a_class_folder_is_refused(tmp_path, file):
    images = touch(tmp_path / "images", "cat/1.jpg", "dog/more/2.jpg")
    with pytest.raises(OutputError, match="lies among the images") as raised:
        intrusion.check_file(images / file, makes=PAGE, reads=[images])
    assert raised.value.exit_code == 2
    assert not (images / file).exists()


def test_a_file_beside_the_class_folders_is_not(tmp_path):
    images = touch(tmp_path / "images", "cat/1.jpg", "dog/2.jpg")
    intrusion.check_file(images / "page.html", makes=PAGE, reads=[images])
    intrusion.check_file(tmp_path / "page.html", makes=PAGE, reads=[images])


def test_an_output_within_a_part_is_refused(tmp_path):
    images = touch(tmp_path / "images", "train/cat/1.jpg", "val/cat/1.jpg")
    with pytest.raises(OutputError, match="lies among the images"):
        intrusion.refuse(images / "val" / "tuned", [images])
