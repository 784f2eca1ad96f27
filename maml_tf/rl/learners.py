"""Learners of policies: Keras models whose training step is an iteration.

A training element is `(tasks, seeds)`: the task of each trajectory
`[T, K, task_size]`, and `[T, J, 2]`, a seed for each of J rounds of
trajectories, all of which the iteration draws from. Tasks share the seeds: so
each replica has them, see `replicas`.
"""

import keras
import tensorflow as tf

from maml_tf import descent, replicas, stacked
from maml_tf.checks import at_least, finite
from maml_tf.rl import advantages, objectives, rollouts, trpo
from maml_tf.tied import Tied, tie

METRICS = ("loss", "return", "return_after", "steps", "kl", "backtracks")


class PolicyLearner(replicas.Replicated):
    """What all learners share: rounds of trajectories, and a policy's steps.

    Args:
      network: the policy, see `policies.gaussian_mlp`.
      environment: see `navigation.Navigation`.
      horizon: H, steps of a trajectory.
      inner_lr: α.
      discount: γ.
      gae_lambda: λ.

    Raises:
      ValueError: if a number is out of range.
    """

    inner_variables = ()
    block = 1
    rounds = 1
    """Rounds of trajectories in an iteration."""

    def __init__(
        self,
        network: keras.Model,
        environment,
        *,
        horizon: int,
        inner_lr: float,
        discount: float = 0.99,
        gae_lambda: float = 1.0,
    ):
        super().__init__()
        at_least(1, horizon=horizon)
        finite(inner_lr=inner_lr)
        self.network = network
        self.environment = environment
        self.horizon = horizon
        self.inner_lr = inner_lr
        self.discount = discount
        self.gae_lambda = gae_lambda
        self.shapes = [v.shape for v in network.trainable_variables]
        self.apply_fn = stacked.many_tasks(network, network.trainable_variables)
        self.simulate = tf.function(
            self._simulate,
            autograph=False,
            jit_compile=environment.compiles,
        )
        self.trackers = {k: keras.metrics.Mean(name=k) for k in METRICS}
        self.built = True

    def on_replicas(self, step, data):
        """Makes a step that itself tells what each replica has to do.

        A trust-region step is many sums over replicas, one after the other.
        """
        step(data)

    def train_step(self, data):
        """Makes an iteration and returns what was met in it."""
        replicas.each(self._track, self.update(*data[:2]))
        return self.get_metrics_result()

    def _track(self, found):
        for name, value in found.items():
            self.trackers[name].update_state(value)

    def get_metrics_result(self):
        """Returns the means of an iteration's facts that this learner has."""
        return {
            name: tracker.result()
            for name, tracker in self.trackers.items()
            if name in self.facts
        }

    def update(self, tasks, seeds):
        """Changes the policy, and returns facts by name; to be overridden.

        It and `diagnose` are called for all replicas, see `replicas.each`.
        What else there is to override is called on each.
        """
        raise NotImplementedError

    def move(self, gradient: tf.Tensor) -> None:
        """Lets the compiled optimizer act on the sum of replicas' `[P]`."""
        self.optimizer.apply(
            descent.unravel(gradient, self.shapes), self.trainable_variables
        )

    def theta(self) -> tf.Tensor:
        """Returns all parameters in one vector `[P]`."""
        return descent.ravel(
            [v.value for v in self.network.trainable_variables]
        )

    def shared(self, theta: tf.Tensor, tasks: int | None = None):
        """Returns a vector `[P]` as parameters that T tasks still share.

        Without a number of tasks no inner gradient can be taken by them.
        """
        parts = descent.unravel(theta, self.shapes)
        return [Tied(p) if tasks is None else tie(p, tasks) for p in parts]

    def collect(self, phi, tasks, seed) -> advantages.Trajectories:
        """Returns the trajectories of policies, by noise of a seed."""
        seeds = tf.random.split(seed)
        count = tasks.shape[0] * replicas.count()
        shape = count, tasks.shape[1], self.horizon
        noise = tf.random.stateless_normal(
            [*shape, self.environment.action_size],
            seeds[0],
            dtype=self.compute_dtype,
        )
        return self.act(phi, tasks, replicas.own(noise), seeds[1])

    def act(self, phi, tasks, noise, seed) -> advantages.Trajectories:
        """Returns the trajectories of policies, by noise `[T, K, H, d]`."""
        everywhere = tf.tile(tasks, [replicas.count(), 1, 1])
        states = replicas.own(self.environment.reset(everywhere, seed))
        return self.simulate(phi, tasks, noise, states)

    def _simulate(self, phi, tasks, noise, states):
        def policy(observations):
            return self.apply_fn(phi, observations)

        return rollouts.collect(self.environment, policy, tasks, noise, states)

    def batch(self, trajectories) -> advantages.Batch:
        """Returns what a policy learns from, with advantages."""
        return advantages.batch(
            trajectories, discount=self.discount, gae_lambda=self.gae_lambda
        )

    def adapted(self, theta, batches, first_order: bool = False):
        """Returns the policies `[T, …]` after a step on each batch in turn."""
        if not batches:
            return self.shared(theta)
        return objectives.adapted(
            self.apply_fn,
            self.shared(theta, batches[0].mask.shape[0]),
            batches,
            self.inner_lr,
            first_order,
        )

    def diagnose(self, x, y):
        """Yields what a training step computes, in order, with names."""
        trajectories = self.collect(self.shared(self.theta()), x, y[0][0])
        yield "observations", trajectories.observations
        yield "returns", advantages.undiscounted(trajectories)
        yield "advantages", self.batch(trajectories).advantages
        for name, value in self.update(x, y).items():
            yield name, value


