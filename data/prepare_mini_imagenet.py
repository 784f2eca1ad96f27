"""Checks mini-ImageNet, in whatever form it lies in a folder, and packs it.

    python data/prepare_mini_imagenet.py --data_dir=DIR [--cache_dir=DIR]

The same as `maml-tf --datasource=miniimagenet --max_pool --check_data`.
"""

import sys

from maml_tf import main

if __name__ == "__main__":
    check = ["--datasource=miniimagenet", "--max_pool", "--check_data"]
    sys.exit(main.main([*check, *sys.argv[1:]]))
