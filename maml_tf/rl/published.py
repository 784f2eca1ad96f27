"""The returns that the authors' result files hold, as printed means.

By environment and method: average return after 0, 1, … updates, a mean over 40
tasks. The first four of MAML on nav2d are Table 4 of the paper, those of
cheetah_dir Table 5; the others are drawn in its Figures 4 and 5.

Source: Finn et al. 2017 (arXiv 1703.03400), and the result files of
cbfinn/maml_rl.
"""

RETURNS = {
    "nav2d": {
        "maml_trpo": (-40.41, -11.68, -3.33, -3.23, -3.35),
        "pretrain": (-40.81, -19.73, -11.72, -8.47, -7.49),
        "random": (-82.66, -57.96, -53.84, -46.81, -42.91),
        "oracle": (-2.29,),
    },
    "cheetah_dir": {
        "maml_trpo": (-50.69, 293.19, 313.48, 315.65),
        "pretrain": (-43.03, -24.75, -12.85, 19.57),
        "random": (-35.73, 21.83, 62.32, 86.18),
        "oracle": (442.69,),
    },
    "cheetah_vel": {
        "maml_trpo": (-129.53, -78.57, -66.62, -60.78),
        "pretrain": (-158.00, -135.39, -128.47, -133.61),
        "random": (-254.83, -254.33, -246.79, -230.83),
        "oracle": (-54.47,),
    },
    "ant_vel": {
        "maml_trpo": (30.58, 96.74, 100.06, 101.41),
        "pretrain": (-1.83, 6.11, 8.47, 9.47),
        "random": (-78.64, -62.81, -48.55, -35.56),
        "oracle": (107.89,),
    },
    "ant_dir": {
        "maml_trpo": (8.66, 499.15, 500.68, 499.11),
        "pretrain": (3.16, 1.27, 6.51, 6.86),
        "random": (3.11, 9.25, 15.96, 26.11),
        "oracle": (524.80,),
    },
}
