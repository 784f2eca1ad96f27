#!/usr/bin/env bash
# The published numbers of MAML and Reptile, by name.
#
#   ./run_experiments.sh quickstart      meta-trains on sinusoids, in minutes
#   ./run_experiments.sh list            names every number
#   ./run_experiments.sh NAME [FLAGS]    trains, tests, prints the paper's value
#
# FLAGS go to training and test alike: --data_dir=DIR, --seed=1, ...
# Results land in logs/NAME. Paths are relative to this folder.
# The first run installs the package into .venv, made from python3, or with
# PYTHON=python3.12 from that; a GPU also needs .venv/bin/pip install -e .[gpu].

set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=tools/venv.sh
source tools/venv.sh

# NAME | FLAGFILE, in flags/; - where another method's number is quoted
#      | FLAGS OF THE TEST | SOURCE | THE PAPER'S VALUE
experiments() {
  local k5='--update_batch_size=5 --train_update_batch_size=10'
  sed 's/ *| */|/g' <<TABLE
quickstart                       | regression/quickstart.flags                        | $k5 | Table 2 | MSE 0.67, 0.38, 0.35 after 1, 5, 10 steps
sinusoid_maml                    | regression/sinusoid_maml.flags                     | $k5 | Table 2 | MSE 0.67, 0.38, 0.35 after 1, 5, 10 steps
sinusoid_maml_code_default_lr    | regression/sinusoid_maml_code_default_lr.flags     | $k5 | -       | none: there α = 0.01, here 0.001
sinusoid_pretrained              | regression/sinusoid_pretrained.flags               | $k5 | Table 2 | MSE 2.41, 2.23, 2.19 after 1, 5, 10 steps
sinusoid_oracle                  | regression/sinusoid_oracle.flags                   | $k5 | Figure 3 | a curve, no value is printed
omniglot_5way_1shot              | classification/omniglot_5way_1shot.flags             | | Table 1 | 98.7 ± 0.4 % after 3 steps
omniglot_5way_5shot              | classification/omniglot_5way_5shot.flags             | | Table 1 | 99.9 ± 0.1 % after 3 steps
omniglot_20way_1shot             | classification/omniglot_20way_1shot.flags            | | Table 1 | 95.8 ± 0.3 % after 5 steps
omniglot_20way_5shot             | classification/omniglot_20way_5shot.flags            | | Table 1 | 98.9 ± 0.2 % after 5 steps
omniglot_5way_1shot_noconv       | classification/omniglot_5way_1shot_noconv.flags      | | Table 1 | 89.7 ± 1.1 % after 3 steps
omniglot_5way_5shot_noconv       | classification/omniglot_5way_5shot_noconv.flags      | | Table 1 | 97.5 ± 0.6 % after 3 steps
omniglot_5way_1shot_first_order  | classification/omniglot_5way_1shot_first_order.flags | | Reptile, Table 2 | 98.3 ± 0.5 %
miniimagenet_1shot               | classification/miniimagenet_1shot.flags              | | Table 1 | 48.70 ± 1.84 % after 10 steps
miniimagenet_5shot               | classification/miniimagenet_5shot.flags              | | Table 1 | 63.11 ± 0.92 % after 10 steps
miniimagenet_1shot_first_order   | classification/miniimagenet_1shot_first_order.flags  | | Table 1 | 48.07 ± 1.75 % after 10 steps
miniimagenet_5shot_first_order   | classification/miniimagenet_5shot_first_order.flags  | | Table 1 | 63.15 ± 0.91 % after 10 steps
reptile_omniglot_5way_1shot             | reptile/reptile_omniglot_5way_1shot.flags                  | | Reptile, Table 2 | 95.39 ± 0.09 %
reptile_omniglot_5way_1shot_transductive | reptile/reptile_omniglot_5way_1shot_transductive.flags     | | Reptile, Table 2 | 97.68 ± 0.04 %
reptile_omniglot_5way_5shot             | reptile/reptile_omniglot_5way_5shot.flags                  | | Reptile, Table 2 | 98.90 ± 0.10 %
reptile_omniglot_5way_5shot_transductive | reptile/reptile_omniglot_5way_5shot_transductive.flags     | | Reptile, Table 2 | 99.48 ± 0.06 %
reptile_omniglot_20way_1shot            | reptile/reptile_omniglot_20way_1shot.flags                 | | Reptile, Table 2 | 88.14 ± 0.15 %
reptile_omniglot_20way_1shot_transductive | reptile/reptile_omniglot_20way_1shot_transductive.flags    | | Reptile, Table 2 | 89.43 ± 0.14 %
reptile_omniglot_20way_5shot            | reptile/reptile_omniglot_20way_5shot.flags                 | | Reptile, Table 2 | 96.65 ± 0.33 %
reptile_omniglot_20way_5shot_transductive | reptile/reptile_omniglot_20way_5shot_transductive.flags    | | Reptile, Table 2 | 97.12 ± 0.32 %
reptile_miniimagenet_1shot              | reptile/reptile_miniimagenet_1shot.flags                   | | Reptile, Table 1 | 47.07 ± 0.26 %
reptile_miniimagenet_1shot_transductive | reptile/reptile_miniimagenet_1shot_transductive.flags      | | Reptile, Table 1 | 49.97 ± 0.32 %
reptile_miniimagenet_5shot              | reptile/reptile_miniimagenet_5shot.flags                   | | Reptile, Table 1 | 62.74 ± 0.37 %
reptile_miniimagenet_5shot_transductive | reptile/reptile_miniimagenet_5shot_transductive.flags      | | Reptile, Table 1 | 65.99 ± 0.58 %
reptile_g1                              | reptile/reptile_g1.flags                                   | | Reptile, Figure 3 | a curve, no value is printed
reptile_g1_g2                           | reptile/reptile_g1_g2.flags                                | | Reptile, Figure 3 | a curve, no value is printed
reptile_half_g1_g2                      | reptile/reptile_half_g1_g2.flags                           | | Reptile, Figure 3 | a curve, no value is printed
reptile_g2                              | reptile/reptile_g2.flags                                   | | Reptile, Figure 3 | a curve, no value is printed
reptile_g1_g2_g3                        | reptile/reptile_g1_g2_g3.flags                             | | Reptile, Figure 3 | a curve, no value is printed
reptile_third_g1_g2_g3                  | reptile/reptile_third_g1_g2_g3.flags                       | | Reptile, Figure 3 | a curve, no value is printed
reptile_g3                              | reptile/reptile_g3.flags                                   | | Reptile, Figure 3 | a curve, no value is printed
reptile_g4                              | reptile/reptile_g4.flags                                   | | Reptile, Figure 3 | a curve, no value is printed
reptile_g1_g2_g3_g4                     | reptile/reptile_g1_g2_g3_g4.flags                          | | Reptile, Figure 3 | a curve, no value is printed
reptile_fourth_g1_g2_g3_g4              | reptile/reptile_fourth_g1_g2_g3_g4.flags                   | | Reptile, Figure 3 | a curve, no value is printed
reptile_sinusoid                        | reptile/reptile_sinusoid.flags                             | | Reptile, Figure 1 | a picture, no value is printed
rl_nav2d                                | rl/rl_nav2d.flags                                          | | Table 4, Figure 4 | return -40.41, -11.68, -3.33, -3.23 after 0, 1, 2, 3 steps
rl_cheetah_dir                          | rl/rl_cheetah_dir.flags                                    | | Table 5, Figure 5 | return -50.69, 293.19, 313.48, 315.65 after 0, 1, 2, 3 steps
rl_cheetah_vel                          | rl/rl_cheetah_vel.flags                                    | | Figure 5 | return -129.53, -78.57, -66.62, -60.78 after 0, 1, 2, 3 steps
rl_ant_dir                              | rl/rl_ant_dir.flags                                        | | Figure 5 | return 8.66, 499.15, 500.68, 499.11 after 0, 1, 2, 3 steps
rl_ant_vel                              | rl/rl_ant_vel.flags                                        | | Figure 5 | return 30.58, 96.74, 100.06, 101.41 after 0, 1, 2, 3 steps
sinusoid_multitask                       | - | | Table 2 | MSE 4.19, 3.85, 3.69 after 1, 5, 10 steps
sinusoid_multitask_l2                    | - | | Table 2 | MSE 7.18, 5.69, 5.60 after 1, 5, 10 steps
sinusoid_multitask_mean                  | - | | Table 2 | MSE 2.91, 2.72, 2.71 after 1, 5, 10 steps
omniglot_5way_1shot_mann_noconv          | - | | Table 1 | 82.8 %
omniglot_5way_5shot_mann_noconv          | - | | Table 1 | 94.9 %
omniglot_5way_1shot_siamese_nets         | - | | Table 1 | 97.3 %
omniglot_5way_5shot_siamese_nets         | - | | Table 1 | 98.4 %
omniglot_20way_1shot_siamese_nets        | - | | Table 1 | 88.2 %
omniglot_20way_5shot_siamese_nets        | - | | Table 1 | 97.0 %
omniglot_5way_1shot_matching_nets        | - | | Table 1 | 98.1 %
omniglot_5way_5shot_matching_nets        | - | | Table 1 | 98.9 %
omniglot_20way_1shot_matching_nets       | - | | Table 1 | 93.8 %
omniglot_20way_5shot_matching_nets       | - | | Table 1 | 98.5 %
omniglot_5way_1shot_neural_statistician  | - | | Table 1 | 98.1 %
omniglot_5way_5shot_neural_statistician  | - | | Table 1 | 99.5 %
omniglot_20way_1shot_neural_statistician | - | | Table 1 | 93.2 %
omniglot_20way_5shot_neural_statistician | - | | Table 1 | 98.1 %
omniglot_5way_1shot_memory_module        | - | | Table 1 | 98.4 %
omniglot_5way_5shot_memory_module        | - | | Table 1 | 99.6 %
omniglot_20way_1shot_memory_module       | - | | Table 1 | 95.0 %
omniglot_20way_5shot_memory_module       | - | | Table 1 | 98.6 %
miniimagenet_1shot_finetuning            | - | | Table 1 | 28.86 ± 0.54 %
miniimagenet_5shot_finetuning            | - | | Table 1 | 49.79 ± 0.79 %
miniimagenet_1shot_nearest_neighbor      | - | | Table 1 | 41.08 ± 0.70 %
miniimagenet_5shot_nearest_neighbor      | - | | Table 1 | 51.04 ± 0.65 %
miniimagenet_1shot_matching_nets         | - | | Table 1 | 43.56 ± 0.84 %
miniimagenet_5shot_matching_nets         | - | | Table 1 | 55.31 ± 0.73 %
miniimagenet_1shot_meta_learner_lstm     | - | | Table 1 | 43.44 ± 0.77 %
miniimagenet_5shot_meta_learner_lstm     | - | | Table 1 | 60.60 ± 0.71 %
TABLE
}

