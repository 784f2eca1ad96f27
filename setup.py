"""Packaging: `pip install .`, with CUDA `pip install .[gpu]`."""

import pathlib

import setuptools

README = pathlib.Path(__file__).with_name("README.md")

setuptools.setup(
    name="maml-tf",
    version="0.1.0",
    description="Model-agnostic meta-learning in TensorFlow 2 and Keras 3",
    long_description=README.read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The maml-tf authors",
    license="MIT",
    license_files=["LICENSE"],
    packages=["maml_tf", "maml_tf.rl"],
    package_data={
        "maml_tf": ["py.typed", "splits/*.txt"]
    },  # a link to data/splits
    python_requires=">=3.10,<3.14",
    install_requires=[
        "absl-py",
        "importlib_resources>=5.2",  # tensorflow-datasets needs and lacks it
        "keras>=3.10",
        "matplotlib>=3.7",
        "numpy",
        "pillow>=10.1",
        "tensorboard",  # tf.summary.scalar needs it, TensorFlow 2.21 lacks it
        "tensorflow>=2.18",
        "tensorflow-datasets>=4.9.3",
        "tqdm",
    ],
    extras_require={
        "benchmarks": ["jax", "psutil", "torch"],
        "gpu": ["tensorflow[and-cuda]>=2.18"],
        "docs": ["pdoc"],
        "mujoco": ["gymnasium>=1.0", "mujoco"],
        "test": [
            "dill",
            "hypothesis",
            "kubernetes-validate",
            "mypy",
            "pdoc",
            "psutil",
            "pytest",
            "pytest-xdist",
            "ruff",
        ],
    },
    entry_points={
        "console_scripts": [
            "maml-tf = maml_tf.main:main",
            "reptile-tf = maml_tf.main_reptile:main",
            "maml-rl-tf = maml_tf.main_rl:main",
        ]
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
