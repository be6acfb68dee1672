#!/usr/bin/env bash
# The best known run on one large GPU, whole: a teacher (edm), consistency mid-training on its trajectories (cmt), consistency
# tuning, and an adversarial finish (gdd). Every stage goes on where it was interrupted and is skipped when done; its FID on a
# development split of the training images stands in its log.
#
#   recipes/simpsons_single_gpu.sh --budget 3h                 30m, 3h, 24h, or any number of m or h
#   recipes/simpsons_single_gpu.sh --budget 3h --dry_run       the plan, from the throughput measured here, and nothing else
#   recipes/simpsons_single_gpu.sh --smoke                     all stages in minutes on a CPU: toon faces, a tiny network
#
# Further flags: --help, --out DIR (results/simpsons), --data_root DIR_OR_ZIP, --no_fid (no Inception weights at hand), --python PROGRAM
set -euo pipefail
cd "$(dirname "$0")/.."

budget=3h out= python=python dry_run= smoke= fid=yes data=()
while [ $# -gt 0 ]; do
  case $1 in
    --budget | --out | --data_root | --python)
      [ $# -gt 1 ] || { echo "error: $1 expects a value; see --help" >&2; exit 2; } ;;&
    --budget) budget=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --data_root) data=(--data_root "$2"); shift 2 ;;
    --python) python=$2; shift 2 ;;
    --dry_run) dry_run=yes; shift ;;
    --smoke) smoke=yes; shift ;;
    --no_fid) fid=; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' recipes/simpsons_single_gpu.sh; exit ;;
    *) echo "error: unknown flag $1; see --help" >&2; exit 2 ;;
  esac
done
case $budget in
  *[0-9]m) minutes=${budget%m} ;;
  *[0-9]h) minutes=$((${budget%h} * 60)) ;;
  *) echo "error: --budget $budget: expected minutes or hours, such as 30m or 3h" >&2; exit 2 ;;
esac

# What each stage is: name, its percentage of the budget, the flags of train.py. A later stage starts from an earlier one.
stages=(edm cmt consistency gdd)
declare -A percent=([edm]=50 [cmt]=20 [consistency]=20 [gdd]=10)
flags_of() {
  case $1 in
    edm) echo "--method edm --lr 2e-4 --lr_warmup 500 --lr_decay 0.2" ;;
    cmt) echo "--method cmt --teacher $out/edm --lr 2e-4 --lr_warmup 200 --lr_decay 1" ;;
    consistency) echo "--method consistency --init_from $out/cmt --stages 1 --q 256 --lr 1e-4 --lr_warmup 200 --lr_decay 1" ;;
    gdd) echo "--method gdd --teacher $out/edm --init_from $out/consistency --feature_sigma 0.05 --tell_level --lr 2e-5 --lr_warmup 100" ;;
  esac
}

if [ -n "$smoke" ]; then
  out=${out:-results/simpsons_smoke} batch=8 minutes=1
  common=(--ch 8 --ch_mult 1 2 --attn 1 --num_res_blocks 1 --challenge toon --log_interval 5) dev_images=16
  measured=(--challenge simpsons32 --batch_size "$batch" --repeats 1)
else
  out=${out:-results/simpsons} batch=128
  common=(--precision auto --ema_half_lives 0.05 0.01 0.1 "${data[@]}") dev_images=500
  measured=(--challenge simpsons --batch_size "$batch" --repeats 5)
fi

# ------------------------------------------------------------------------------ the plan, kept once the first stage has begun

mkdir -p "$out"
if [ ! -f "$out/seconds.json" ]; then
  echo "== measure the throughput of every stage"
  "$python" -m recipes.step_seconds "${measured[@]}" --methods "${stages[@]}" --json "$out/seconds.json"
fi
if [ ! -f "$out/plan.txt" ] || [ ! -d "$out/${stages[0]}" ]; then
  echo "minutes $minutes" > "$out/.plan.partial"
  for stage in "${stages[@]}"; do
    "$python" - "$out/seconds.json" "$stage" "$minutes" "${percent[$stage]}" <<'PLAN'
import json, sys
path, stage, minutes, percent = sys.argv[1:]
step = json.load(open(path))[stage]
seconds = 0.9 * 60 * float(minutes) * float(percent) / 100  # a tenth of the time is for FID, checkpoints and previews
print(stage, max(int(seconds / step), 10), f"{step:.4f}")
PLAN
  done >> "$out/.plan.partial"
  mv "$out/.plan.partial" "$out/plan.txt"
elif [ "$(head -n 1 "$out/plan.txt")" != "minutes $minutes" ]; then
  echo "error: $out was begun with a budget of $(sed -n "1s/minutes //p" "$out/plan.txt") minutes, not $minutes: give that again, or another --out" >&2
  exit 2
fi
echo "== plan for $minutes minutes ($out/plan.txt), by $out/seconds.json (remove it to measure again)"
while read -r stage steps seconds; do
  awk -v stage="$stage" -v steps="$steps" -v seconds="$seconds" -v batch="$batch" \
    'BEGIN { printf "%-12s %8d steps of %d, %9d images, %7.1f minutes expected\n", stage, steps, batch, steps * batch, steps * seconds / 60 }'
done < <(tail -n +2 "$out/plan.txt")
[ -z "$dry_run" ] || exit 0

# ------------------------------------------------------------------------------------------------------------ the stages

while read -r stage steps _ <&3; do
  if [ -f "$out/$stage/done" ]; then
    echo "== $stage: done already"
    continue
  fi
  echo "== $stage"
  evaluate=(--dev_images 0)
  [ -z "$fid" ] || evaluate=(--dev_images "$dev_images" "$((steps > 4 ? steps / 4 : 1))")
  # shellcheck disable=SC2046
  "$python" train.py $(flags_of "$stage") "${common[@]}" "${evaluate[@]}" --batch_size "$batch" --num_iterations "$steps" \
    --save_interval "$((steps > 8 ? steps / 8 : 1))" --save_dir "$out" --run_name "$stage" --auto_resume
  if ! grep -q "\"step\": $steps," "$out/$stage/log.jsonl"; then
    echo "== $stage was interrupted: the same command goes on with it"
    exit 1
  fi
  touch "$out/$stage/done"
done 3< <(tail -n +2 "$out/plan.txt")
echo "== hand in $out/${stages[-1]}/last.ckpt with model_config.json beside it"