explain() {
  sed -n '2,/^$/s/^# \{0,1\}//p' run_experiments.sh
}

list() {
  local name flagfile source value data line='%-41s %-13s %-16s  %s\n'
  # shellcheck disable=SC2059
  printf "$line" NAME DATA SOURCE "PAPER'S VALUE"
  experiments | while IFS='|' read -r name flagfile _ source value; do
    data=quoted
    if [ "$flagfile" != - ]; then
      data=$(sed -n 's/^--\(datasource\|env\)=//p' "flags/$flagfile")
    fi
    # shellcheck disable=SC2059
    printf "$line" "$name" "$data" "$source" "$value"
  done
  cat <<'NOTES'

DATA  sinusoid       none: it is generated
      omniglot       found in --data_dir, or downloaded
      miniimagenet   bring it, in --data_dir
      nav2d          none: it is simulated
      cheetah, ant   none: they are simulated; .venv/bin/pip install -e .[mujoco]
      quoted         another method's number, nothing to run
NOTES
}

refuse() {
  echo "$1" >&2
  exit 2
}

run() {
  local experiment=$1 row name flagfile test_flags source value
  shift
  row=$(experiments | awk -F'|' -v name="$experiment" '$1 == name')
  [ -n "$row" ] ||
    refuse "No experiment is named $experiment; ./run_experiments.sh list names them."
  IFS='|' read -r name flagfile test_flags source value <<<"$row"
  [ "$flagfile" != - ] ||
    refuse "$name is another method's number ($source: $value): nothing to run."
  flagfile=flags/$flagfile

  use_venv .
  if [ "$name" = quickstart ]; then
    exec python -m maml_tf.main_quickstart --flagfile="$flagfile" "$@"
  fi
  if [[ $flagfile = flags/reptile/* || $flagfile = flags/rl/* ]]; then
    local program=main_reptile
    [[ $flagfile = flags/rl/* ]] && program=main_rl
    python -m "maml_tf.$program" --flagfile="$flagfile" "$@"
    echo "Paper ($source): $value"
    return
  fi
  python -m maml_tf.main --flagfile="$flagfile" "$@"
  # shellcheck disable=SC2086
  python -m maml_tf.main --flagfile="$flagfile" \
    --train=False --test_set=True $test_flags "$@"
  echo "Paper ($source): $value"
}

case ${1-help} in
  help | -h | --help) explain ;;
  list) list ;;
  *) run "$@" ;;
esac
