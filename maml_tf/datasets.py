"""The images that a run learns from, whatever it calls their source."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from maml_tf import omniglot
from maml_tf.cache import DataError
from maml_tf.class_folders import load_class_folders
from maml_tf.image_classes import PARTS
from maml_tf.mini_imagenet import load_mini_imagenet
from maml_tf.packing import Format, Packed

WHITE = 255  # of photos; Omniglot's ink is 1


def load_photos(
    config, part: str, resample: Image.Resampling = Image.Resampling.LANCZOS
) -> Packed:
    """Loads one part of mini-ImageNet, or of a folder of class folders.

    Args:
      config: settings of a run, with `datasource`, `data_dir`, `cache_dir`,
        `image_size` and `image_channels`.
      part: "train", "validation" or "test".
      resample: Pillow's filter for images of another size.

    Raises:
      DataError: if images are missing or unreadable.
    """
    where = {"data_dir": config.data_dir, "cache_dir": config.cache_dir}
    if config.datasource == "folder":
        size = Format(config.image_size, config.image_channels, resample)
        return load_class_folders(part=part, image_format=size, **where)
    return load_mini_imagenet(part=part, resample=resample, **where)


def check(
    config, resample: Image.Resampling = Image.Resampling.LANCZOS
) -> Iterator[str]:
    """Yields a line for each part of a run's images, found whole and packed.

    Args:
      config: see `load_photos`.
      resample: see `load_photos`.

    Raises:
      DataError: after the last line, if a part is not whole.
    """
    if config.datasource == "sinusoid":
        yield "sinusoid: generated, nothing to check"
    elif config.datasource == "omniglot":
        data = omniglot.load_omniglot(config.data_dir, config.cache_dir)
        yield f"omniglot: {_counts(data)}"
    else:
        yield from _check_photos(config, resample)


def _check_photos(config, resample):
    errors = []
    for part in PARTS:
        try:
            found = load_photos(config, part, resample)
        except DataError as error:
            errors.append(f"{part}: {error}")
        else:
            yield (
                f"{part}: {found.form}, {_counts(found.data)}, "
                f"{found.resized} of them resized"
            )
    if errors:
        raise DataError("\n".join(errors))


def _counts(data):
    least, most = data.sizes.min(), data.sizes.max()
    each = f"{least}" if least == most else f"{least} to {most}"
    return (
        f"{len(data.names)} classes of {each} images, {len(data.images)} in all"
    )
