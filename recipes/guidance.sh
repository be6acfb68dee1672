#!/usr/bin/env bash
# What guidance does: a small class-conditional model of your own images, sampled at several guidance scales, each measured by a
# classifier of the same images, by recall and by FID. Every stage is skipped when done, and goes on where it was interrupted.
#
#   recipes/guidance.sh --data_root FOLDER                 train/CLASS and val/CLASS, or a zip file (docs/labelled.md)
#   recipes/guidance.sh --data_root FOLDER --iterations 20 --num_samples 60      everything in a minute
#
# Further flags: --help, --out DIR (results/guidance), --scales "0 7.5", --nfe 50, --device DEVICE, --python PROGRAM
set -euo pipefail
cd "$(dirname "$0")/.."

data_root= out=results/guidance iterations=4000 num_samples=300 scales="0 1.5 3 7.5" nfe=50 device=cuda python=python
while [ $# -gt 0 ]; do
  case $1 in
    --data_root | --out | --iterations | --num_samples | --scales | --nfe | --device | --python)
      [ $# -gt 1 ] || { echo "error: $1 expects a value; see --help" >&2; exit 2; } ;;&
    --data_root) data_root=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --iterations) iterations=$2; shift 2 ;;
    --num_samples) num_samples=$2; shift 2 ;;
    --scales) scales=$2; shift 2 ;;
    --nfe) nfe=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --python) python=$2; shift 2 ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' recipes/guidance.sh; exit ;;
    *) echo "error: unknown flag $1; see --help" >&2; exit 2 ;;
  esac
done
[ -n "$data_root" ] || { echo "error: --data_root: name a folder of class folders, or a zip file; see --help" >&2; exit 2; }

"$python" train.py --challenge labelled --data_root "$data_root" --class_conditional --method ddpm --device "$device" \
  --ch 32 --ch_mult 1 2 2 --attn 2 --num_res_blocks 1 --dropout 0.1 --batch_size 32 --num_iterations "$iterations" --lr 1e-3 \
  --lr_warmup 100 --lr_decay 0.5 --save_interval 500 --save_dir "$out" --run_name run --auto_resume
folders=()
for scale in $scales; do
  place=$out/scale=$scale
  if [ ! -d "$place/nfe=$nfe" ]; then
    "$python" sampling.py --ckpt_path "$out/run/last.ckpt" --guidance_scale "$scale" --nfe_list "$nfe" --device "$device" \
      --num_samples "$num_samples" --save_dir "$place"
  fi
  folders+=("$place/nfe=$nfe")
done
"$python" -m src.evaluation "${folders[@]}" --challenge labelled --data_root "$data_root" --by_class --compare --device "$device" \
  | tee "$out/comparison.txt"
