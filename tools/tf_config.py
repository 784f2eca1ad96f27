"""Prints TF_CONFIG, which names the hosts of a training and this one's place.

    TF_CONFIG=$(python tools/tf_config.py) maml-tf --strategy=multi_worker …

It is made of what a launcher says in its own environment variables:

    Slurm       SLURM_STEP_NODELIST and its fellows, in a task of `srun`
    SageMaker   SM_HOSTS, SM_CURRENT_HOST
    Kubernetes  WORKERS (their number), HOSTS (such as job-{}.service) and
                JOB_COMPLETION_INDEX, in an Indexed Job

Vertex AI sets TF_CONFIG itself. PORT is the port, by default 2222; where Slurm
starts several tasks on a node, that of the first of them.
"""

import json
import os
import sys


def main(environment):
    """Prints TF_CONFIG, and returns the exit status."""
    for launcher, ours in LAUNCHERS.items():
        if launcher in environment:
            return printed(launcher, ours, environment)
    print(
        f"tf_config: expected one of {', '.join(LAUNCHERS)} among the "
        "environment variables, found none.",
        file=sys.stderr,
    )
    return 1


def printed(launcher, ours, environment):
    """Prints what one launcher says, and returns the exit status."""
    try:
        hosts, index = ours(environment)
    except KeyError as missing:
        print(
            f"tf_config: expected {missing.args[0]} beside {launcher} among "
            "the environment variables, found none.",
            file=sys.stderr,
        )
        return 1
    except ValueError as error:
        print(
            f"tf_config: expected hosts in {launcher} and its fellows, this "
            f"one among them, found that {error}.",
            file=sys.stderr,
        )
        return 1
    print(tf_config(hosts, index))
    return 0


def tf_config(hosts, index):
    """Returns TF_CONFIG of workers `host:port`, for one of them."""
    task = {"type": "worker", "index": index}
    return json.dumps({"cluster": {"worker": hosts}, "task": task})


def slurm(environment):
    """Returns the workers, and which this one is: a task of `srun` each."""
    import tensorflow as tf

    first = int(port(environment))
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=first,
        # It would ask the driver, and assign them itself: one for each task.
        gpus_per_node=int(environment["SLURM_STEP_NUM_TASKS"]),
        gpus_per_task=1,
        auto_set_gpu=False,
    )
    hosts = resolver.cluster_spec().as_dict()["worker"]
    # Its order is by name, n10 before n9; that of SLURM_PROCID is not.
    own = first + int(environment["SLURM_LOCALID"])
    return hosts, hosts.index(f"{environment['SLURMD_NODENAME']}:{own}")


def sagemaker(environment):
    """Returns the workers, and which this one is: a host each."""
    names = json.loads(environment["SM_HOSTS"])
    hosts = [f"{name}:{port(environment)}" for name in names]
    return hosts, names.index(environment["SM_CURRENT_HOST"])


def kubernetes(environment):
    """Returns the workers, and which this one is: a pod each."""
    name, count = environment["HOSTS"], int(environment["WORKERS"])
    if name.count("{}") != 1:
        raise ValueError(f"HOSTS={name} has no {{}}, or several")
    pattern = f"{name}:{port(environment)}"
    hosts = [pattern.replace("{}", str(index)) for index in range(count)]
    return hosts, int(environment["JOB_COMPLETION_INDEX"])


def port(environment):
    """Returns the port that workers listen at."""
    return environment.get("PORT", "2222")


LAUNCHERS = {
    "SLURM_STEP_NODELIST": slurm,
    "SM_HOSTS": sagemaker,
    "JOB_COMPLETION_INDEX": kubernetes,
}

if __name__ == "__main__":
    sys.exit(main(os.environ))
