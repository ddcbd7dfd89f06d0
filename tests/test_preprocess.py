import contextlib
import io
import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tlopt.errors import ImagesError, SettingError
from tlopt.preprocess import Preprocess
from tlopt.reading.image_files import read_image
from tlopt.reading.pictures import orientation, to_rgb, turned, upright


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


SIZES = [(41, 57), (57, 41), (100, 100), (333, 77), (31, 500), (7, 9), (256, 256), (255, 257), (640, 481), (1, 1)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "crop"), [(32, 0.875), (37, 0.95), (64, 1.0), (224, 0.875), (33, 0.9)])
def test_pixels_are_those_of_timms_evaluation_transform(size, crop, interpolation):
    from tlopt.networks import vision_ops

    vision_ops.declare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pytest.importorskip("timm.data")
    transform = data.create_transform(size, is_training=False, crop_pct=crop, interpolation=interpolation)
    preprocess = Preprocess(size=size, crop_ratio=crop, interpolation=interpolation)
    for width, height in SIZES:
        image = noise(width, height)
        expected = transform(image).numpy()
        pixels = preprocess.pixels(image)
        assert pixels.shape == (size, size, 3)
        np.testing.assert_array_equal(pixels, _resized_and_cropped(transform, image), err_msg=f"{width} x {height}")
        # Both normalize in float32, in another order of operations: some units in the last place.
        np.testing.assert_allclose(preprocess(image), expected, atol=2e-6)


def _resized_and_cropped(transform, image):
    for step in transform.transforms[:2]:
        image = step(image)
    return np.asarray(image)


def test_a_long_strip_is_cut_before_it_is_resized():
    preprocess = Preprocess(size=32)
    resized = preprocess.resized(Image.new("RGB", (1, 30_000), (9, 8, 7)))
    assert resized.size == (36, 36 * 64)
    assert preprocess.crop(resized).shape == (32, 32, 3)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_exif_orientation_is_undone(tmp_path, turn, kind):
    grey = np.zeros((40, 60), np.uint8)
    grey[:20, :30] = 255
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / "image"
    Image.fromarray(grey).convert("RGB").save(path, kind, exif=exif)
    from PIL import ImageOps

    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    turned = upright(read_image(path))
    np.testing.assert_array_equal(np.asarray(turned), expected)
    assert turned.size == ((40, 60) if turn >= 5 else (60, 40))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_data_leave_the_image_as_it_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(encoded(noise(20, 10), "JPEG", exif=exif))
    start = data.index(b"Exif\0\0") + 6
    data[start + 4 : start + 8] = b"\xff\xff\xff\x7f"
    (tmp_path / "a.jpg").write_bytes(data)
    image = read_image(tmp_path / "a.jpg")
    assert orientation(image) == 1
    assert upright(image).size == (20, 10)


def test_transparency_goes_over_white():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    assert np.asarray(to_rgb(image))[0, :2].tolist() == [[255, 0, 0], [255, 255, 255]]
    grey = Image.new("LA", (1, 1), (100, 0))
    assert to_rgb(grey).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["P", "L", "1", "RGB"])
