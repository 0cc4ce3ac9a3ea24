import dataclasses
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import peers
import pytest
from command_line import IMAGES
from PIL import Image

from exporters.errors import ConfigError, DeployError, FileError
from swin_deploy.images import batches as stream
from swin_deploy.images.class_names import (
    ClassNames,
    order_classes,
    published_class_names,
    read_class_names,
)
from swin_deploy.images.decode import load_image
from swin_deploy.images.labelled import LabelledImages, read_images
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.images.sets import load_images

STEPS = Preprocessing(crop=56, resize=56)


def make_tree(root: Path, **classes: int) -> Path:
    """Class folders with as many files each; nothing opens them here."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f"{index}.png").write_bytes(b"")
    return root


def by_path(images: LabelledImages) -> dict[str, int]:
    return dict(zip(images.paths, images.labels, strict=True))


def test_folders_go_in_sorted_order_as_torchvision_has_them(tmp_path: Path) -> None:
    data = make_tree(tmp_path / "d", zebra=1, ant=1, Bee=1, empty=0, **{".hidden": 1})
    (data / "ant" / "deep").mkdir()
    (data / "ant" / "deep" / "x.JPEG").write_bytes(b"")
    (data / "ant" / "notes.txt").write_text("no image")
    images = read_images(data, num_classes=4)
    expected = {"Bee/0.png": 0, "ant/0.png": 1, "ant/deep/x.JPEG": 1, "zebra/0.png": 3}
    assert by_path(images) == expected
    assert "torchvision" in images.order.rule
    (assumed,) = images.order.assumptions
    assert assumed.value == "Bee = 0, ant = 1, empty = 2, zebra = 3"
    assert assumed.option == "--classes FILE"


def test_folders_that_are_links_are_followed(tmp_path: Path) -> None:
    make_tree(tmp_path / "all", ant=1, bee=1, cow=1)
    subset = tmp_path / "subset"
    subset.mkdir()
    for name in ("ant", "cow"):
        (subset / name).symlink_to(tmp_path / "all" / name)
    assert by_path(read_images(subset, num_classes=2)) == {"ant/0.png": 0, "cow/0.png": 1}


def test_folders_of_eleven_numbers_are_doubted(tmp_path: Path) -> None:
    data = make_tree(tmp_path / "d", **{str(index): 1 for index in range(11)})
    images = read_images(data, num_classes=11)
    assert by_path(images)["10/0.png"] == 2
    (assumed,) = images.order.assumptions
    assert "10 = 2" in assumed.value
    assert "not the numbers themselves" in assumed.reason
    assert "--classes" in assumed.option


@pytest.mark.parametrize(
    ("names", "num_classes", "indices"),
    [
        pytest.param(["10", "2", "7"], 11, [10, 2, 7], id="numbers"),
        pytest.param(["007", "2"], 10, [7, 2], id="padded-numbers"),
        pytest.param(["n01440764", "n15075141"], 1000, [0, 999], id="imagenet-subset"),
    ],
)
def test_fewer_folders_than_classes(
    names: list[str], num_classes: int, indices: list[int], tmp_path: Path
) -> None:
    data = make_tree(tmp_path / "d", **dict.fromkeys(names, 1))
    images = read_images(data, num_classes=num_classes)
    assert by_path(images) == dict(zip([f"{n}/0.png" for n in names], indices, strict=True))


CLASS_FILES = {
    "lines": "ant\nbee\ncow\n\n",
    "windows": "\ufeffant\r\nbee\r\ncow\r\n",
    "synsets": "n00000001 ant, emmet\nn00000002 bee\nn00000003 cow\n",
    "list": '["ant", "bee", "cow"]',
    "list-of-lists": '[["n00000001", "ant"], ["n00000002", "bee"], ["n00000003", "cow"]]',
    "id2label": '{"id2label": {"0": "ant", "2": "cow", "1": "bee"}, "label2id": {}}',
    "keras": '{"0": ["n00000001", "ant"], "1": ["n00000002", "bee"], "2": ["n00000003", "cow"]}',
    "class-to-idx": '{"cow": 2, "bee": 1}',
}


@pytest.mark.parametrize("form", CLASS_FILES)
def test_class_files(form: str, tmp_path: Path) -> None:
    path = tmp_path / "classes"
    path.write_bytes(CLASS_FILES[form].encode())
    listed = read_class_names(path, 3)
    order = order_classes(["bee", "cow"], num_classes=3, known=listed, place="data")
    assert order.indices == {"bee": 1, "cow": 2}
    if "n00000002" in CLASS_FILES[form]:
        synset = order_classes(["n00000002"], num_classes=3, known=listed, place="data")
        assert synset.indices == {"n00000002": 1}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("ant\nbee\n", ConfigError, "names 2 classes, the model gives 3"),
        ("a\nb\nc\nd\n", ConfigError, "names 4 classes, the model gives 3"),
        ("", ConfigError, "names 0 classes"),
        ('{"ant": 3}', ConfigError, "names 4 classes"),
        ("{", FileError, "is not JSON"),
        ('{"0": 1.5}', FileError, "no list of names"),
        ('{"-1": "ant"}', FileError, "no list of names"),
        ("[1, 2, 3]", FileError, "no list of names"),
        ("\udcff", FileError, "not UTF-8 text"),
        ("crane\nbee\ncrane\n", ConfigError, "class 'crane' of data names 2 classes in"),
        ("ant\nbee\ncow\n", ConfigError, "class 'crane' of data is not in"),
    ],
)
def test_class_file_that_does_not_fit_is_rejected(
    text: str, error: type[DeployError], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(error, match=message):
        order_classes(
            ["crane"], num_classes=3, known=read_class_names(path, 3), place="data"
        )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("path,label\na/x.png,2\nb.png,0\n", id="header"),
        pytest.param("a/x.png,2\nb.png,0\n", id="no-header"),
        pytest.param("\ufeffFilename , Label\r\na/x.png , 2\r\nb.png,0\r\n", id="windows"),
        pytest.param('"a/x.png","2"\n\nb.png,00\n', id="quotes-and-blank-line"),
        pytest.param("{root}/a/x.png,2\nb.png,0", id="absolute-path"),
    ],
)
def test_csv_labels_are_indices(text: str, tmp_path: Path) -> None:
    make_tree(tmp_path, a=0)
    for name in ("a/x.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "val.csv").write_text(text.replace("{root}", str(tmp_path)), encoding="utf-8")
    images = read_images(tmp_path / "val.csv", num_classes=1000)
    assert images.labels == (2, 0)
    assert [(images.root / path).name for path in images.paths] == ["x.png", "b.png"]
    assert images.order.rule == "labels are the model's indices"


def test_csv_labels_may_be_names(tmp_path: Path) -> None:
    make_tree(tmp_path, a=2)
    (tmp_path / "val.csv").write_text("a/0.png,cow\na/1.png,ant\n")
    (tmp_path / "classes.json").write_text(json.dumps(["ant", "bee", "cow"]))
    listed = read_class_names(tmp_path / "classes.json", 3)
    assert read_images(tmp_path / "val.csv", num_classes=3, known=listed).labels == (2, 0)
    with pytest.raises(ConfigError, match=r"has 2 classes .*, the model gives 3"):
        read_images(tmp_path / "val.csv", num_classes=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("path,label\n", "has no rows"),
        ("a/0.png\n", "line 1: expected path,label, found 'a/0.png'"),
        ("a/0.png,1\na/1.png,1,2\n", "line 2: expected path,label"),
        ("a/0.png,\n", "line 1: expected path,label"),
        ("a/0.png,1\na/0.png,2\n", "line 2: a/0.png is there since line 1"),
        ("a/0.png,10\n", "has class 10, the model's indices go from 0 to 9"),
        ("a/0.png," + "9" * 5000, "has class 9999"),
        ("a/0.png,-1\n", "has 1 classes .*, the model gives 10"),
        ("a/nowhere.png,1\n", "nowhere.png cannot be read .No such file"),
        ("a/0\0.png,1\n", "cannot be read"),
    ],
)
def test_csv_that_cannot_be_used_is_rejected(text: str, message: str, tmp_path: Path) -> None:
    make_tree(tmp_path, a=2)
    (tmp_path / "val.csv").write_text(text)
    with pytest.raises(DeployError, match=message):
        read_images(tmp_path / "val.csv", num_classes=10)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"ant": 1, "bee": 1}, "has 2 classes .*, the model gives 3"),
        ({"ant": 1, "bee": 1, "cow": 1, "doe": 1}, "has 4 classes .*, the model gives 3"),
        ({"1": 1, "3": 1}, "has class 3, the model's indices go from 0 to 2"),
        ({"ant": 0}, "holds no images; expected files ending in"),
    ],
)
def test_folders_that_do_not_fit_are_rejected(
    classes: dict[str, int], message: str, tmp_path: Path
) -> None:
    data = make_tree(tmp_path / "d", **classes)
    with pytest.raises(DeployError, match=message):
        read_images(data, num_classes=3)


def test_loose_image_is_rejected(tmp_path: Path) -> None:
    data = make_tree(tmp_path / "d", ant=1, bee=1)
    (data / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"")
    with pytest.raises(FileError, match=r"00000001\.JPEG lies in no class folder; sort .* CSV"):
        read_images(data, num_classes=2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_without_permission_is_rejected(tmp_path: Path) -> None:
    data = make_tree(tmp_path / "d", ant=1, bee=1)
    (data / "bee").chmod(0)
    with pytest.raises(FileError, match=r"bee cannot be read .Permission denied"):
        read_images(data, num_classes=2)


def test_limit_is_spread_over_the_classes_and_repeats(tmp_path: Path) -> None:
    data = make_tree(tmp_path / "d", ant=50, bee=2, cow=50)
    first, again = (read_images(data, num_classes=3, limit=12) for _ in range(2))
    assert first == again
    assert Counter(first.labels) == {0: 5, 1: 2, 2: 5}
    assert list(first.paths) == sorted(first.paths)
    assert [path for path in first.paths if path.startswith("ant")] != [
        f"ant/{index}.png" for index in range(5)
    ]
    assert "12 of 102 images" in first.description
    assert len(read_images(data, num_classes=3, limit=1000).paths) == 102


def test_fingerprint_follows_the_files_and_not_the_labels(tmp_path: Path) -> None:
    data = make_tree(tmp_path / "d", **{"0": 2, "1": 2})
    (data / "val.csv").write_text("0/0.png,0\n1/0.png,1\n")
    before = read_images(data / "val.csv", num_classes=10)
    (data / "val.csv").write_text("0/0.png,1\n1/0.png,0\n")
    swapped = read_images(data / "val.csv", num_classes=10)
    assert swapped.labels != before.labels
    assert swapped.fingerprint == before.fingerprint
    (data / "0" / "0.png").write_bytes(b"longer")
    assert read_images(data / "val.csv", num_classes=10).fingerprint != before.fingerprint


def test_stream_gives_every_image_in_order_and_an_error_for_a_torn_one(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"no image")
    paths = [path.relative_to(IMAGES).as_posix() for path in sorted(IMAGES.glob("*/*.png"))][:20]
    paths.insert(9, str(tmp_path / "torn.png"))
    batches = list(stream.stream_batches(IMAGES, paths, STEPS, batch=8))
    assert [len(batch) for batch in batches] == [8, 8, 5]
    streamed = [entry for batch in batches for entry in batch]
    assert [path for path, _ in streamed] == paths
    assert isinstance(streamed.pop(9)[1], FileError)
    expected = load_images(IMAGES, STEPS).images[:20]
    images = [image for _, image in streamed if not isinstance(image, FileError)]
    np.testing.assert_array_equal(np.stack(images), expected)


def test_stream_decodes_a_few_batches_ahead_only(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def counted(path: Path, steps: Preprocessing, **_: object) -> np.ndarray:
        opened.append(path)
        return load_image(path, steps)

    monkeypatch.setattr(stream, "load_image", counted)
    paths = [path.relative_to(IMAGES).as_posix() for path in sorted(IMAGES.glob("*/*.png"))]
    batches = stream.stream_batches(IMAGES, paths, STEPS, batch=4)
    next(batches)
    batches.close()
    assert 4 <= len(opened) <= 4 * (stream.AHEAD + 1)


NAMES = ClassNames((("person",), ("cat",), ("coffee cup", "coffee")), "id2label of config.json")


@pytest.mark.parametrize(
    ("names", "indices"),
    [
        (["cat", "coffee", "person"], {"cat": 1, "coffee": 2, "person": 0}),
        (["Cat", "Coffee_Cup", "PERSON"], {"Cat": 1, "Coffee_Cup": 2, "PERSON": 0}),
        (["cat"], {"cat": 1}),
    ],
    ids=["equal", "spelt otherwise", "fewer"],
)
def test_names_of_the_checkpoint_decide(names: list[str], indices: dict[str, int]) -> None:
    order = order_classes(names, num_classes=3, known=NAMES, place="data")
    assert order.indices == indices
    assert order.rule == "class names as listed in id2label of config.json"
    assert not order.assumptions


def test_names_of_which_some_are_known_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'dog' of data is not in id2label .* --classes FILE"):
        order_classes(["cat", "dog", "person"], num_classes=3, known=NAMES, place="data")


def test_other_names_than_the_checkpoints_are_assumed_to_be_sorted() -> None:
    order = order_classes(["ant", "bee", "cow"], num_classes=3, known=NAMES, place="data")
    (assumed,) = order.assumptions
    assert assumed.value == "ant = 0, bee = 1, cow = 2"
    assert "not the names in id2label of config.json (person, cat, coffee cup)" in assumed.reason


def test_load_images_goes_by_the_checkpoints_names(tmp_path: Path) -> None:
    for name in ("cat", "coffee", "person"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    found = load_images(tmp_path, STEPS, num_classes=3, known=NAMES)
    assert found.labels is not None
    assert found.labels.tolist() == [1, 2, 0]
    assert found.classes == ("person", "cat", "coffee cup")


def test_load_images_without_any_asked_name_has_no_labels_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "2024").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "2024" / "a.png")
    asked = dataclasses.replace(NAMES, asked=True)
    found = load_images(tmp_path, STEPS, num_classes=3, known=asked)
    assert found.labels is None
    assert found.notes == ("no labels: no folder has a name of id2label of config.json",)
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "a.png")
    with pytest.raises(ConfigError, match=r"class '2024' of folder .* is not in"):
        load_images(tmp_path, STEPS, num_classes=3, known=asked)


@pytest.mark.parametrize(
    ("names", "num_classes", "known", "labels"),
    [
        (("n01440764", "n15075141"), 1000, None, [0, 999]),  # some of ImageNet's folders
        (("1", "3"), 10, None, [1, 3]),
        (("ant", "bee"), 2, None, [0, 1]),
        (("coffee-cup", "person"), 3, NAMES, [2, 0]),
        (("ant", "bee"), 3, None, None),
    ],
    ids=["synsets", "indices", "all", "named", "unknown"],
)
def test_parity_and_evaluate_see_the_same_labels(
    names: tuple[str, ...],
    num_classes: int,
    known: ClassNames | None,
    labels: list[int] | None,
    tmp_path: Path,
) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    seen = load_images(tmp_path, STEPS, num_classes=num_classes, known=known)
    if labels is None:
        assert seen.labels is None
        assert "which is which is not known" in seen.notes[0]
        with pytest.raises(ConfigError, match="which is which is not known"):
            read_images(tmp_path, num_classes=num_classes, known=known)
        return
    assert seen.labels is not None
    listed = read_images(tmp_path, num_classes=num_classes, known=known)
    assert seen.labels.tolist() == list(listed.labels) == labels
    assert seen.names == listed.paths
    assert seen.order == listed.order


def test_published_names_are_imagenets() -> None:
    small, large = published_class_names(1000), published_class_names(21841)
    assert (len(small.names), len(large.names)) == (1000, 21841)
    assert small.shown[0] == "tench, Tinca tinca"
    assert small.find(["tench", "n15075141"]) == {"tench": 0, "n15075141": 999}
    assert small.find(["crane"]) is None  # the bird and the machine
    # The authors' data/map22kto1k.txt: the place of an ImageNet-1k class among the 21,841.
    places = {0: 359, 400: 4151, 600: 7672, 700: 9039, 849: 11137, 996: 21196, 999: 21817}
    assert {i: large.names[place][-1] for i, place in places.items()} == {
        i: small.names[i][-1] for i in places
    }
    # Two synsets have no images, and the last two of all take their places.
    synsets = [names[-1] for names in large.names]
    assert [synsets.pop(15027), synsets.pop(9205)] == ["n15102894", "n15102455"]
    assert [*synsets, "n15102455", "n15102894"] == sorted([*synsets, "n15102455", "n15102894"])


def test_published_names_equal_timms_for_the_small_set() -> None:
    info = peers.import_peer("timm.data").ImageNetInfo("imagenet-1k")
    names = published_class_names(1000)
    assert [found[-1] for found in names.names] == info.label_names()
    assert list(names.shown) == [info.index_to_description(index) for index in range(1000)]
