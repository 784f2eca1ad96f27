"""mini-ImageNet as a data set of TensorFlow Datasets.

import tensorflow_datasets as tfds
from maml_tf.mini_imagenet_tfds import MiniImagenet

manual = tfds.download.DownloadConfig(manual_dir="data/miniImagenet")
MiniImagenet().download_and_prepare(download_config=manual)
images = tfds.load("mini_imagenet", split="train")
"""

import tensorflow_datasets as tfds

from maml_tf import mini_imagenet
from maml_tf.image_classes import PARTS


class MiniImagenet(tfds.core.GeneratorBasedBuilder):
    """Builder of `mini_imagenet`: 84 x 84 images, label and file name.

    The splits train, validation and test have 64, 16 and 20 classes.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put mini-ImageNet, in any form that maml_tf.mini_imagenet reads, into "
        "the manual folder, or name its folder with --manual_dir."
    )

    def _info(self):
        names = [name for p in PARTS for name in mini_imagenet.class_list(p)]
        size = mini_imagenet.SIZE
        return tfds.core.DatasetInfo(
            builder=self,
            description="100 classes of ImageNet for few-shot learning.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(size, size, 3), encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(names=names),
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            citation="Vinyals et al. 2016; Ravi and Larochelle 2017.",
        )

    def _split_generators(self, dl_manager):
        folder = dl_manager.manual_dir
        return {part: self._generate_examples(folder, part) for part in PARTS}

    def _generate_examples(self, folder, part):
        data = mini_imagenet.load_mini_imagenet(folder, part).data
        images = iter(data.images)
        for label, files in zip(data.names, data.files, strict=True):
            for file in files:
                row = {"image": next(images), "label": label, "file_name": file}
                yield f"{label}/{file}", row
