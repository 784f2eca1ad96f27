"""Flags that several programs have, see `command_line.Groups`."""

FOLDER = {
    "resume": "continue from the latest checkpoint; False: remove the run's "
    "checkpoints and tables, and begin anew",
    "log": "write TensorBoard summaries",
}
"""Flags of a run's folder."""

DATA = {
    "data_dir": "folder with omniglot/, omniglot_resized/ or miniImagenet/, or "
    "of --datasource=folder: train|val|test/<class>/<image>",
    "cache_dir": "folder of packed data; default ~/.cache/maml_tf",
    "image_size": "to which --datasource=folder resizes, in pixels",
    "image_channels": "of --datasource=folder: 3, colour, or 1, grey",
    "check_data": "say what images are found, pack them into the cache, and "
    "do no more",
}
"""Flags of where images are from."""

DEVICES = {
    "strategy": "devices that share each meta-batch of training: none, one "
    "device; mirrored, all GPUs; multi_worker, those of all hosts that the "
    "environment variable TF_CONFIG names, of which the first one writes",
    "logical_devices": "parts of the processor that stand for GPUs, to try "
    "mirrored",
    "worker_timeout": "seconds to wait for all hosts of multi_worker",
}
"""Flags of who trains."""

PRECISION = {
    "dtype_policy": "Keras's policy of what layers compute in: float32 or "
    "mixed_bfloat16, which keeps weights, statistics and losses in float32",
}
"""The flag of what numbers are computed in."""

RUN = {
    "deterministic": "let the same command give the same bits, also on a GPU",
    "on_save_error": "stop, or continue to train, when logs or a checkpoint "
    "cannot be saved",
    "explain": "say what the flags mean, and do nothing",
}
"""Flags of how a program runs."""