class Pretraining(PolicyLearner):
    """One policy for all tasks, by the gradient of their mean inner loss.

        θ ← optimizer(θ, ∇_θ Σᵢ L(θ; task i) / T)

    The compiled optimizer makes the step.
    """

    facts = ("loss", "return", "steps")

    def update(self, tasks, seeds):
        """Makes a step of the compiled optimizer."""
        return replicas.each(self._update, tasks, seeds)

    def _update(self, tasks, seeds):
        theta = self.theta()
        trajectories = self.collect(self.shared(theta), tasks, seeds[0, 0])
        batch = self.batch(trajectories)
        with tf.GradientTape() as tape:
            tape.watch(theta)
            predictions = self.apply_fn(self.shared(theta), batch.observations)
            loss = tf.reduce_mean(objectives.policy_loss(batch, predictions))
        self.move(tape.gradient(loss, theta) / replicas.count())
        return {"loss": loss, **_summary(trajectories)}


class TRPO(PolicyLearner):
    """One policy by trust-region steps: the oracle, and plain training.

    The step is handed to the compiled optimizer as a gradient, which
    `keras.optimizers.SGD(1.0)` takes as it is.

    Args:
      network: see `PolicyLearner`, as for all other arguments.
      environment: see there.
      trust_region: δ, the largest mean KL of a step.
      first_order: whether inner gradients are constants.
    """

    facts = ("loss", "return", "steps", "kl", "backtracks")

    def __init__(
        self,
        network,
        environment,
        *,
        trust_region: float,
        first_order: bool = False,
        **options,
    ):
        super().__init__(network, environment, **options)
        self.trust_region = trust_region
        self.first_order = first_order

    def update(self, tasks, seeds):
        """Makes a step on the last round of trajectories."""
        theta = self.theta()
        batches, found = replicas.each(self.met, theta, tasks, seeds)
        step = self.step(theta, batches)
        change = (theta - step.theta) / replicas.count()
        replicas.each(self.move, change)
        return {
            "loss": step.after,
            **found,
            "kl": step.kl,
            "backtracks": tf.cast(step.backtracks, theta.dtype),
        }

    def met(self, theta, tasks, seeds):
        """Returns what the policies of each round learn from, and facts."""
        batches, found = [], {}
        for j, seed in enumerate(tf.unstack(seeds[0])):
            phi = self.adapted(theta, batches)
            trajectories = self.collect(phi, tasks, seed)
            batches.append(self.batch(trajectories))
            found.update(_summary(trajectories, "_after" * (j > 0)))
        return batches, found

    def step(self, theta, batches) -> trpo.Step:
        """Returns the step on the last batch, through steps on the others."""
        return trpo.step(theta, self.predict_fn, batches, self.trust_region)

    def predict_fn(self, batches) -> trpo.Predict:
        """Returns what maps θ to the policies that the last batch is of."""
        *before, last = batches

        def predict(theta):
            phi = self.adapted(theta, before, self.first_order)
            return self.apply_fn(phi, last.observations)

        return predict


class MAMLTRPO(TRPO):
    """MAML: trust-region steps through the inner update.

        φᵢ = θ − α ∇_θ L(θ; trajectories of θ in task i)
        θ ← TRPO step on Σᵢ S(φᵢ(θ); trajectories of φᵢ) / T

    Source: Finn et al. 2017, Algorithm 3 (arXiv 1703.03400).

    Args:
      network: see `TRPO`, as for all other arguments.
      environment: see there.
      inner_steps: J ≥ 1, each with trajectories of its own.
    """

    facts = METRICS

    def __init__(self, network, environment, *, inner_steps=1, **options):
        super().__init__(network, environment, **options)
        at_least(1, inner_steps=inner_steps)
        self.rounds = inner_steps + 1


def _summary(trajectories, suffix=""):
    """Returns the mean return and the mean length of trajectories."""
    lengths = tf.reduce_sum(trajectories.mask, -1)
    return {
        f"return{suffix}": tf.reduce_mean(
            advantages.undiscounted(trajectories)
        ),
        "steps": tf.reduce_mean(lengths),
    }
