"""Meta-reinforcement learning: MAML with policy gradients and TRPO.

A policy is a Keras model of observations, and tasks are stacked as everywhere
else: all trajectories of all tasks advance together, and one gradient of a
summed loss adapts every task's own copy of the policy.
"""