def test_a_transparent_color_goes_over_white(tmp_path, mode):
    image = Image.new(mode, (2, 1), 0)
    if mode == "P":
        image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), (1, 1, 1) if mode == "RGB" else 1)
    image.save(tmp_path / "a.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    pixels = np.asarray(to_rgb(read_image(tmp_path / "a.png")))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == {"P": [40, 50, 60], "L": [1] * 3, "1": [255] * 3, "RGB": [1] * 3}[mode]


def test_palette_and_one_bit_and_grey_become_rgb(tmp_path):
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert to_rgb(palette).getpixel((0, 0)) == (10, 20, 30)
    assert to_rgb(Image.new("1", (1, 1), 1)).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("L", (1, 1), 77)).getpixel((0, 0)) == (77, 77, 77)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_scale(tmp_path, kind):
    grey = np.array([[0, 257 * 10, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a", kind)
    assert np.asarray(to_rgb(read_image(tmp_path / "a")))[0, :, 0].tolist() == [0, 10, 255]


def test_float_images_are_scaled_by_their_range():
    def brightest(values):
        return np.asarray(to_rgb(Image.fromarray(np.array([values], np.float32))))[0, :, 1].tolist()

    assert brightest([0, 0.5, 1]) == [0, 128, 255]
    assert brightest([0, 100, 250]) == [0, 100, 250]
    assert brightest([np.nan, -5, 200]) == [0, 0, 200]


def test_cmyk_of_a_jpeg_becomes_rgb(tmp_path):
    Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    pixel = np.array(to_rgb(read_image(tmp_path / "a.jpg")).getpixel((5, 5)))
    assert np.abs(pixel - [200, 30, 40]).max() <= 4  # what JPEG loses


def test_read_refuses_what_is_no_image(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(encoded(noise(64, 64), "JPEG")[:2000])
    (tmp_path / "cut.png").write_bytes(encoded(noise(64, 64), "PNG")[:2000])
    with pytest.raises(ImagesError, match=r"empty\.jpg cannot be read as an image: it is empty"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(ImagesError, match="its content is none of JPEG, PNG, WEBP"):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(ImagesError, match=r"cut\.jpg .*truncated"):
        read_image(tmp_path / "cut.jpg")
    with pytest.raises(ImagesError, match=r"cut\.png .*truncated"):
        read_image(tmp_path / "cut.png")
    with pytest.raises(ImagesError, match="no such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(ImagesError, match="cannot be read"):
        read_image(tmp_path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
def test_random_damage_never_raises_anything_but_images_errors(tmp_path, kind):
    from PIL import features

    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF decoder")
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}
    data = encoded(noise(30, 20), kind, **options)
    path, preprocess = tmp_path / "a", Preprocess(size=8)
    for trial in range(150):
        damaged = np.frombuffer(data, np.uint8).copy()
        end = min(len(damaged), (80, len(damaged))[trial % 2])
        damaged[random.integers(0, end, 3)] = random.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(ImagesError):
            preprocess(path)


def test_normalize_lays_out_and_orders_channels():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = (pixels / 255 - mean) / std
    plain = Preprocess(size=4, mean=mean, std=std)
    np.testing.assert_allclose(plain.normalize(pixels), expected.transpose(0, 3, 1, 2), atol=1e-6)
    last = Preprocess(size=4, mean=mean, std=std, layout="nhwc")
    np.testing.assert_allclose(last.normalize(pixels), expected, atol=1e-6)
    bgr = Preprocess(size=4, mean=mean, std=std, channels="bgr")
    reversed_ = ((pixels[..., ::-1] / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(bgr.normalize(pixels), reversed_, atol=1e-6)
    folded = Preprocess(size=4, mean=mean, std=std, folded=True)
    assert folded.normalize(pixels) is pixels
    for preprocess in (plain, last, bgr, folded):
        made = preprocess.normalize(pixels)
        assert (made.shape[1:], made.dtype) == (preprocess.input_shape, preprocess.input_dtype)
        assert made.flags.writeable


def test_fields_survive_a_round_trip():
    preprocess = Preprocess(size=96, mean=(0.5, 0.4, 0.3), layout="nhwc", interpolation="lanczos")
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "at least 1 pixel and at most 16384, got 0"),
        ({"size": 10**9}, "at least 1 pixel and at most 16384, got 1000000000"),
        ({"size": 8, "crop_ratio": 1e-300}, "too small for"),
        ({"size": 8, "crop_ratio": 1.5}, "at most 1, got 1.5"),
        ({"size": 8, "interpolation": "cubic"}, "Unknown interpolation 'cubic'"),
        ({"size": 8, "std": (1, 0, 1)}, "three numbers above 0"),
        ({"size": 8, "std": (1, 1)}, "three numbers above 0"),
        ({"size": 8, "mean": (0.5,)}, "mean must be three numbers"),
        ({"size": 8, "layout": "hwc"}, "'hwc' is not one of nchw, nhwc"),
        ({"size": 8, "channels": "gbr"}, "'gbr' is not one of rgb, bgr"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(SettingError, match=message):
        Preprocess(**fields)


def test_views_are_those_of_torchvisions_ten_crop():
    from tlopt.networks import vision_ops

    vision_ops.declare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchvision = pytest.importorskip("torchvision.transforms")
    image, preprocess = noise(50, 40), Preprocess(size=24, crop_ratio=0.8)
    resized = preprocess.resized(image)
    expected = [np.asarray(crop) for crop in torchvision.TenCrop(24)(resized)]
    top_left, top_right, bottom_left, bottom_right, center = expected[:5]
    found = preprocess.views(image, "five")
    np.testing.assert_array_equal(found, [center, top_left, top_right, bottom_left, bottom_right])
    np.testing.assert_array_equal(preprocess.views(image, "ten"), [*found, *found[:, :, ::-1]])
    np.testing.assert_array_equal(preprocess.views(image, "flip"), [center, center[:, ::-1]])
    np.testing.assert_array_equal(preprocess.views(image)[0], preprocess.pixels(image))


SIDES = st.integers(1, 90)
SHARES = st.floats(0, 1, allow_nan=False)
PREPROCESSES = st.builds(
    Preprocess,
    size=st.integers(1, 40),
    crop_ratio=st.floats(0.3, 1),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    mean=st.tuples(SHARES, SHARES, SHARES),
    std=st.tuples(*[st.floats(0.01, 2)] * 3),
    layout=st.sampled_from(["nchw", "nhwc"]),
    channels=st.sampled_from(["rgb", "bgr"]),
    folded=st.booleans(),
)


@given(preprocess=PREPROCESSES, width=SIDES, height=SIDES)
def test_any_image_becomes_an_input_of_the_network(preprocess, width, height):
    image = noise(width, height)
    pixels = preprocess.pixels(image)
    assert (pixels.shape, pixels.dtype) == ((preprocess.size, preprocess.size, 3), np.uint8)
    made = preprocess(image)
    assert (made.shape, made.dtype) == (preprocess.input_shape, preprocess.input_dtype)
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(preprocess.views(image, "five")[0], pixels)


@given(preprocess=PREPROCESSES, seed=st.integers(0, 100))
def test_pixels_can_be_told_from_the_input(preprocess, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 3, 3, 3), dtype=np.uint8)
    made = preprocess.normalize(pixels)
    if not preprocess.folded:
        rows = made if preprocess.layout == "nhwc" else made.transpose(0, 2, 3, 1)
        rows = (rows * np.float64(preprocess.std) + preprocess.mean) * 255
        made = np.round(rows if preprocess.channels == "rgb" else rows[..., ::-1])
    np.testing.assert_array_equal(made, pixels)


@given(color=st.tuples(*[st.integers(0, 255)] * 3), preprocess=PREPROCESSES, width=SIDES, height=SIDES)
def test_an_image_of_one_color_keeps_it(color, preprocess, width, height):
    assert (preprocess.pixels(Image.new("RGB", (width, height), color)) == color).all()


@given(preprocess=PREPROCESSES)
def test_fields_survive_json(preprocess):
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


@given(turn=st.integers(1, 8), width=SIDES, height=SIDES)
def test_a_turn_and_its_inverse_give_the_image_back(turn, width, height):
    image, inverse = noise(width, height), {6: 8, 8: 6}.get(turn, turn)
    np.testing.assert_array_equal(np.asarray(turned(turned(image, turn), inverse)), np.asarray(image))
