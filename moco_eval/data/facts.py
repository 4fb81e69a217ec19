"""What is published of the data sets that are opened by name: splits, counts, metrics, sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TRANSFER = "split and metric of arXiv:1805.08974 and arXiv:2002.05709, B.8"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One data set.

    Attributes:
        title: What papers call it.
        num_classes: How many classes it has.
        num_train: Training images, without those of the validation set.
        num_val: Images of the published validation set; 0 where there is none.
        num_test: Images that count.
        metric: What the field reports; ``mAP`` where an image may show several classes.
        holds: What ``DIR`` must hold.
        get: How to get it, with ``{dir}`` for the folder.
        source: Whose split and metric these are.
        torchvision: The class of torchvision that opens the same files; empty if there is none.
    """

    title: str
    num_classes: int
    num_train: int
    num_val: int = 0
    num_test: int
    metric: Literal["top1", "mean_per_class", "mAP"] = "top1"
    holds: str
    get: str
    source: str = TRANSFER
    torchvision: str = ""


def _download(name: str) -> str:
    call = f"torchvision.datasets.{name}('{{dir}}', download=True)"
    return f'python -c "import torchvision; {call}"'


DATASETS = {
    "food101": Facts(
        title="Food-101",
        num_classes=101,
        num_train=75_750,
        num_test=25_250,
        holds="food-101/meta/{train,test}.json, food-101/images/",
        get=_download("Food101"),
        torchvision="Food101",
    ),
    "cifar10": Facts(
        title="CIFAR-10",
        num_classes=10,
        num_train=50_000,
        num_test=10_000,
        holds="cifar-10-batches-py/",
        get=_download("CIFAR10"),
        torchvision="CIFAR10",
    ),
    "cifar100": Facts(
        title="CIFAR-100",
        num_classes=100,
        num_train=50_000,
        num_test=10_000,
        holds="cifar-100-python/",
        get=_download("CIFAR100"),
        torchvision="CIFAR100",
    ),
    # Photo sites have lost many of its images since: a copy is whole only if it is an old one.
    "birdsnap": Facts(
        title="Birdsnap",
        num_classes=500,
        num_train=47_386,
        num_test=2_443,
        holds="birdsnap/{images,test_images,species}.txt, birdsnap/download/images/",
        get="https://thomasberg.org lists its images and has the script that downloads them",
    ),
    # The first of its ten splits.
    "sun397": Facts(
        title="SUN397",
        num_classes=397,
        num_train=19_850,
        num_test=19_850,
        holds="SUN397/a/abbey/*.jpg ..., and {Training,Testing}_01.txt of its Partitions.zip in "
        "SUN397/, SUN397/Partitions/ or Partitions/",
        get=f"{_download('SUN397')}; its splits from "
        "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip",
        torchvision="SUN397",
    ),
    "cars": Facts(
        title="Stanford Cars",
        num_classes=196,
        num_train=8_144,
        num_test=8_041,
        holds="stanford_cars/devkit/, stanford_cars/cars_{train,test}/, "
        "stanford_cars/cars_test_annos_withlabels.mat",
        get="its authors' page is gone; copies hold the archives cars_train.tgz, cars_test.tgz and "
        "car_devkit.tgz",
        torchvision="StanfordCars",
    ),
    "aircraft": Facts(
        title="FGVC Aircraft",
        num_classes=100,
        num_train=3_334,
        num_val=3_333,
        num_test=3_333,
        metric="mean_per_class",
        holds="fgvc-aircraft-2013b/data/",
        get=_download("FGVCAircraft"),
        torchvision="FGVCAircraft",
    ),
    "voc07": Facts(
        title="VOC07 cls",
        num_classes=20,
        num_train=2_501,
        num_val=2_510,
        num_test=4_952,
        metric="mAP",
        holds="VOCdevkit/VOC2007/ImageSets/Main/, VOCdevkit/VOC2007/JPEGImages/",
        get=_download("VOCDetection").replace("'{dir}'", "'{dir}', '2007', 'trainval'")
        + ", and again with 'test' for 'trainval'",
        source=f"{TRANSFER}: mean of 11-point average precisions; SVMs as VISSL's take the area "
        "under the curve",
    ),
    # The first of its ten splits.
    "dtd": Facts(
        title="DTD",
        num_classes=47,
        num_train=1_880,
        num_val=1_880,
        num_test=1_880,
        holds="dtd/dtd/labels/{train,val,test}1.txt, dtd/dtd/images/",
        get=_download("DTD"),
        torchvision="DTD",
    ),
    "pets": Facts(
        title="Oxford Pets",
        num_classes=37,
        num_train=3_680,
        num_test=3_669,
        metric="mean_per_class",
        holds="oxford-iiit-pet/annotations/{trainval,test}.txt, oxford-iiit-pet/images/",
        get=_download("OxfordIIITPet"),
        torchvision="OxfordIIITPet",
    ),
    # With the background as a class, as the counts of the papers say; torchvision leaves it out.
    "caltech101": Facts(
        title="Caltech-101",
        num_classes=102,
        num_train=3_060,
        num_test=6_084,
        metric="mean_per_class",
        holds="caltech101/101_ObjectCategories/",
        get=_download("Caltech101"),
        source=f"{TRANSFER}: 30 training images a class drawn by chance, the rest to test on; here "
        "those 30 whose names have the smallest SHA-256, always the same",
        torchvision="Caltech101",
    ),
    "flowers102": Facts(
        title="Flowers-102",
        num_classes=102,
        num_train=1_020,
        num_val=1_020,
        num_test=6_149,
        metric="mean_per_class",
        holds="flowers-102/{setid,imagelabels}.mat, flowers-102/jpg/",
        get=_download("Flowers102"),
        torchvision="Flowers102",
    ),
    "imagenet": Facts(
        title="ImageNet",
        num_classes=1_000,
        num_train=1_281_167,
        num_test=50_000,
        holds="train/WNID/*.JPEG, val/WNID/*.JPEG",
        get="https://image-net.org/download.php; torchvision.datasets.ImageNet unpacks it so",
        source="ILSVRC 2012, arXiv:1409.0575; its validation images are what all papers test on",
    ),
    "imagenet100": Facts(
        title="ImageNet-100",
        num_classes=100,
        num_train=126_689,
        num_test=5_000,
        holds="what imagenet:DIR holds, and behind a colon a file that names the 100 classes; no "
        "file if DIR holds no other class",
        get="https://image-net.org/download.php; the classes: imagenet100.txt of "
        "https://github.com/HobbitLong/CMC",
        source="the 100 classes of CMC, arXiv:1906.05849",
    ),
    "places205": Facts(
        title="Places205",
        num_classes=205,
        num_train=2_448_873,
        num_test=20_500,
        holds="trainvalsplit_places205/{train,val}_places205.csv, "
        "data/vision/torralba/deeplearning/images256/",
        get="http://places.csail.mit.edu/downloadData.html",
        source="Zhou et al., NIPS 2014; its validation images are what papers test on",
    ),
    "inat2018": Facts(
        title="iNaturalist 2018",
        num_classes=8_142,
        num_train=437_513,
        num_test=24_426,
        holds="{train,val}2018.json, train_val2018/",
        get="https://github.com/visipedia/inat_comp/tree/master/2018",
        source="iNaturalist challenge 2018; its validation images are what papers test on",
    ),
}


def describe() -> list[str]:
    """A few lines on each data set that is opened by name."""
    return [_told(name, facts) for name, facts in DATASETS.items()]


def how_to_get(name: str, folder: str) -> str:
    """What to do for ``folder`` to hold the data set ``name``."""
    facts = DATASETS[name]
    return f"It must hold {facts.holds}. To get it: {facts.get.replace('{dir}', folder)}"


def _told(name: str, facts: Facts) -> str:
    validation = f" + {facts.num_val:,} validation" if facts.num_val else ""
    return (
        f"{name}:DIR\n"
        f"  {facts.title}: {facts.num_classes:,} classes, {facts.num_train:,} training{validation}"
        f" and {facts.num_test:,} test images; metric {facts.metric}\n"
        f"  DIR holds {facts.holds}\n"
        f"  get it: {facts.get.replace('{dir}', 'DIR')}\n"
        f"  source: {facts.source}"
    )
